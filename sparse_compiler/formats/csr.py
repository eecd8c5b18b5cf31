"""Compressed sparse rows: the non-zeros of each row with their columns, tile by tile."""

from __future__ import annotations

import math

import sympy

from .base import FORMATS, Format, Tiling, lines
from .cost import CONV_COPIES, DENSITY, VECTORS, Cost, T, W, ceil_div, k, m, nnz, taps
from .decode import DECODE_INDEX

BYTES_PER_NONZERO = 6  # a 16-bit index and a 32-bit value

_GOOD = sympy.Max(1, sympy.floor(64 / W))
"""Vectors of a panel."""
_PANELS = sympy.Max(
    1, sympy.floor((VECTORS + sympy.floor(_GOOD / 2) - 1) / _GOOD), ceil_div(VECTORS, 8)
)
_NARROW = sympy.Piecewise(
    (128, DENSITY >= 0.15),
    (192, DENSITY >= 0.07),
    (256, (DENSITY >= 0.03) & (W > 8)),
    (768, True),
)
"""Columns of the weight per tile, as `sc_csr_default_tiles` in pack.cpp chooses them."""
_LINEAR_TILES = ceil_div(k, _NARROW)


def _by_density(dense: int, middle: int, sparse: int) -> sympy.Expr:
    return sympy.Piecewise(
        (dense, DENSITY >= 0.15), (middle, DENSITY >= 0.07), (sparse, DENSITY >= 0.03), (192, True)
    )


_KILOBYTES = sympy.Piecewise(
    (_by_density(56, 80, 128), sympy.Eq(taps, 1)),
    (_by_density(37, 60, 120), W > 8),
    (_by_density(48, 110, 192), True),
)
_CONV_TILES = ceil_div(k, taps * sympy.Max(1, sympy.floor(_KILOBYTES * 4 / taps)))
"""Tiles of the weight's columns, about as `sc_csr_tiles` cuts them: 256 bytes a row of a panel."""
_CONV_PANELS = ceil_div(VECTORS, _GOOD)


class Csr(Format):
    """Any pattern. 16-bit columns within a tile, rows sorted by their count."""

    family = "csr"
    decode = DECODE_INDEX
    linear = Cost(
        "linear_csr",
        (
            ("inner", nnz * VECTORS / T),
            ("panel", nnz * _PANELS / T),
            ("row", m * _LINEAR_TILES * VECTORS / T),
            ("start", m * _LINEAR_TILES * _PANELS / T),
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
