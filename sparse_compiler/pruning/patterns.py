"""Patterns: which weights of a matrix [rows = outputs, columns] live and die together.

Most patterns cut the matrix in units (elements, blocks, rows); a scope ranks the units. N:M ranks
inside its groups instead and leaves a scope nothing to choose. Adding a pattern adds a class here
and a line to `parse_pattern`.
"""

from __future__ import annotations

import abc
import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from sparse_compiler.errors import UnsupportedError
from sparse_compiler.pruning.scopes import Scope

EXAMPLES = ("2:4", "4:8", "4x1", "8x1", "1x4", "4x4", "16x16")
NAMES = ("unstructured", "channel", "neuron", "head")


class Pattern(abc.ABC):
    """Scores to masks: both [rows, columns], scores >= 0, masks bool, True is kept.

    grouped: units may run through several layers, see `groups`; rows_alone: without groups they
    are rows of each layer by itself.
    """

    grouped: ClassVar[bool] = False
    rows_alone: ClassVar[bool] = False

    @property
    def fixed_sparsity(self) -> float | None:
        """The sparsity that the pattern itself dictates; None if it is free."""
        return None

    def misfit(self, rows: int, columns: int) -> str:
        """Why a matrix of this shape cannot take the pattern; "" if it can."""
        return ""

    @abc.abstractmethod
    def masks(
        self,
        scores: Iterable[torch.Tensor],
        live: Iterable[torch.Tensor],
        shares: Sequence[float],
        scope: Scope,
    ) -> Iterator[torch.Tensor]:
        """One mask per matrix, within `live`: what is dead (False there) goes first and stays.

        shares: of the units to drop, one number per matrix. Masks come one by one: the scores of a
        matrix are asked for when its mask is, unless the scope compares matrices.
        """


class Units(Pattern):
    """A pattern of units that are kept or dropped whole."""

    @abc.abstractmethod
    def reduce(self, matrix: torch.Tensor) -> torch.Tensor:
        """[rows, columns] of values >= 0 -> one value per unit, of any shape."""

    @abc.abstractmethod
    def expand(self, units: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """The inverse way: a bool per unit -> bool [rows, columns]."""

    def masks(
        self,
        scores: Iterable[torch.Tensor],
        live: Iterable[torch.Tensor],
        shares: Sequence[float],
        scope: Scope,
    ) -> Iterator[torch.Tensor]:
        shapes: list[torch.Size] = []
        alive: list[torch.Tensor] = []

        def units() -> Iterator[torch.Tensor]:
            for matrix, keep in zip(scores, live, strict=True):
                shapes.append(matrix.shape)
                alive.append(keep)
                value = self.reduce(torch.where(keep, _no_nan(matrix), 0.0))
                dead = self.reduce(keep.to(matrix.dtype)) == 0
                yield torch.where(dead, -torch.inf, value)

        for at, kept in enumerate(scope(units(), shares)):
            yield self.expand(kept, *shapes[at]) & alive[at]
            alive[at] = kept.new_empty(0)  # masks of a large model: hold one at a time


@dataclass(frozen=True)
class Unstructured(Units):
    """Each weight by itself."""

    def reduce(self, matrix: torch.Tensor) -> torch.Tensor:
        return matrix

    def expand(self, units: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        return units


@dataclass(frozen=True)
class Block(Units):
    """Aligned blocks of `height` rows by `width` columns; those at a ragged edge are smaller.

    A block scores the sum of its weights' scores.
    """

    height: int
    width: int

    def reduce(self, matrix: torch.Tensor) -> torch.Tensor:
        rows, columns = matrix.shape
        matrix = F.pad(matrix, (0, -columns % self.width, 0, -rows % self.height))
        shape = (matrix.shape[0] // self.height, self.height, -1, self.width)
        return matrix.reshape(shape).sum(dim=(1, 3))

    def expand(self, units: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        tall = units.repeat_interleave(self.height, dim=0)[:rows]
        return tall.repeat_interleave(self.width, dim=1)[:, :columns]


@dataclass(frozen=True)
class Channel(Units):
    """Whole rows: output features of a linear layer, filters of a convolution.

    A row scores the L2 norm of its weights' scores.
    """

    grouped: ClassVar[bool] = True
    rows_alone: ClassVar[bool] = True

    def reduce(self, matrix: torch.Tensor) -> torch.Tensor:
        norms: torch.Tensor = torch.linalg.vector_norm(matrix, dim=1)
        return norms

    def expand(self, units: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        return units[:, None].expand(rows, columns)


@dataclass(frozen=True)
class Grouped(Pattern):
    """Neurons or heads: rows of some layers and columns of others, found by `coupling`."""

    kind: str

    grouped: ClassVar[bool] = True

    def masks(
        self,
        scores: Iterable[torch.Tensor],
        live: Iterable[torch.Tensor],
        shares: Sequence[float],
        scope: Scope,
    ) -> Iterator[torch.Tensor]:
        raise UnsupportedError(
            f'pattern "{self.kind}" is none of single matrices',
            fix="give the groups of the model: see groups.grouped_masks",
        )


@dataclass(frozen=True)
class NofM(Pattern):
    """Of every aligned group of `m` weights in a row, the `n` with the highest score are kept.

    On a tie the first are dropped. Mishra et al.: Accelerating Sparse Deep Neural Networks, 2021,
    arXiv:2104.08378 (there 2:4). A convolution's row is its [input, height, width] flattened.
    """

    n: int
    m: int

    @property
    def fixed_sparsity(self) -> float:
        return 1.0 - self.n / self.m

    def misfit(self, rows: int, columns: int) -> str:
        return f"its rows of {columns} are no multiple of {self.m}" if columns % self.m else ""

    def masks(
        self,
        scores: Iterable[torch.Tensor],
        live: Iterable[torch.Tensor],
        shares: Sequence[float],
        scope: Scope,
    ) -> Iterator[torch.Tensor]:
        for matrix, keep in zip(scores, live, strict=True):
            groups = torch.where(keep, _no_nan(matrix), -torch.inf).reshape(-1, self.m)
            order = groups.argsort(dim=1, stable=True)
            mask = torch.ones_like(groups, dtype=torch.bool)
            mask.scatter_(1, order[:, : self.m - self.n], False)
            yield mask.reshape(matrix.shape) & keep


def parse_pattern(text: str) -> Pattern:
    """One of NAMES, "N:M" with 0 < N < M, or "RxC"; else UnsupportedError with hints."""
    if text == "unstructured":
        return Unstructured()
    if text == "channel":
        return Channel()
    if text in ("neuron", "head"):
        return Grouped(text)
    numbers = re.fullmatch(r"(\d+)([:x])(\d+)", str(text))
    if numbers:
        first, kind, second = int(numbers[1]), numbers[2], int(numbers[3])
        if kind == ":" and 0 < first < second:
            return NofM(first, second)
        if kind == "x" and first > 0 and second > 0:
            return Block(first, second)
    known = (*NAMES, *EXAMPLES)
    near = difflib.get_close_matches(str(text), known, n=3, cutoff=0.3) or known
    raise UnsupportedError(
        f"unknown pattern {text!r}",
        fix='a pattern is "unstructured", "channel", "neuron", "head", "N:M" with 0 < N < M, or '
        '"RxC"; nearest: ' + ", ".join(f'"{name}"' for name in near),
    )


def _no_nan(scores: torch.Tensor) -> torch.Tensor:
    """NaN ranks highest: a defect is kept, where it can be seen."""
    return torch.where(scores.isnan(), torch.inf, scores)
