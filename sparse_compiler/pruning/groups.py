"""Groups: rows and columns of several weights that are one unit, kept or dropped together.

A channel of a residual sum is a row of every layer that adds to it; a neuron is a row of one layer
and a column of the next; a head is rows of query, key and value and columns of the projection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from sparse_compiler.errors import UnsupportedError
from sparse_compiler.pruning.layers import Layer
from sparse_compiler.pruning.recipe import Recipe
from sparse_compiler.pruning.scopes import Scope


@dataclass(frozen=True, eq=False)
class Member:
    """Which unit each row (axis 0) or column (axis 1) of a layer's matrix belongs to; -1: none."""

    layer: str
    axis: int
    units: torch.Tensor


@dataclass(frozen=True, eq=False)
class Group:
    """`count` units and the layers that they run through. name: of the first of these."""

    count: int
    members: tuple[Member, ...]

    @property
    def name(self) -> str:
        return self.members[0].layer

    def __str__(self) -> str:
        axes = ("rows", "columns")
        parts = (f"{int((m.units >= 0).sum())} {axes[m.axis]} of {m.layer}" for m in self.members)
        return f"{self.count} units: {', '.join(parts)}"


def choose_grouped(
    layers: list[Layer], recipe: Recipe, groups: Sequence[Group] | None
) -> tuple[list[Layer], list[Group] | None]:
    """The layers that take part in the recipe's pattern, and the groups among them.

    Raises UnsupportedError where the pattern needs groups and there are none.
    """
    pattern = recipe.parsed_pattern()
    if not pattern.grouped:
        return layers, None
    if groups is None:
        if pattern.rows_alone:
            return layers, None
        raise UnsupportedError(
            f'pattern "{recipe.pattern}" needs the groups of the model',
            why="which rows and columns belong together is seen from its graph",
            fix="sparse_compiler.sparsify(model, recipe, data, args=(example inputs, ...))",
        )
    found = within(groups, layers)
    names = {member.layer for group in found for member in group.members}
    if not names:
        raise UnsupportedError(
            f'no layer to prune by pattern "{recipe.pattern}"',
            why="no group of such units runs through the layers that the recipe leaves",
            fix="widen include, narrow exclude, or choose another pattern",
        )
    return [layer for layer in layers if layer.name in names], found


def within(groups: Iterable[Group], layers: Sequence[Layer]) -> list[Group]:
    """The groups cut down to `layers`; those that none is left of go."""
    names = {path: layer.name for layer in layers for path in layer.paths}
    found = []
    for group in groups:
        members = tuple(
            Member(names[m.layer], m.axis, m.units) for m in group.members if m.layer in names
        )
        if members:
            found.append(Group(group.count, members))
    return found


def grouped_masks(
    layers: Sequence[Layer],
    scores: Iterable[torch.Tensor],
    groups: Sequence[Group],
    shares: Sequence[float],
    scope: Scope,
) -> Iterator[torch.Tensor]:
    """A mask [rows, columns] per layer; scores likewise. A unit scores the L2 norm of all that it
    is made of; its group's share is the first member's. A unit without a live weight goes first.
    """
    place = {layer.name: at for at, layer in enumerate(layers)}
    matrices = [torch.where(s.isnan(), torch.inf, s) for s in scores]
    live = [layer.view.matrix(layer.live) for layer in layers]
    values = [_unit_scores(group, place, matrices, live) for group in groups]
    of_groups = [shares[place[group.name]] for group in groups]
    masks = [mask.clone() for mask in live]
    for group, keep in zip(groups, scope(values, of_groups), strict=True):
        for member in group.members:
            mask = masks[place[member.layer]]
            units = member.units.to(mask.device)
            kept = keep.to(mask.device)[units.clamp_min(0)] | (units < 0)
            mask &= kept[:, None] if member.axis == 0 else kept[None, :]
    for layer, mask in zip(layers, masks, strict=True):
        if not bool(mask.any()):
            raise UnsupportedError(
                f"{layer.name}: nothing of the layer would be left",
                why="its rows and its columns are units of different groups, all dropped",
                fix="prune less, or exclude the layer",
            )
    yield from masks


def _unit_scores(
    group: Group,
    place: dict[str, int],
    matrices: Sequence[torch.Tensor],
    live: Sequence[torch.Tensor],
) -> torch.Tensor:
    total = torch.zeros(group.count, dtype=torch.float64)
    alive = torch.zeros(group.count, dtype=torch.float64)
    for member in group.members:
        at = place[member.layer]
        kept = live[at]
        squares = torch.where(kept, matrices[at], 0.0).double().square().sum(1 - member.axis)
        counts = kept.double().sum(1 - member.axis)
        inside = member.units >= 0
        total.index_add_(0, member.units[inside], squares.cpu()[inside])
        alive.index_add_(0, member.units[inside], counts.cpu()[inside])
    return torch.where(alive > 0, total.sqrt(), -torch.inf)
