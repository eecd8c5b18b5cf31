"""Compressed sparse rows: the non-zeros of each row with their columns, tile by tile."""

from __future__ import annotations

import math
from typing import Any

import sympy

from .bands import bands_of
from .base import FORMATS, Format, Tiling, lines
from .cost import (
    CONV_COPIES,
    DENSITY,
    VECTORS,
    ConvShape,
    Cost,
    Shape,
    T,
    W,
    ceil_div,
    k,
    m,
    nnz,
    panels,
    sums,
    taps,
)
from .decode import DECODE_INDEX

BYTES_PER_NONZERO = 6  # a 16-bit index and a 32-bit value


def _by_density(dense: int, middle: int, sparse: int) -> sympy.Expr:
    return sympy.Piecewise(
        (dense, DENSITY >= 0.15), (middle, DENSITY >= 0.07), (sparse, DENSITY >= 0.03), (192, True)
    )


def _panels(good: Any) -> sympy.Expr:
    """Panels of about so many vectors, at most 8, as `even_panels` in pack_common.h counts them."""
    rounded = sympy.floor((VECTORS + sympy.floor(good / 2) - 1) / good)
    return sympy.Max(1, rounded, ceil_div(VECTORS, 8))


_GOOD = sympy.Max(1, sympy.floor(64 / W))
"""Vectors of a panel."""
_PANELS = _panels(_GOOD)
_BETWEEN = (DENSITY >= 0.03) & (DENSITY < 0.07)
_LINEAR_PANELS = sympy.Piecewise((_panels(4), _BETWEEN & sympy.Eq(W, 8)), (_PANELS, True))
_NARROW = sympy.Piecewise(
    (128, DENSITY >= 0.15),
    (192, DENSITY >= 0.07),
    (512, _BETWEEN & sympy.Eq(W, 8)),
    (256, _BETWEEN & (W > 8)),
    (768, True),
)
"""Columns of the weight per tile, as `linear_tiles` in pack_csr.cpp chooses them."""
_LINEAR_TILES = ceil_div(k, _NARROW)

_WIDE = sympy.Eq(taps, 1) & sympy.Eq(W, 16) & ((k <= 96) | ((DENSITY >= 0.15) & (k >= 192)))
"""Whether `conv_tiles` takes panels of 7 vectors: what they cost in tiles is little."""
_KILOBYTES = sympy.Piecewise(
    (42, _WIDE),
    (_by_density(32, 48, 128), sympy.Eq(taps, 1) & sympy.Eq(W, 8)),
    (_by_density(56, 80, 128), sympy.Eq(taps, 1)),
    (_by_density(37, 60, 120), W > 8),
    (_by_density(32, 110, 192), sympy.Eq(W, 8)),
    (_by_density(48, 110, 192), True),
)
_CONV_PANELS = sympy.Piecewise(
    (_panels(7), _WIDE),
    (ceil_div(VECTORS, _GOOD), (taps > 1) & (VECTORS > 6 * _GOOD)),
    (_PANELS, True),
)
_ROW_BYTES = 4 * W * ceil_div(VECTORS, _CONV_PANELS)
"""Of a panel."""
_CONV_TILES = ceil_div(k, taps * sympy.Max(1, sympy.floor(_KILOBYTES * 1024 / _ROW_BYTES / taps)))
"""Tiles of the weight's columns, about as `conv_tiles` cuts them."""
_BAND_TILES = ceil_div(
    k, 9 * sympy.Piecewise((64, sympy.Ne(W, 8)), (32, DENSITY >= 0.15), (48, True))
)
"""As `_band_columns`."""
_PADDING = 4.5  # zeros of a row of a tile in bands

CONV_BANDS = Cost(
    "conv_csr_bands",
    (
        ("inner", (nnz + _PADDING * m * _BAND_TILES) * sums / T),
        ("row", m * _BAND_TILES * sums / T),
        ("start", m * _BAND_TILES * panels / T),
        ("copy", k / 9 * (sums + 2 * panels) / T),
    ),
    bytes=BYTES_PER_NONZERO * nnz,
    guess=(0.15, 1.5, 30.0, 1.0),
)
"""3 x 3 over bands of image rows (conv_bands.h), in tiles of `_band_columns`."""


def _band_columns(shape: ConvShape, vector: int) -> int:
    """Most columns of a tile: 64 channels, fewer where first caches have 32 KB."""
    dense = shape.nnz >= 0.15 * shape.rows * shape.columns
    return 9 * (64 if vector != 8 else 32 if dense else 48)


def _in_bands(shape: ConvShape, vector: int) -> bool:
    """Whether `conv_tiles` in pack_csr.cpp sorts by columns of the kernel."""
    tile = min(shape.columns, _band_columns(shape, vector))
    deep = shape.columns % 36 == 0 and shape.nnz * tile >= 24 * shape.rows * shape.columns
    return deep and bands_of(shape.rows, shape.image, vector, shape.groups) is not None


class Csr(Format):
    """Any pattern. 16-bit columns within a tile, rows sorted by their count."""

    family = "csr"
    decode = DECODE_INDEX
    linear = Cost(
        "linear_csr",
        (
            ("inner", nnz * VECTORS / T),
            ("panel", nnz * _LINEAR_PANELS / T),
            ("row", m * _LINEAR_TILES * VECTORS / T),
            ("start", m * _LINEAR_TILES * _LINEAR_PANELS / T),
            ("copy", k * VECTORS),
        ),
        bytes=BYTES_PER_NONZERO * nnz,
    )
    conv = Cost(
        "conv_csr",
        (
            ("inner", nnz * VECTORS / T),
            ("panel", nnz * _CONV_PANELS / T),
            ("row", m * _CONV_TILES * VECTORS / T),
            ("start", m * _CONV_TILES * _CONV_PANELS / T),
            *CONV_COPIES,
        ),
        bytes=BYTES_PER_NONZERO * nnz,
    )

    def cost_of(self, shape: Shape, vector: int) -> Cost | None:
        if isinstance(shape, ConvShape) and _in_bands(shape, vector):
            return CONV_BANDS
        return super().cost_of(shape, vector)

    def ideal_bits(self, rows: int, columns: int, nnz: int, bits: int) -> float:
        index = nnz * math.ceil(math.log2(columns)) if columns > 1 else 0
        starts = rows * math.ceil(math.log2(nnz)) if nnz > 1 else 0
        return float(nnz * bits + index + starts)

    def stored_bytes(self, rows: int, columns: int, stored: int, tiles: Tiling) -> int:
        cuts, blocks = -(-columns // tiles.k_tile), -(-rows // tiles.row_block)
        starts = (8 * (blocks + 1), 8 * (cuts * blocks + 1), 4 * cuts * rows)
        by_columns = 6 * cuts * rows if tiles.p else 0  # three counts for each row of a tile
        return lines(*starts, by_columns, 2 * stored, self.value_bytes * max(stored, 4))


FORMATS.register("csr")(Csr())
