"""N:M, at most N non-zeros in each aligned group of M columns: no row lengths, small indices."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import sympy

from ..ir.refusal import No
from .base import FORMATS, Format, PanelFormat, Tiling, lines
from .cost import VECTORS, T, Terms, ceil_div, k, m, stored

SHAPES = ((1, 4), (2, 4))
MIN_FILL = 0.75
"""Patterns with fewer non-zeros are not worth asking for: csr stores less."""
MOST = 32
"""Columns of a group."""
_TILES = ceil_div(k, 192)


@dataclass(frozen=True)
class Nm(PanelFormat):
    """Rows of one length; their indices are unpacked for the csr kernel (linear_nm.h)."""

    n: int = 2
    m: int = 4

    family = "nm"

    @property
    def parameters(self) -> tuple[int, int]:
        return self.n, self.m

    @property
    def slots(self) -> int:
        """Values of an index: the next power of two, as `nm_slots` in pack.h."""
        return max(2, 1 << (self.m - 1).bit_length())

    @property
    def _sizes(self) -> tuple[int | str, ...]:
        return self.parameters

    @property
    def _terms(self) -> Terms:
        return (
            ("inner", stored * VECTORS / T),
            ("row", m * _TILES * VECTORS / T),
            ("expand", stored / T),
        )

    @property
    def _guess(self) -> tuple[float, ...]:
        return 0.15, 1.0, 0.3

    @property
    def _bytes(self) -> sympy.Expr:
        bits = math.ceil(math.log2(self.slots))
        return (self.value_bytes + sympy.Rational(bits, 8)) * stored

    def ideal_bits(self, rows: int, columns: int, nnz: int, bits: int) -> float:
        """m numbers of N:M groups: m log2 C(M, N) / N bits beside the values, rounded up."""
        return float(nnz * bits + nnz * math.ceil(math.log2(math.comb(self.m, self.n))) / self.n)

    def stored_bytes(self, rows: int, columns: int, stored: int, tiles: Tiling) -> int:
        per_word = 32 // int(math.log2(self.slots))
        words = numbers = 0
        for first in range(0, columns, tiles.k_tile):
            depth = min(tiles.k_tile, columns - first)
            entries = -(-depth // self.m) * self.n
            numbers += entries * rows
            words += -(-entries // per_word) * rows
        return lines(4 * words, self.value_bytes * numbers)

    def fits(self, facts: Any) -> No | None:
        if facts.columns % self.m:
            return No("width", f"groups of {self.m} do not divide {facts.columns} columns")
        found = dict(facts.groups)
        if self.m not in found:
            return No("no_facts", f"counts in groups of {self.m} are not known")
        most = found[self.m]
        if most is None or most > self.n:
            return No("not_n_of_m", f"a group of {self.m} has more than {self.n} non-zeros")
        if facts.nnz == 0:
            return No("no_nonzeros", "the weight has no non-zeros")
        if most < self.n:
            return No("slack", f"no group of {self.m} has more than {most} non-zeros")
        return None

    def stored(self, facts: Any) -> int:
        return int(facts.rows * -(-facts.columns // self.m) * self.n)


def parse(name: str) -> Format | None:
    """`nm_2_4` and the like."""
    match = re.fullmatch(r"nm_([1-9]\d*)_([1-9]\d*)", name)
    if match is None:
        return None
    n, m = int(match[1]), int(match[2])
    return Nm(n=n, m=m) if n <= m <= MOST and m > 1 else None


def suggest(facts: Any) -> tuple[str, ...]:
    """The tightest pattern of each size of group that the weight nearly fills."""
    numel = facts.rows * facts.columns
    return tuple(
        f"nm_{n}_{m}" for m, n in facts.groups if n and facts.nnz * m >= MIN_FILL * n * numel
    )


FORMATS.family(parse, suggest)
for _n, _m in SHAPES:
    FORMATS.register(f"nm_{_n}_{_m}")(Nm(n=_n, m=_m))
