"""Every number stored: the candidate that is always there."""

from __future__ import annotations

import math

from .base import FORMATS, LinearShape, Machine

TILE_DEPTH = 384  # columns of the weight per pass over its rows


class Dense:
    """Blocks of rows that share each loaded vector of activations; no index."""

    name = "dense"

    def ideal_bits(self, rows: int, columns: int, nnz: int, bits: int) -> float:
        return float(rows * columns * bits)

    def linear_ns(self, shape: LinearShape, machine: Machine, threads: int) -> float:
        """Coefficients fitted to `benchmarks/kernels/linear.cpp`, within 1 %, per vector width."""
        vectors = -(-shape.n // machine.vector)
        panels = math.ceil(vectors / 2)
        tiles = math.ceil(shape.columns / TILE_DEPTH)
        numbers = shape.rows * shape.columns
        if machine.vector >= 16:
            inner, panel, copy, row = 0.0550, 0.0300, 0.94, 21.1
        else:
            inner, panel, copy, row = 0.0394, 0.0927, 0.42, 15.1
        compute = numbers * (inner * vectors + panel * panels) + row * shape.rows * tiles * vectors
        once = copy * shape.columns * vectors  # every thread copies the activations
        busy = (compute / threads + once) * machine.slowness
        return max(busy, machine.stream_ns(numbers * 4))


FORMATS.register(Dense.name)(Dense())
