"""Blocks of rows that need not be neighbours: rows of like patterns are put side by side.

The kernel writes each row where it belongs, so the order costs nothing later. Zero rows and columns
take no time: this is how a weight with dead channels is compacted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from .base import FORMATS, Format, Tiling
from .block import GROUP, MOST, Block

SHAPES = ((4, 1), (8, 1))
MIN_GAIN = 0.9
"""At most this share of the numbers that blocks of neighbours store, or it is not worth it."""


@dataclass(frozen=True)
class Sorted(Block):
    """The block kernel with a table of rows."""

    family = "sorted"

    @property
    def _kernels(self) -> str:
        return Block.family

    def stored_bytes(self, rows: int, columns: int, stored: int, tiles: Tiling) -> int:
        return super().stored_bytes(rows, columns, stored, tiles) + -(-4 * rows // 64) * 64

    def _fill(self, facts: Any) -> Any:
        size = (self.rows, self.columns)
        return next((f for f in facts.sorted_fills if (f.rows, f.columns) == size), None)


def parse(name: str) -> Format | None:
    """`sorted_8x1` and the like."""
    match = re.fullmatch(r"sorted_([1-9]\d*)x([1-9]\d*)", name)
    if match is None:
        return None
    rows, columns = int(match[1]), int(match[2])
    fine = max(rows, columns) <= MOST and rows % GROUP == 0
    return Sorted(rows=rows, columns=columns) if fine else None


def suggest(facts: Any) -> tuple[str, ...]:
    """Where sorting fills blocks that neighbours leave emptier."""
    plain = {(f.rows, f.columns): f.stored for f in facts.block_fills}
    return tuple(
        f"sorted_{f.shape}"
        for f in facts.sorted_fills
        if (f.rows, f.columns) in SHAPES and f.stored < MIN_GAIN * plain[f.rows, f.columns]
    )


FORMATS.family(parse, suggest)
