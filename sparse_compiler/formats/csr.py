"""Compressed sparse rows: the non-zeros of each row with their columns, tile by tile."""

from __future__ import annotations

import math

from .base import FORMATS, LinearShape, Machine

SHARE_OF_PEAK = 0.62
ROW_NS = 6.0  # start and end of a row in one panel of columns
PANEL_VECTORS = 8
BYTES_PER_NONZERO = 6  # a 16-bit index and a 32-bit value


class Csr:
    """Any pattern. 16-bit columns within a tile, rows sorted by their count."""

    name = "csr"

    def ideal_bits(self, rows: int, columns: int, nnz: int, bits: int) -> float:
        index = nnz * math.ceil(math.log2(columns)) if columns > 1 else 0
        starts = rows * math.ceil(math.log2(nnz)) if nnz > 1 else 0
        return float(nnz * bits + index + starts)

    def linear_ns(self, shape: LinearShape, machine: Machine, threads: int) -> float:
        vectors = -(-shape.n // machine.vector)
        panels = -(-vectors // PANEL_VECTORS)
        compute = shape.nnz * vectors * machine.fma_ns / SHARE_OF_PEAK
        compute += shape.rows * panels * ROW_NS
        return max(compute / threads, shape.nnz * BYTES_PER_NONZERO / machine.bytes_per_ns)


FORMATS.register(Csr.name)(Csr())
