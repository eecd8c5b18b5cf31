"""Which layers a recipe prunes, and how much of each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import cast

import torch
from torch import nn

from sparse_compiler.errors import UnsupportedError
from sparse_compiler.pruning.layers import Layer, find_layers
from sparse_compiler.pruning.recipe import Recipe, Shares
from sparse_compiler.pruning.scopes import erdos_renyi_kernel


def choose_layers(model: nn.Module, recipe: Recipe) -> list[Layer]:
    """The layers that `recipe` prunes, in the order of the model's modules.

    Raises UnsupportedError, naming all: none is left, a glob matches nothing, layers that cannot
    take the pattern.
    """
    every = list(find_layers(model))
    _check_globs(every, "include", recipe.include)
    if isinstance(recipe.sparsity, Shares):
        _check_globs(every, "sparsity", recipe.sparsity)
    chosen: list[Layer] = []
    problems: list[str] = []
    for layer in every:
        if _passed_over(layer, recipe):
            continue
        problem = _misfit(layer, recipe)
        if problem:
            problems.append(f"{layer.name or type(layer.module).__name__}: {problem}")
        elif layer.weight.numel() >= recipe.min_weights:
            chosen.append(layer)
    if problems:
        raise UnsupportedError(
            f"{len(problems)} layer(s) cannot be pruned by {recipe}",
            why="; ".join(problems),
            fix="mend these layers, choose another pattern, or exclude them: exclude=(...)",
        )
    if not chosen:
        raise UnsupportedError(
            f"no layer to prune by {recipe}",
            why=f"{len(every)} linear or convolution layers, all excluded, below min_weights, or "
            "the first convolution",
            fix="widen include, lower min_weights, or give keep_first_conv=False; the layers are: "
            + (", ".join(f'"{layer.name}"' for layer in every[:20]) or "none"),
        )
    return chosen


def shares_of(layers: Sequence[Layer], recipe: Recipe) -> list[float]:
    """The share of its units that each layer is to drop; of an N:M pattern, which fixes it, 0."""
    if isinstance(recipe.sparsity, Shares):
        return [cast(float, _share(layer, recipe.sparsity)) for layer in layers]
    sparsity = float(cast(float, recipe.sparsity or 0.0))
    if recipe.scope != "erk":
        return [sparsity] * len(layers)
    return erdos_renyi_kernel([layer.erk_shape for layer in layers], sparsity)


def _share(layer: Layer, shares: Shares) -> float | None:
    """Of the first glob that matches one of the layer's paths."""
    for glob, share in shares.items():
        if any(fnmatchcase(path, glob) for path in layer.paths):
            return share
    return None


def _check_globs(layers: Sequence[Layer], what: str, globs: Iterable[str]) -> None:
    """A glob that matches nothing is a mistake, also when others match."""
    names = [path for layer in layers for path in layer.paths]
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names) and glob != "*":
            near = difflib.get_close_matches(glob, names, n=3) or names[:10]
            raise UnsupportedError(
                f"{what}={glob!r} matches no linear or convolution layer",
                fix=f"globs match whole paths, such as {', '.join(map(repr, near)) or 'none here'}",
            )


def _passed_over(layer: Layer, recipe: Recipe) -> bool:
    if layer.first_conv and recipe.keep_first_conv:
        return True
    if isinstance(recipe.sparsity, Shares) and _share(layer, recipe.sparsity) is None:
        return True
    places = [holder.path for holder in layer.holders]
    return not any(fnmatchcase(p, g) for p in layer.paths for g in recipe.include) or any(
        fnmatchcase(p, g) for p in places for g in recipe.exclude
    )


def _misfit(layer: Layer, recipe: Recipe) -> str:
    """Why the layer cannot be pruned; "" if it can, or if it is too small to be asked."""
    weight = layer.weight
    if torch.nn.parameter.is_lazy(weight):
        return "its weight is lazy; run the model once first"
    if weight.numel() < recipe.min_weights or weight.numel() == 0:
        return ""
    if not isinstance(weight, nn.Parameter) and not _is_parametrized(layer):
        return (
            "its weight is recomputed by a hook (the old weight_norm); make it a plain Parameter "
            "with remove_weight_norm first"
        )
    if weight.is_meta:
        return "its weight is on the meta device; load values first"
    if weight.layout != torch.strided:
        return f"its weight has layout {weight.layout}; make it dense first"
    if not weight.is_floating_point():
        return f"its weight is {weight.dtype}, not floating point"
    if recipe.refits and not layer.assignable:
        return "another parametrization computes its weight, so it cannot be refitted; remove that"
    view = layer.view
    return recipe.parsed_pattern().misfit(view.rows, view.columns)


def _is_parametrized(layer: Layer) -> bool:
    return torch.nn.utils.parametrize.is_parametrized(layer.module, "weight")
