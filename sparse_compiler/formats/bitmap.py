"""A bit for each weight, and the non-zeros: the smallest form from 20 to 97 % density."""

from __future__ import annotations

from typing import Any

from ..ir.refusal import No
from .base import FORMATS, Format, Tiling, lines
from .cost import Cost, T, k, m, nnz
from .csr import Csr
from .decode import DECODE_BITMAP

_EXPAND = 1.2  # nanoseconds of a bit that becomes an index


class Bitmap(Format):
    """The csr kernel on indices that are made from the bits, row block by row block."""

    family = "bitmap"
    decode = DECODE_BITMAP
    linear = Cost(
        "linear_bitmap",
        (*Csr.linear.terms, ("expand", nnz / T)),
        bytes=4 * nnz + m * k / 8,
        guess=(0.1285, 0.123, 0.813, 1.142, 1.51, _EXPAND),
    )
    conv = Cost(
        "conv_bitmap",
        (*Csr.conv.terms, ("expand", nnz / T)),
        bytes=4 * nnz + m * k / 8,
        guess=(0.162, 0.0, 0.831, 0.795, 1.04, 0.81, 2.1, 2.9, _EXPAND),
    )

    def ideal_bits(self, rows: int, columns: int, nnz: int, bits: int) -> float:
        return float(nnz * bits + rows * columns)

    def stored_bytes(self, rows: int, columns: int, stored: int, tiles: Tiling) -> int:
        cuts, blocks = -(-columns // tiles.k_tile), -(-rows // tiles.row_block)
        starts = (8 * (blocks + 1), 8 * (cuts * blocks + 1), 4 * cuts * rows)
        return lines(*starts, 8 * rows * -(-columns // 64), self.value_bytes * stored)

    def fits(self, facts: Any) -> No | None:
        return No("no_nonzeros", "the weight has no non-zeros") if facts.nnz == 0 else None


FORMATS.register("bitmap")(Bitmap())
