"""Compressed sparse rows: the non-zeros of each row with their columns, tile by tile."""

from __future__ import annotations

import math

from .base import FORMATS, ConvCopy, ConvShape, LinearShape, Machine

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

    def conv_ns(self, shape: ConvShape, machine: Machine, threads: int) -> float:
        """Coefficients fitted to `benchmarks/kernels/conv.py`.

        Within 20 %; a first layer of 3 channels, which hides behind its windows, within 30 %.
        """
        vectors = -(-shape.n // machine.vector)
        panels = -(-vectors // max(1, 64 // machine.vector))
        tiles = conv_tiles(shape, machine)
        if machine.vector >= 16:
            inner, panel, row, start = 0.162, 0.0, 0.831, 0.795
            copy = ConvCopy(rows=1.04, windows=0.81, strided=2.1, mask=2.9)
        else:
            inner, panel, row, start = 0.0886, 0.436, 0.453, 0.0
            copy = ConvCopy(rows=0.657, windows=0.463, strided=1.27, mask=4.7)
        compute = shape.nnz * (inner * vectors + panel * panels)
        compute += shape.rows * tiles * (row * vectors + start * panels)
        busy = (compute / threads + copy.busy_ns(shape, machine, threads)) * machine.slowness
        return CAUTION * max(busy, machine.stream_ns(shape.nnz * BYTES_PER_NONZERO))


def conv_tiles(shape: ConvShape, machine: Machine) -> int:
    """Tiles of the weight's columns, as `sc_csr_conv_tiles` in pack.cpp cuts them."""
    density = shape.nnz / max(1, shape.rows * shape.columns)
    if shape.taps == 1:
        limits = (56, 80, 128)
    else:
        limits = (37, 60, 120) if machine.vector > 8 else (48, 110, 192)
    least = next((i for i, d in enumerate((0.15, 0.07, 0.03)) if density >= d), None)
    kilobytes = 192 if least is None else limits[least]
    channels = max(1, kilobytes * 1024 // 256 // shape.taps)  # a row of a panel: 256 bytes
    return max(1, math.ceil(shape.columns / shape.taps / channels))


def tile_depth(shape: LinearShape, machine: Machine) -> int:
    """Columns of the weight per tile, as `sc_csr_default_tiles` in pack.cpp chooses them."""
    density = shape.nnz / max(1, shape.rows * shape.columns)
    if density >= 0.15:
        return 128
    if density >= 0.07:
        return 192
    return 256 if density >= 0.03 and machine.vector > 8 else 768


FORMATS.register(Csr.name)(Csr())
