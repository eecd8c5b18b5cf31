"""A recipe: how much to prune, in which pattern, spread over which layers; criteria derive from it.

The fields are the recipe, so that it prints, compares and hashes. Everything that can be refused
without a model is refused when the recipe is made.
"""

from __future__ import annotations

import abc
import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
from torch import nn

from sparse_compiler.errors import UnsupportedError
from sparse_compiler.pruning.layers import Layer
from sparse_compiler.pruning.patterns import Pattern, parse_pattern
from sparse_compiler.pruning.scopes import SCOPES


@dataclass(frozen=True)
class Recipe(abc.ABC):
    """What to prune; a criterion derives from it and says what a weight is worth.

    sparsity: share of the pattern's units to remove, in [0, 1). Required, except for an N:M
        pattern, which fixes it: leave it out there, or give 1 - N/M.
    pattern: "unstructured"; "N:M", such as "2:4": at most N of M consecutive weights of a row
        are kept; "RxC", such as "4x1": R rows by C columns live and die together; "channel":
        whole output rows. The weight is read as a matrix [output, the rest], see `layers`.
    scope: "uniform", the same sparsity in every layer; "global", one threshold for all layers.
        Either way a layer keeps at least one unit. N:M has nothing to spread.
    include, exclude: globs on module paths ("encoder.*", "*.fc1"). A layer is pruned if one of
        `include` and none of `exclude` matches a path where its weight is used.
    min_weights: smaller weights stay dense.
    keep_first_conv: the model's first convolution stays dense.

    Raises UnsupportedError listing everything that is wrong with these.
    """

    sparsity: float | None = None
    pattern: str = "unstructured"
    scope: str = "uniform"
    _: KW_ONLY
    include: str | Sequence[str] = "*"
    exclude: str | Sequence[str] = ()
    min_weights: int = 4096
    keep_first_conv: bool = True

    def __post_init__(self) -> None:
        for field in ("include", "exclude"):  # one glob or many; hashable in any case
            globs = getattr(self, field)
            object.__setattr__(self, field, (globs,) if isinstance(globs, str) else tuple(globs))
        problems = list(self._problems())
        if problems:
            raise UnsupportedError(
                f"{type(self).__name__}: " + "; ".join(what for what, _ in problems),
                fix="; ".join(fix for _, fix in problems),
            )

    @abc.abstractmethod
    def scores(
        self, model: nn.Module, layers: Sequence[Layer], data: Iterable[object] | None
    ) -> Iterator[torch.Tensor]:
        """One tensor >= 0 per layer, float32 or float64, shaped as its weight: large is kept.

        Called under `torch.no_grad()`. Must not change the model.
        """

    def parsed_pattern(self) -> Pattern:
        return parse_pattern(self.pattern)

    def _problems(self) -> Iterator[tuple[str, str]]:
        """(what is wrong, what to do), for each."""
        if self.scope not in SCOPES:
            near = difflib.get_close_matches(str(self.scope), SCOPES, n=1)
            yield f"unknown scope {self.scope!r}", f"use {_quoted(near or list(SCOPES))}"
        try:
            pattern = self.parsed_pattern()
        except UnsupportedError as error:
            yield error.what, error.fix
            return
        yield from _sparsity_problems(self.sparsity, pattern)


def _sparsity_problems(sparsity: object, pattern: Pattern) -> Iterator[tuple[str, str]]:
    fixed = pattern.fixed_sparsity
    if sparsity is None:
        if fixed is None:
            yield "no sparsity given", "give the share of weights to remove, such as 0.9"
    elif not isinstance(sparsity, float | int | np.floating):
        yield f"sparsity {sparsity!r} is no number", "give a float in [0, 1), such as 0.9"
    elif fixed is not None and not math.isclose(sparsity, fixed, abs_tol=1e-6):
        yield (
            f"sparsity {sparsity} contradicts {pattern}, which fixes it",
            f"leave sparsity out, or give {fixed:g}",
        )
    elif not 0.0 <= sparsity < 1.0:  # also NaN
        yield f"sparsity {sparsity} is outside [0, 1)", "0.9 removes 90 % of the weights"


def _quoted(names: list[str]) -> str:
    return " or ".join(f'"{name}"' for name in names)
