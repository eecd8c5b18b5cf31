"""Blocks of r rows and c columns, whole where they hold a non-zero: r rows share each loaded x."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sympy

from ..ir.refusal import No
from .bands import bands_of
from .base import FORMATS, Format, PanelFormat, Tiling, lines
from .cost import (
    DENSITY,
    VECTORS,
    ConvShape,
    Cost,
    P,
    Shape,
    T,
    Terms,
    W,
    ceil_div,
    k,
    m,
    panels,
    stored,
    sums,
    taps,
)

SHAPES = ((4, 1), (8, 1), (16, 1), (32, 1), (1, 4), (4, 4))
MIN_FILL = 0.4
"""Blocks with a smaller share of non-zeros lose to csr, whose kernel is half as fast at least."""
GROUP = 4  # rows that the kernel takes at a time (kBlockRows in pack.h)
MOST = 64  # rows or columns of a block

_KILOBYTES = sympy.Piecewise((48, DENSITY >= 0.15), (96, DENSITY >= 0.07), (192, True))
_TILES = ceil_div(k, _KILOBYTES * 4)
"""Tiles of the weight's columns, about as `sc_block_tiles` cuts them: 256 bytes a row."""


def block_terms(rows: int) -> Terms:
    """Of the kernel whose blocks have so many rows."""
    return (
        ("inner", stored * VECTORS / T),
        ("row", m * _TILES * VECTORS / T),
        ("start", m / sympy.Min(rows, GROUP) * _TILES * ceil_div(VECTORS * W, 64) / T),
    )


_READ = 6 * W + (sympy.sqrt(taps) - 1) * (sympy.sqrt(P) + 2)
_CHANNELS = sympy.floor(sympy.Piecewise((36, DENSITY >= 0.15), (64, True)) * 256 / _READ)
_FLAT_TILES = ceil_div(k, taps * sympy.Max(1, sympy.Min(64, _CHANNELS)))
"""Tiles of images laid flat, as `flat_channels` of pack_block.cpp cuts them."""


def flat_terms(rows: int) -> Terms:
    """Of images laid flat, their vectors about those of bands of rows."""
    return (
        ("inner", stored * sums / T),
        ("row", m * _FLAT_TILES * sums / T),
        ("start", m / sympy.Min(rows, GROUP) * _FLAT_TILES * ceil_div(sums, 6) / T),
        ("copy", k / taps * (sums + 2 * panels) / T),
    )


FLAT_GUESS = (0.12, 0.5, 20.0, 1.2)
GUESS = (0.075, 0.8, 4.0)
"""The c_i of the terms, for rows that share loaded vectors."""


@dataclass(frozen=True)
class Block(PanelFormat):
    """An index for each block; rows: 1 or a multiple of 4.

    Rows of 4 and more share a kernel; a block of one row is csr with fewer indices.
    """

    rows: int = 4
    columns: int = 1

    family = "block"

    @property
    def parameters(self) -> tuple[int, int]:
        return self.rows, self.columns

    @property
    def _sizes(self) -> tuple[int | str, ...]:
        return (f"{self.rows}x{self.columns}",)

    @property
    def _template(self) -> tuple[int, ...]:
        return min(self.rows, GROUP), self.columns

    @property
    def _timed_as(self) -> str:
        return f"block_{min(self.rows, 8)}"

    @property
    def _terms(self) -> Terms:
        return block_terms(self.rows)

    @property
    def _guess(self) -> tuple[float, ...]:
        return (0.14, 0.8, 1.1) if self.rows == 1 else GUESS

    @property
    def _bytes(self) -> sympy.Expr:
        size = self.rows * self.columns
        return (self.value_bytes + sympy.Rational(2, size)) * stored

    @cached_property
    def flat(self) -> Cost:
        """The cost of convolutions over images laid flat (conv_flat.h)."""
        return Cost(
            f"conv_{self._timed_as}_flat",
            flat_terms(self.rows),
            bytes=self._bytes,
            guess=FLAT_GUESS,
        )

    def cost_of(self, shape: Shape, vector: int) -> Cost | None:
        if self.rows < GROUP or not isinstance(shape, ConvShape):
            return super().cost_of(shape, vector)
        flat = bands_of(shape.rows, shape.image, vector, shape.groups) is not None
        return self.flat if flat else super().cost_of(shape, vector)

    def ideal_bits(self, rows: int, columns: int, nnz: int, bits: int) -> float:
        """As csr of the blocks: nnz numbers in blocks that share an index."""
        blocks = math.ceil(nnz / (self.rows * self.columns))
        wide, high = math.ceil(columns / self.columns), math.ceil(rows / self.rows)
        index = blocks * math.ceil(math.log2(wide)) if wide > 1 else 0
        starts = high * math.ceil(math.log2(blocks)) if blocks > 1 else 0
        return float(nnz * bits + index + starts)

    def stored_bytes(self, rows: int, columns: int, stored: int, tiles: Tiling) -> int:
        cuts, blocks = -(-columns // tiles.k_tile), -(-rows // tiles.row_block)
        starts = (8 * (blocks + 1), 8 * (cuts * blocks + 1), 4 * cuts * -(-rows // self.rows))
        index = 2 * stored // (self.rows * self.columns)
        return lines(*starts, index, self.value_bytes * stored)

    def fits(self, facts: Any) -> No | None:
        shape = f"{self.rows}x{self.columns}"
        if facts.columns % self.columns:
            return No("width", f"blocks of {shape} do not divide {facts.columns} columns")
        fill = self._fill(facts)
        if fill is None:
            return No("no_facts", f"the fill of blocks of {shape} is not known")
        if fill.blocks == 0:
            return No("no_nonzeros", "the weight has no non-zeros")
        if fill.fill < MIN_FILL:
            return No("low_fill", f"blocks of {shape} would be {fill.fill:.0%} full")
        return None

    def stored(self, facts: Any) -> int:
        fill = self._fill(facts)
        return int(facts.nnz if fill is None else fill.stored)

    def _fill(self, facts: Any) -> Any:
        size = (self.rows, self.columns)
        return next((f for f in facts.block_fills if (f.rows, f.columns) == size), None)


def parse(name: str) -> Format | None:
    """`block_8x1` and the like."""
    match = re.fullmatch(r"block_([1-9]\d*)x([1-9]\d*)", name)
    if match is None:
        return None
    rows, columns = int(match[1]), int(match[2])
    fine = max(rows, columns) <= MOST and (rows == 1 or rows % GROUP == 0)
    return Block(rows=rows, columns=columns) if fine else None


def suggest(facts: Any) -> tuple[str, ...]:
    """The block shape that the facts name."""
    return () if facts.block is None else (f"block_{facts.block.shape}",)


FORMATS.family(parse, suggest)
for _rows, _columns in SHAPES:
    FORMATS.register(f"block_{_rows}x{_columns}")(Block(rows=_rows, columns=_columns))
