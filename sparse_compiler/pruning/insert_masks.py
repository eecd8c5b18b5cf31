"""sparsify: choose layers, score their weights, put masks in; all of it or nothing."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from sparse_compiler.errors import UnsupportedError
from sparse_compiler.pruning.adopt import adopt, copied, has_hooks
from sparse_compiler.pruning.groups import Group, choose_grouped, grouped_masks
from sparse_compiler.pruning.layers import Layer, find_layers
from sparse_compiler.pruning.masks import Mask, attach, masks_of
from sparse_compiler.pruning.recipe import Measure, Recipe
from sparse_compiler.pruning.scopes import SCOPES
from sparse_compiler.pruning.selection import choose_layers, shares_of

Refit = Callable[[torch.Tensor], torch.Tensor]


def sparsify(
    model: nn.Module,
    recipe: Recipe | str | Path,
    data: Iterable[object] | None = None,
    *,
    inplace: bool = False,
    groups: Sequence[Group] | None = None,
) -> nn.Module:
    """Insert masks into `model` as `recipe` says, e.g. `sparsify(model, Magnitude(0.9))`.

    recipe: a criterion with its settings, or YAML of one: a path, or a string (`load_recipe`).

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

    groups: what must go together, for the patterns "channel" (optional there), "neuron" and "head";
    `sparse_compiler.sparsify` finds them in the model's graph.

    Masks of torch.nn.utils.prune on linear and convolution layers become ours: the same Parameter,
    the same zeros.

    data: calibration inputs, for criteria that read them (`Magnitude` does not): any iterable of
    tensors, tuples (arguments) or dicts (keyword arguments), a call of the model each; for criteria
    with a loss, of pairs (inputs, target). The model runs in evaluation mode, without batches of
    its own making. A progress bar shows where standard error is a terminal.

    Criteria that refit weights (`SecondOrder`, `WoodFisher`) change the dense weights where the
    mask keeps them, in place with `inplace`.

    Raises UnsupportedError, before anything is changed: no layer matches; layers (all are named)
    whose weights have no values yet, are not floating point, are recomputed by a hook such as the
    old weight_norm, or do not fit the pattern; no data, data that the model does not take or that
    a layer never sees, NaN or infinity in activations, gradients or scores.
    """
    _check_module(model)
    if isinstance(recipe, str | Path):
        from sparse_compiler.pruning.recipe_file import load_recipe

        recipe = load_recipe(recipe)
    if not isinstance(recipe, Recipe):
        raise UnsupportedError(f"{recipe!r} is no recipe", fix="give one, such as Magnitude(0.9)")
    work = model
    if not inplace or recipe.sequential or has_hooks(model):
        work = copied(model)
        adopt(work)
    layers, joined = choose_grouped(choose_layers(work, recipe), recipe, groups)
    with torch.no_grad():
        outcomes = list(_outcomes(work, layers, recipe, data, joined))
        if inplace and work is not model:
            adopt(model)
            layers, _ = choose_grouped(choose_layers(model, recipe), recipe, groups)
            work = model
        for layer, outcome in zip(layers, outcomes, strict=True):
            _install(layer, outcome)
    return work


def insert_masks(
    model: nn.Module, masks: Mapping[str, torch.Tensor], *, inplace: bool = False
) -> nn.Module:
    """Insert masks that you have: {"encoder.fc1": mask}, bool (or 0 and 1), shaped as the weight.

    Keys are paths of linear or convolution layers, or of their weights ("encoder.fc1.weight").
    Returns a deep copy, or with `inplace` the model itself, as `sparsify` does; a mask lies within
    one that stands already.

    Raises UnsupportedError, before anything is changed, listing all: no such layer, another shape,
    values that are neither 0 nor 1, a mask that leaves nothing of a layer.
    """
    _check_module(model)
    problems = list(_mask_problems(model, masks))
    if problems:
        raise UnsupportedError(
            f"{len(problems)} mask(s) do not fit the model",
            why="; ".join(problems),
            fix="a mask is a bool tensor, shaped as the layer's weight: True is kept",
        )
    work = model if inplace else copied(model)
    adopt(work)
    by_path = {path: layer for layer in find_layers(work) for path in layer.paths}
    with torch.no_grad():
        for name, mask in masks.items():
            layer = by_path[_path(name)]
            _install(layer, Outcome(mask.to(layer.weight.device).bool() & layer.live))
    return work


def _mask_problems(model: nn.Module, masks: Mapping[str, torch.Tensor]) -> Iterator[str]:
    by_path = {path: layer for layer in find_layers(model) for path in layer.paths}
    for name, mask in masks.items():
        layer = by_path.get(_path(name))
        if layer is None:
            near = difflib.get_close_matches(_path(name), by_path, n=3)
            yield f"{name!r} is no linear or convolution layer" + (
                f"; near: {', '.join(near)}" if near else ""
            )
        elif not isinstance(mask, torch.Tensor):
            yield f"{name}: the mask is a {type(mask).__name__}, no tensor"
        elif mask.shape != layer.weight.shape:
            shapes = tuple(mask.shape), tuple(layer.weight.shape)
            yield f"{name}: the mask's shape is {shapes[0]}, the weight's {shapes[1]}"
        elif not bool(((mask == 0) | (mask == 1)).all()):
            yield f"{name}: the mask holds values other than 0 and 1"
        elif not bool((mask.bool().to(layer.weight.device) & layer.live).any()):
            yield f"{name}: nothing of the layer is left; take it out of the model instead"


def _path(name: str) -> str:
    return "" if name == "weight" else name.removesuffix(".weight")


def _check_module(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise UnsupportedError(
            f"cannot insert masks into a {type(model).__name__}",
            why="masks are parametrizations of an nn.Module",
            fix="sparsify the nn.Module before exporting it",
        )


@dataclass(frozen=True)
class Outcome:
    """What becomes of a weight: its mask, and its new values where the criterion refits them."""

    mask: torch.Tensor
    weight: torch.Tensor | None = None


def _outcomes(
    model: nn.Module,
    layers: Sequence[Layer],
    recipe: Recipe,
    data: Iterable[object] | None,
    groups: Sequence[Group] | None,
) -> Iterator[Outcome]:
    """One per layer. For a sequential criterion each stands before the next layer is measured."""
    refits: list[Refit | None] = []
    views = [layer.view for layer in layers]

    def scores() -> Iterator[torch.Tensor]:
        for layer, view, measure in zip(
            layers, views, recipe.measure(model, layers, data), strict=True
        ):
            refits.append(_checked_refit(layer, measure))
            yield view.matrix(_checked_score(layer, measure.score, type(recipe).__name__))

    shares, scope = shares_of(layers, recipe), SCOPES[recipe.scope]
    live = (view.matrix(layer.live) for view, layer in zip(views, layers, strict=True))
    if groups is None:
        masks = recipe.parsed_pattern().masks(scores(), live, shares, scope)
    else:
        masks = grouped_masks(layers, scores(), groups, shares, scope)
    for at, (layer, view, matrix) in enumerate(zip(layers, views, masks, strict=True)):
        mask = view.weight(matrix)
        refit = refits[at]
        outcome = Outcome(mask, refit(mask) if refit is not None else None)
        refits[at] = None
        if recipe.sequential:
            _install(layer, outcome)
        yield outcome


def _install(layer: Layer, outcome: Outcome) -> None:
    """One Mask for all holders; those that stand already are changed in place."""
    mask = outcome.mask
    if outcome.weight is not None:
        stored = layer.originals[0]  # in place: an optimizer keeps it; what is masked, its value
        stored.copy_(torch.where(mask, outcome.weight.to(stored.dtype), stored))
    present = layer.masks
    for old in present:
        old.mask.copy_(mask)
    shared = present[0] if present else Mask(mask)
    for holder in layer.holders:
        if not any(masks_of(holder.module, holder.tensor_name)):
            attach(holder.module, holder.tensor_name, shared)


def _checked_refit(layer: Layer, measure: Measure) -> Refit | None:
    refit = measure.refit
    if refit is None:
        return None

    def checked(mask: torch.Tensor) -> torch.Tensor:
        weight = refit(mask)
        if not bool(weight.isfinite().all()):
            raise UnsupportedError(
                f"{layer.name}: the refitted weights are not finite",
                why="the system of its calibration inputs is close to singular",
                fix="raise the recipe's damping, or give more calibration inputs",
            )
        return weight

    return checked


def _checked_score(layer: Layer, score: torch.Tensor, who: str) -> torch.Tensor:
    if score.shape != layer.weight.shape:
        raise UnsupportedError(
            f"{layer.name}: {who} gives scores of shape {tuple(score.shape)}",
            why=f"the weight's shape is {tuple(layer.weight.shape)}",
            fix="a score for each weight",
        )
    return score
