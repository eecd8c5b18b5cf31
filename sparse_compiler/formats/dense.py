"""Every number stored: the candidate that is always there."""

from __future__ import annotations

from .base import FORMATS, LinearShape, Machine

SHARE_OF_PEAK = 0.85


class Dense:
    """Blocks of rows that share each loaded vector of activations; no index."""

    name = "dense"

    def ideal_bits(self, rows: int, columns: int, nnz: int, bits: int) -> float:
        return float(rows * columns * bits)

    def linear_ns(self, shape: LinearShape, machine: Machine, threads: int) -> float:
        vectors = -(-shape.n // machine.vector)
        numbers = shape.rows * shape.columns
        compute = numbers * vectors * machine.fma_ns / SHARE_OF_PEAK / threads
        return max(compute, numbers * 4 / machine.bytes_per_ns)


FORMATS.register(Dense.name)(Dense())
