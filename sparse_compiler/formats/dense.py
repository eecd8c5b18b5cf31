"""Every number stored: the candidate that is always there."""

from __future__ import annotations

from typing import Any

import sympy

from .base import FORMATS, Format, Tiling, lines
from .cost import (
    CONV_COPIES,
    VECTORS,
    ConvShape,
    Cost,
    P,
    Shape,
    T,
    W,
    ceil_div,
    groups,
    k,
    m,
    taps,
)
from .decode import DECODE_DENSE

TILE_DEPTH = 384  # columns of the weight per pass over its rows
CONV_TILE_DEPTH = 640  # the same where a kernel has several taps
NARROW_TILE_DEPTH = 512  # or one, with vectors of 8

_TAIL = sympy.Mod(P, W)
_FEW = sympy.Or(
    sympy.And(W >= 16, _TAIL <= 4),
    sympy.And(W < 16, sympy.floor(W * 3 / 8) >= _TAIL),
)
_VECTORS = sympy.floor(P / W) + sympy.Piecewise(
    (0, sympy.Eq(_TAIL, 0)), (0.15 * _TAIL + 0.1, _FEW), (1, True), evaluate=False
)
"""The last vector costs a lane's share where few lanes of it are used."""

_BLOCK = sympy.Piecewise((12, W >= 16), (6, W >= 8), (8, True))
_REST = sympy.Mod(m / groups, _BLOCK)
_ROWS = groups * (
    sympy.floor(m / groups / _BLOCK) * _BLOCK + sympy.Min(4 * ceil_div(_REST, 4), _BLOCK)
)
"""Rows that the kernel computes: whole blocks, the last one in fours (linear_dense.h)."""

_LINEAR_TILES = ceil_div(k, TILE_DEPTH)
_CONV_TILES = sympy.Piecewise(
    (ceil_div(k, CONV_TILE_DEPTH), taps > 1),
    (ceil_div(k, NARROW_TILE_DEPTH), sympy.Eq(W, 8)),
    (_LINEAR_TILES, True),
)


WINOGRAD_CHANNELS = 32
"""Inputs and outputs each, from which on a 3 x 3 convolution goes by Winograd's algorithm."""
WINOGRAD_LINE = 7
"""Height and width of an image, from which on it does."""

CONV_WINOGRAD = Cost(
    "conv_winograd",
    (
        ("products", m * (k / 9) * 4 * VECTORS / T),
        ("inputs", k / 9 * VECTORS / T),
        ("outputs", m * VECTORS / T),
    ),
    bytes=4 * m * (k / 9) * 16,
    guess=(0.14, 4.0, 2.0),
)
"""A 3 x 3 convolution of stride 1 in tiles of 2 x 2 (winograd.h): 16 products for 4 outputs."""


CONV_STEM = Cost(
    "conv_stem",
    (("products", m * k * VECTORS / T), ("outputs", m * VECTORS / T)),
    bytes=4 * m * k,
    guess=(0.13, 2.3),
)
"""A first convolution of stride 2 (stem.h), which takes the lines of its few inputs apart once."""

STEM_CHANNELS, STEM_COLUMNS = 8, 256
"""Most inputs, and least outputs of each image, about as `lowering/dense_conv.py` has it."""


def _stem(shape: ConvShape) -> bool:
    few = shape.columns <= STEM_CHANNELS * shape.taps and shape.groups == 1
    return few and shape.strided and shape.n >= STEM_COLUMNS


def _winograd(shape: ConvShape) -> bool:
    wide = min(shape.rows, shape.columns // 9) >= WINOGRAD_CHANNELS
    large = min(shape.image, default=0) >= WINOGRAD_LINE
    return shape.groups == 1 and wide and large


class Dense(Format):
    """Blocks of rows that share each loaded vector of activations; no index."""

    family = "dense"
    decode = DECODE_DENSE
    linear = Cost(
        "linear_dense",
        (
            ("inner", m * k * VECTORS / T),
            ("panel", m * k * ceil_div(VECTORS, 2) / T),
            ("row", m * _LINEAR_TILES * VECTORS / T),
            ("copy", k * VECTORS),
        ),
        bytes=4 * m * k,
    )
    conv = Cost(
        "conv_dense",
        (
            ("inner", _ROWS * k * _VECTORS / T),
            ("panel", _ROWS * k * ceil_div(VECTORS, 2) / T),
            ("row", m * _CONV_TILES * VECTORS / T),
            *CONV_COPIES,
        ),
        bytes=4 * m * k,
    )

    def cost_of(self, shape: Shape, vector: int) -> Cost | None:
        if isinstance(shape, ConvShape) and _stem(shape):
            return CONV_STEM
        if isinstance(shape, ConvShape) and self.values == "fp32" and _winograd(shape):
            return CONV_WINOGRAD
        return super().cost_of(shape, vector)

    def ideal_bits(self, rows: int, columns: int, nnz: int, bits: int) -> float:
        return float(rows * columns * bits)

    def stored_bytes(self, rows: int, columns: int, stored: int, tiles: Tiling) -> int:
        padded = -(-rows // tiles.row_block) * tiles.row_block
        return lines(padded * columns * self.value_bytes + 16)

    def stored(self, facts: Any) -> int:
        return int(facts.rows * facts.columns)


FORMATS.register("dense")(Dense())
