"""Lossless splits: a weight as the sum of two that share no non-zero, dense rows or columns, or
N:M groups, and the sparse rest as csr.

Both are applied one after the other to the same sums (linear_split.h).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..ir.refusal import No
from .base import FORMATS, Format, PanelFormat, Tiling, lines
from .compact import Compact
from .cost import Cost, SumOfCosts, apart, nnz, stored
from .csr import Csr
from .nm import Nm

_ROWS = Compact()
MOST_BEYOND = 0.05
"""Exceptions from N:M are worth a split where they are at most this share of the non-zeros."""
MIN_CONTRAST = 2.0
"""Rows or columns stand out where they are so many times as full as the others."""


@dataclass
class _Tiles:
    """Of csr without parameters."""

    k_tile: int
    row_block: int
    p: int = 0


@dataclass(frozen=True)
class Split(Format):
    """`first`: rows or columns that are at least half full (stored whole), or the first N non-zeros
    of each M columns; csr for the rest."""

    first: Compact | Nm = _ROWS

    family = "split"

    @property
    def stem(self) -> str:
        return f"{self.first.stem}_{self._rest.stem}"

    @property
    def parameters(self) -> tuple[int, int]:
        return self.first.parameters

    @property
    def _template(self) -> tuple[int, ...]:
        return (int(isinstance(self.first, Nm)),)

    @cached_property
    def _own(self) -> PanelFormat:
        """The first part, its numbers stored as this format's are."""
        return replace(self.first, values=self.values)

    @cached_property
    def _rest(self) -> Csr:
        return replace(Csr(), values=self.values)

    @cached_property
    def linear(self) -> Cost:
        return _sum(f"linear_{self.stem}", self._own.linear, self._rest.linear)

    @cached_property
    def conv(self) -> Cost:
        return _sum(f"conv_{self.stem}", self._own.conv, self._rest.conv)

    def ideal_bits(
        self, rows: int, columns: int, nnz: int, bits: int, apart: int | None = None
    ) -> float:
        """Of both parts; apart: numbers that the first stores, all of `nnz` if it is not said."""
        first = nnz if apart is None else apart
        parts = ((self._own, first), (self._rest, nnz - first))
        return sum(part.ideal_bits(rows, columns, count, bits) for part, count in parts)

    def ideal_bits_of(self, facts: Any, bits: int) -> float:
        sizes = facts.rows, facts.columns, self.stored(facts)
        return self.ideal_bits(*sizes, bits, self.apart(facts))

    def stored_bytes(
        self, rows: int, columns: int, stored: int, tiles: Tiling, apart: int | None = None
    ) -> int:
        """Of a header, both parts, and the prefix; apart: as in `ideal_bits`."""
        first = stored if apart is None else apart
        plain = _Tiles(tiles.k_tile, tiles.row_block)
        head = lines(8 * (-(-rows // tiles.row_block) + 1))
        own = self._own.stored_bytes(rows, columns, first, tiles)
        return head + own + self._rest.stored_bytes(rows, columns, stored - first, plain)

    def fits(self, facts: Any) -> No | None:
        if isinstance(self.first, Nm) and facts.columns % self.first.m:
            return No("width", f"groups of {self.first.m} do not divide {facts.columns} columns")
        counts = self._counts(facts)
        if counts is None:
            return No("no_facts", f"what {self.first.stem} would leave over is not known")
        first, rest = counts
        if first == 0 or rest == 0:
            return No("no_split", f"{'nothing' if first == 0 else 'all'} fits {self.first.stem}")
        return None

    def stored(self, facts: Any) -> int:
        counts = self._counts(facts)
        return int(facts.nnz if counts is None else sum(counts))

    def apart(self, facts: Any) -> int:
        counts = self._counts(facts)
        return 0 if counts is None else counts[0]

    def _counts(self, facts: Any) -> tuple[int, int] | None:
        """Numbers that each part stores; None where the facts do not say."""
        if isinstance(self.first, Nm):
            over = {(n, m): count for n, m, count in facts.beyond}.get(self.first.parameters)
            return None if over is None else (self.first.stored(facts), over)
        if self.first.by_rows:
            return facts.full_rows * facts.columns, facts.nnz - facts.full_row_nnz
        return facts.full_columns * facts.rows, facts.nnz - facts.full_column_nnz


def _sum(name: str, first: Cost, rest: Cost) -> SumOfCosts:
    """A sum's terms: those of the first over `apart`, those of the rest over what is left."""
    left = {nnz: stored - apart, stored: stored - apart}
    terms: list[tuple[str, Any]] = []
    for part, numbers in ((first, {stored: apart}), (rest, left)):
        terms += [(f"{part.kernel}: {n}", _over(e, numbers)) for n, e in part.terms]
    size = _over(first.bytes, {stored: apart}) + _over(rest.bytes, left)
    return SumOfCosts(name, tuple(terms), bytes=size, parts=(first, rest))


def _over(expression: Any, numbers: dict[Any, Any]) -> Any:
    return expression.xreplace(numbers)


def parse(name: str) -> Format | None:
    """`rows_csr`, `columns_csr`, `nm_2_4_csr` and the like."""
    stem, _, rest = name.rpartition("_")
    if rest != Csr.family or stem not in FORMATS:
        return None
    first = FORMATS[stem]
    if not isinstance(first, Compact | Nm) or first.values != "fp32":
        return None
    return Split(first=first)


def suggest(facts: Any) -> Iterable[str]:
    """Where rows, columns or groups stand out."""
    sizes = (("rows", facts.rows, facts.full_rows, facts.full_row_nnz),
             ("columns", facts.columns, facts.full_columns, facts.full_column_nnz))  # fmt: skip
    for name, count, full, inside in sizes:
        left = facts.nnz - inside
        if full and left and inside * (count - full) >= MIN_CONTRAST * left * full:
            yield f"{name}_csr"
    for n, m, over in facts.beyond:
        if 0 < over <= MOST_BEYOND * facts.nnz:
            yield f"nm_{n}_{m}_csr"


FORMATS.family(parse, suggest)
