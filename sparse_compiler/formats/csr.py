"""Compressed sparse rows: the non-zeros of each row with their columns, tile by tile."""

from __future__ import annotations

import math

from .base import FORMATS, LinearShape, Machine

BYTES_PER_NONZERO = 6  # a 16-bit index and a 32-bit value
CAUTION = 1.05  # the fit may err by this much; dense wins a tie


class Csr:
    """Any pattern. 16-bit columns within a tile, rows sorted by their count."""

    name = "csr"

    def ideal_bits(self, rows: int, columns: int, nnz: int, bits: int) -> float:
        index = nnz * math.ceil(math.log2(columns)) if columns > 1 else 0
        starts = rows * math.ceil(math.log2(nnz)) if nnz > 1 else 0
        return float(nnz * bits + index + starts)

    def linear_ns(self, shape: LinearShape, machine: Machine, threads: int) -> float:
        """Coefficients fitted to `benchmarks/kernels/linear.cpp`, within about 12 %."""
        vectors = -(-shape.n // machine.vector)
        good = max(1, 64 // machine.vector)  # vectors of a panel
        panels = max((vectors + good // 2 - 1) // good, 1, math.ceil(vectors / 8))
        tiles = math.ceil(shape.columns / tile_depth(shape, machine))
        if machine.vector >= 16:
            inner, panel, row, start, copy = 0.1285, 0.123, 0.813, 1.142, 1.51
        else:
            inner, panel, row, start, copy = 0.133, 0.097, 0.44, 0.76, 0.70
        compute = shape.nnz * (inner * vectors + panel * panels)
        compute += shape.rows * tiles * (row * vectors + start * panels)
        busy = (compute / threads + copy * shape.columns * vectors) * machine.slowness
        return CAUTION * max(busy, machine.stream_ns(shape.nnz * BYTES_PER_NONZERO))


def tile_depth(shape: LinearShape, machine: Machine) -> int:
    """Columns of the weight per tile, as `sc_csr_default_tiles` in pack.cpp chooses them."""
    density = shape.nnz / max(1, shape.rows * shape.columns)
    if density >= 0.15:
        return 128
    if density >= 0.07:
        return 192
    return 256 if density >= 0.03 and machine.vector > 8 else 768


FORMATS.register(Csr.name)(Csr())
