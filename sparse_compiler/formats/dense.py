"""Every number stored: the candidate that is always there."""

from __future__ import annotations

import math

from .base import FORMATS, ConvCopy, ConvShape, LinearShape, Machine

TILE_DEPTH = 384  # columns of the weight per pass over its rows
CONV_TILE_DEPTH = 640  # the same where a kernel has several taps


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

    def conv_ns(self, shape: ConvShape, machine: Machine, threads: int) -> float:
        """Coefficients fitted to `benchmarks/kernels/conv.py`, within 15 %."""
        vectors = dense_vectors(shape.n, machine)
        panels = math.ceil(vectors / 2)
        tiles = math.ceil(shape.columns / (TILE_DEPTH if shape.taps == 1 else CONV_TILE_DEPTH))
        if machine.vector >= 16:
            inner, panel, row = 0.0929, 0.06, 0.724
            copy = ConvCopy(rows=1.31, windows=1.35, strided=2.52, mask=4.3)
        else:
            inner, panel, row = 0.056, 0.133, 0.39
            copy = ConvCopy(rows=0.595, windows=0.628, strided=1.45, mask=7.4)
        numbers = shape.groups * padded_rows(shape.rows // shape.groups, machine) * shape.columns
        compute = numbers * (inner * vectors + panel * panels) + row * shape.rows * tiles * vectors
        busy = (compute / threads + copy.busy_ns(shape, machine, threads)) * machine.slowness
        return max(busy, machine.stream_ns(shape.rows * shape.columns * 4))


def dense_vectors(n: int, machine: Machine) -> float:
    """Vectors of n columns; the last one costs a lane's share where few lanes of it are used."""
    whole, tail = divmod(n, machine.vector)
    few = 4 if machine.vector >= 16 else machine.vector * 3 // 8
    return whole + (0.15 * tail + 0.1 if tail <= few else 1.0) if tail else float(whole)


def padded_rows(rows: int, machine: Machine) -> int:
    """Rows that the kernel computes: whole blocks, the last one in fours (linear_dense.h)."""
    block = 12 if machine.vector >= 16 else 6 if machine.vector >= 8 else 8
    return rows // block * block + min(-(-(rows % block) // 4) * 4, block)


FORMATS.register(Dense.name)(Dense())
