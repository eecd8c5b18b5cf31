"""Zero rows or columns left out, and all numbers of the others: a smaller dense matrix and a list.

Dead channels that nothing needs leave the model before (`eliminate_dead_channels`); this serves the
weights whose zero rows or columns the rest of the model still has to see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import sympy

from ..ir.refusal import No
from .base import FORMATS, Format, PanelFormat, Tiling, lines
from .block import GROUP, GUESS, MIN_FILL, block_terms
from .cost import Terms, stored

NAMES = ("columns", "rows")


@dataclass(frozen=True)
class Compact(PanelFormat):
    """The block kernel with one list of columns for all rows. by_rows: zero rows are left out,
    or else zero columns."""

    by_rows: bool = True

    family = "compact"

    @property
    def stem(self) -> str:
        return NAMES[self.by_rows]

    @property
    def parameters(self) -> tuple[int, int]:
        return int(self.by_rows), int(not self.by_rows)

    @property
    def _timed_as(self) -> str:
        return f"block_{GROUP}"

    @property
    def _terms(self) -> Terms:
        return block_terms(GROUP)

    @property
    def _guess(self) -> tuple[float, ...]:
        return GUESS

    @property
    def _bytes(self) -> sympy.Expr:
        return self.value_bytes * stored

    def ideal_bits(self, rows: int, columns: int, nnz: int, bits: int) -> float:
        """Coordinates of blocks, each a whole row or column: m k + m / size * log2(places)."""
        size, places = (columns, rows) if self.by_rows else (rows, columns)
        return float(nnz * bits + math.ceil(nnz / size) * math.ceil(math.log2(places)))

    def stored_bytes(self, rows: int, columns: int, stored: int, tiles: Tiling) -> int:
        cuts, blocks = -(-columns // tiles.k_tile), -(-rows // tiles.row_block)
        order, kept = (4 * rows, columns) if self.by_rows else (0, stored // rows)
        return lines(8 * (blocks + 1), 8 * (cuts + 1), order, 2 * kept, self.value_bytes * stored)

    def fits(self, facts: Any) -> No | None:
        dead = facts.zero_rows if self.by_rows else facts.zero_columns
        if facts.nnz == 0:
            return No("no_nonzeros", "the weight has no non-zeros")
        if dead == 0:
            return No("none_dead", f"none of the {self.stem} of the weight is zero")
        fill = facts.nnz / self.stored(facts)
        if fill < MIN_FILL:
            return No("low_fill", f"the other {self.stem} would be {fill:.0%} full")
        return None

    def stored(self, facts: Any) -> int:
        if self.by_rows:
            return int((facts.rows - facts.zero_rows) * facts.columns)
        return int(facts.rows * (facts.columns - facts.zero_columns))


def parse(name: str) -> Format | None:
    """`rows` and `columns`."""
    return Compact(by_rows=name == "rows") if name in NAMES else None


def suggest(facts: Any) -> tuple[str, ...]:
    """Where there are zero rows or columns."""
    dead = facts.zero_columns, facts.zero_rows
    return tuple(name for name, count in zip(NAMES, dead, strict=True) if count)


FORMATS.family(parse, suggest)
