"""A recipe: how much to prune, in which pattern, spread over which layers; criteria derive from it.

The fields are the recipe, so that it prints, compares and hashes. Everything that can be refused
without a model is refused when the recipe is made.
"""

from __future__ import annotations

import abc
import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, cast

import numpy as np
import torch
from torch import nn

from sparse_compiler.errors import UnsupportedError
from sparse_compiler.pruning.layers import Layer
from sparse_compiler.pruning.patterns import Pattern, parse_pattern
from sparse_compiler.pruning.scopes import SCOPES
from sparse_compiler.registry import Registry

Sparsity = float | Mapping[str, float] | None


@dataclass(frozen=True)
class Measure:
    """What a criterion says of one layer; tensors are shaped as its weight.

    score: >= 0, float32 or float64; what scores high is kept. Scores are of the kind of |w|: units
    of several weights are ranked by their sum (blocks) or L2 norm (channels, heads, neurons).
    refit: mask, True where kept -> the new weight, for criteria that make up for what was removed.
    """

    score: torch.Tensor
    refit: Callable[[torch.Tensor], torch.Tensor] | None = None


@dataclass(frozen=True)
class Recipe(abc.ABC):
    """What to prune; a criterion derives from it and says what a weight is worth.

    sparsity: share of the pattern's units to remove, in [0, 1). Required, except for an N:M
        pattern, which fixes it: leave it out there, or give 1 - N/M. Or one share per layer, a
        dict of globs on module paths, the first that matches counts: {"*.query": 0.5, "*": 0.9};
        layers that none matches stay dense.
    pattern: "unstructured"; "N:M", such as "2:4": at most N of M consecutive weights of a row
        are kept; "RxC", such as "4x1": R rows by C columns live and die together; "channel":
        whole output rows; "neuron": hidden units between two linear layers, rows of the first and
        columns of the second; "head": attention heads. The weight is read as a matrix
        [output, the rest], see `layers`.
    scope: which units compete. "uniform": those of a layer, the same sparsity in every layer;
        "row": those of a row of the weight; "global": all of the model, one threshold; "erk": as
        uniform, at sparsities by Erdős–Rényi-Kernel, which leaves small layers denser. A layer
        keeps at least one unit. N:M has nothing to spread.
    include, exclude: globs on module paths ("encoder.*", "*.fc1"). A layer is pruned if one of
        `include` and none of `exclude` matches a path where its weight is used.
    min_weights: smaller weights stay dense.
    keep_first_conv: the model's first convolution stays dense.

    Raises UnsupportedError listing everything that is wrong with these.
    """

    sparsity: Sparsity = None
    pattern: str = "unstructured"
    scope: str = "uniform"
    _: KW_ONLY
    include: str | Sequence[str] = "*"
    exclude: str | Sequence[str] = ()
    min_weights: int = 4096
    keep_first_conv: bool = True

    sequential: ClassVar[bool] = False
    """True where a layer is measured with the masks of the layers before it in place."""

    refits: ClassVar[bool] = False
    """True where the weights that are kept change, too."""

    def __post_init__(self) -> None:
        for field in ("include", "exclude"):  # one glob or many; hashable in any case
            globs = getattr(self, field)
            object.__setattr__(self, field, (globs,) if isinstance(globs, str) else tuple(globs))
        if isinstance(self.sparsity, Mapping):
            object.__setattr__(self, "sparsity", Shares(self.sparsity))
        problems = list(self._problems())
        if problems:
            raise UnsupportedError(
                f"{type(self).__name__}: " + "; ".join(what for what, _ in problems),
                fix="; ".join(fix for _, fix in problems),
            )

    @abc.abstractmethod
    def measure(
        self, model: nn.Module, layers: Sequence[Layer], data: Iterable[object] | None
    ) -> Iterator[Measure]:
        """One Measure per layer, in order. Called under `torch.no_grad()`; must not change the
        model. Where masks come layer by layer and `sequential` is set, those of the layers before
        stand already when the next Measure is asked for.
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
        if isinstance(self.sparsity, Shares):
            yield from self.sparsity.problems(pattern, self.scope)
        else:
            yield from _sparsity_problems(self.sparsity, pattern)


CRITERIA: Registry[type[Recipe]] = Registry("criterion", "sparse_compiler.pruning.criteria")


class Shares(dict[str, float]):
    """A share per glob; hashable, and never changed once a recipe holds it."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))

    def problems(self, pattern: Pattern, scope: str) -> Iterator[tuple[str, str]]:
        if not self:
            yield "no sparsity given", 'name layers, such as {"encoder.*": 0.9}'
        if pattern.fixed_sparsity is not None:
            yield f"sparsity per layer contradicts {pattern}, which fixes it", "leave it out"
        if scope == "erk":
            yield 'scope "erk" chooses sparsities per layer', 'give one number, or scope="uniform"'
        for glob, share in self.items():
            if not isinstance(glob, str):
                yield f"{glob!r} is no glob", 'name layers, such as {"encoder.*": 0.9}'
            for what, fix in _sparsity_problems(share, pattern):
                yield f"{glob!r}: {what}", fix


def _sparsity_problems(sparsity: object, pattern: Pattern) -> Iterator[tuple[str, str]]:
    fixed = pattern.fixed_sparsity
    if sparsity is None:
        if fixed is None:
            yield "no sparsity given", "give the share of weights to remove, such as 0.9"
    elif isinstance(sparsity, bool) or not isinstance(sparsity, float | int | np.floating):
        yield f"sparsity {sparsity!r} is no number", "give a float in [0, 1), such as 0.9"
    elif fixed is not None and not math.isclose(cast(float, sparsity), fixed, abs_tol=1e-6):
        yield (
            f"sparsity {sparsity} contradicts {pattern}, which fixes it",
            f"leave sparsity out, or give {fixed:g}",
        )
    elif not 0.0 <= sparsity < 1.0:  # also NaN
        yield f"sparsity {sparsity} is outside [0, 1)", "0.9 removes 90 % of the weights"


def _quoted(names: list[str]) -> str:
    return " or ".join(f'"{name}"' for name in names)
