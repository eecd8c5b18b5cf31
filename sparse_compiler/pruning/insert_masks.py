"""sparsify: choose layers, score their weights, put masks in; all of it or nothing."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from sparse_compiler.errors import UnsupportedError
from sparse_compiler.pruning.layers import Layer, find_layers
from sparse_compiler.pruning.masks import Mask, attach, masks_of
from sparse_compiler.pruning.recipe import Recipe
from sparse_compiler.pruning.scopes import SCOPES


def sparsify(
    model: nn.Module,
    recipe: Recipe,
    data: Iterable[object] | None = None,
    *,
    inplace: bool = False,
) -> nn.Module:
    """Insert masks into `model` as `recipe` says, e.g. `sparsify(model, Magnitude(0.9))`.

    Returns a deep copy with the masks, or with `inplace` the model itself. Each mask is a torch
    parametrization (`Mask`) on the layer's weight: training keeps every zero, `state_dict` holds
    the dense weight and the mask, `torch.nn.utils.parametrize.remove_parametrizations` makes the
    zeros plain. Deep copies and pickles work.

    On a model that has masks, the new mask lies within the old one, in the same Mask object: what
    is zero is dropped first and stays zero, and counts towards the sparsity asked for. So pruning
    by steps is a loop, and a lower sparsity than the present changes nothing. To prune afresh,
    remove the parametrizations with `leave_parametrized=False` first.

    A Parameter has one mask. If it is tied, all its users get it, an embedding included; exclude
    the path of any of them to leave it dense.

    data: calibration inputs, for criteria that read them (`Magnitude` does not).

    Raises UnsupportedError, before anything is changed: no layer matches, or layers (all are
    named) whose weights have no values yet, are not floating point, are recomputed by a hook of
    torch.nn.utils.prune or weight_norm, or do not fit the pattern.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedError(
            f"cannot insert masks into a {type(model).__name__}",
            why="masks are parametrizations of an nn.Module",
            fix="sparsify the nn.Module before exporting it",
        )
    if not isinstance(recipe, Recipe):
        raise UnsupportedError(f"{recipe!r} is no recipe", fix="give one, such as Magnitude(0.9)")
    layers = _choose_layers(model, recipe)
    if not inplace:
        model = copy.deepcopy(model)
        layers = _choose_layers(model, recipe)
    with torch.no_grad():
        for layer, mask in list(_masks(model, layers, recipe, data)):
            _install(layer, mask)
    return model


def _masks(
    model: nn.Module, layers: Sequence[Layer], recipe: Recipe, data: Iterable[object] | None
) -> Iterator[tuple[Layer, torch.Tensor]]:
    views = [layer.view for layer in layers]
    scores = zip(views, recipe.scores(model, layers, data), strict=True)
    masks = recipe.parsed_pattern().masks(
        (view.matrix(score) for view, score in scores),
        (view.matrix(layer.live) for view, layer in zip(views, layers, strict=True)),
        recipe.sparsity,
        SCOPES[recipe.scope],
    )
    for layer, view, mask in zip(layers, views, masks, strict=True):
        yield layer, view.weight(mask)


def _install(layer: Layer, mask: torch.Tensor) -> None:
    """One Mask for all holders; those that stand already are changed in place."""
    present = layer.masks
    for old in present:
        old.mask.copy_(mask)
    shared = present[0] if present else Mask(mask)
    for holder in layer.holders:
        if not any(masks_of(holder.module, holder.tensor_name)):
            attach(holder.module, holder.tensor_name, shared)


def _choose_layers(model: nn.Module, recipe: Recipe) -> list[Layer]:
    every = list(find_layers(model))
    _check_globs(every, recipe.include)
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


def _check_globs(layers: Sequence[Layer], globs: Iterable[str]) -> None:
    """A glob of `include` that matches nothing is a mistake, also when others match."""
    names = [path for layer in layers for path in layer.paths]
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names) and glob != "*":
            near = difflib.get_close_matches(glob, names, n=3) or names[:10]
            raise UnsupportedError(
                f"include={glob!r} matches no linear or convolution layer",
                fix=f"globs match whole paths, such as {', '.join(map(repr, near)) or 'none here'}",
            )


def _passed_over(layer: Layer, recipe: Recipe) -> bool:
    if layer.first_conv and recipe.keep_first_conv:
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
            "its weight is recomputed by a hook (torch.nn.utils.prune, weight_norm); make it a "
            "plain Parameter with prune.remove or remove_weight_norm first"
        )
    if weight.is_meta:
        return "its weight is on the meta device; load values first"
    if weight.layout != torch.strided:
        return f"its weight has layout {weight.layout}; make it dense first"
    if not weight.is_floating_point():
        return f"its weight is {weight.dtype}, not floating point"
    view = layer.view
    return recipe.parsed_pattern().misfit(view.rows, view.columns)


def _is_parametrized(layer: Layer) -> bool:
    return torch.nn.utils.parametrize.is_parametrized(layer.module, "weight")
