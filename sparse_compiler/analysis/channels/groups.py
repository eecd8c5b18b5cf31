"""Channels that go together: removing one anywhere removes it everywhere in its group.

Every channel that a layer writes gets a label of its own; labels spread over the ties of the rules
by maximum until they come to rest. Channels with one label are one; those that the same layers
write and read make a group. What a result, an input or an op of unknown rule holds is fixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ops.conv import Conv
from sparse_compiler.ops.embedding import Embedding
from sparse_compiler.ops.take import ranges_of

from .facts import Mask, Site, along
from .flow import Channels, WeightTerms, find_constants, tie_all
from .rules import rule_of

FIXED = 1 << 60
"""The label of channels that no one may remove."""


@dataclass(frozen=True, eq=False)
class Member:
    """A dimension of a layer's weight, as far as it belongs to a group.

    layer: the graph's value; weight: the value that holds the weight; dim: its dimension, 0 for
    rows; index: i64[n], elements of the dimension; channel: i64[n], the group's channel of each.
    """

    layer: str
    weight: str
    dim: int
    index: torch.Tensor
    channel: torch.Tensor

    def __str__(self) -> str:
        marks = torch.zeros(int(self.index.max()) + 1, dtype=torch.bool)
        marks[self.index] = True
        spans = [f"{a}:{b}" for a, b in ranges_of(marks)]
        shown = ",".join(spans[:3]) + (",.." if len(spans) > 3 else "")
        return f"{self.weight} dim {self.dim} [{shown}]"


@dataclass(frozen=True, eq=False)
class Group:
    """size: channels; writers, readers: whose rows and columns they are; through: nodes that they
    pass; fixed: why they cannot go, or ""."""

    size: int
    writers: tuple[Member, ...]
    readers: tuple[Member, ...]
    through: tuple[str, ...]
    fixed: str = ""

    def __str__(self) -> str:
        lines = [f"{self.size} channels" + (f", fixed: {self.fixed}" if self.fixed else "")]
        lines += [f"  written by {m}" for m in self.writers]
        lines += [f"  read by {m}" for m in self.readers]
        if self.through:
            shown = ", ".join(self.through[:6]) + (", .." if len(self.through) > 6 else "")
            lines.append(f"  through {shown}")
        return "\n".join(lines)


def channel_groups(graph: Graph, params: Mapping[str, torch.Tensor]) -> tuple[Group, ...]:
    """The groups of a graph, in the order in which their first layers run."""
    channels = Channels(graph, WeightTerms(graph, params))
    find_constants(channels)
    first = _label(channels)
    tie_all(channels)
    return _collect(channels, first)


def writes(node: Node) -> bool:
    """True for a layer, whose result has channels of its own."""
    return node.op.weight_input is not None or isinstance(node.op, Embedding)


def _label(channels: Channels) -> int:
    """Labels for what layers write; returns how many there are."""
    graph, count = channels.graph, 0
    for name, facts in channels.facts.items():
        labels = torch.zeros(facts.frame, dtype=torch.int64)
        site = channels.sites.get(name)
        if site is not None and writes(site.node) and labels.numel() > 1:
            labels = torch.arange(1, 1 + labels.numel()).reshape(labels.shape) + count
            count += labels.numel()
        channels.alive[name] = labels
    fixed = set(graph.results) | {v.name for v in graph.inputs}
    for node in graph.nodes:
        site = channels.sites.get(node.name)
        if node.name not in graph.weight_time and (site is None or not _known(site)):
            fixed |= {*node.inputs, node.name}
    for name in fixed & channels.alive.keys():
        channels.alive[name] = torch.full_like(channels.alive[name], FIXED)
    return count


def _known(site: Site) -> bool:
    reason = rule_of(site.node.op).reason(site)
    return reason is None or reason.code != "unknown_channel_rule"


def _collect(channels: Channels, count: int) -> tuple[Group, ...]:
    members: dict[int, list[tuple[str, str, int]]] = {}
    vectors: dict[tuple[str, str], Mask] = {}
    through: dict[int, list[str]] = {}
    for name, site in channels.sites.items():
        layer = writes(site.node)
        if layer:
            _enter(members, vectors, name, "w", channels.alive[name], site)
            _enter(members, vectors, name, "r", _read(channels, site), site)
            continue
        for label in torch.unique(channels.alive[name]).tolist():
            if 0 < label < FIXED:
                through.setdefault(label, []).append(name)
    signatures: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for label, found in members.items():
        signature = tuple(dict.fromkeys((layer, role) for layer, role, _ in found))
        signatures.setdefault(signature, []).append(label)
    return tuple(
        _group(channels, signature, labels, vectors, through)
        for signature, labels in signatures.items()
        if any(role == "w" for _, role in signature)
    )


def _read(channels: Channels, site: Site) -> Mask:
    source = site.node.inputs[1 if isinstance(site.node.op, Embedding) else 0]
    return channels.alive.get(source, torch.zeros((1,) * site.types[0].rank, dtype=torch.int64))


def _enter(
    members: dict[int, list[tuple[str, str, int]]],
    vectors: dict[tuple[str, str], Mask],
    name: str,
    role: str,
    labels: Mask,
    site: Site,
) -> None:
    dim = site.node.op.channel_dim % labels.dim() if labels.dim() else 0
    if labels.dim() == 0 or labels.shape[dim] == 1:
        return
    vector = along(labels, dim, labels.shape[dim])
    vectors[name, role] = vector
    for label in torch.unique(vector).tolist():
        if label:
            members.setdefault(label, []).append((name, role, dim))


def _group(
    channels: Channels,
    signature: tuple[tuple[str, str], ...],
    labels: Sequence[int],
    vectors: Mapping[tuple[str, str], Mask],
    through: Mapping[int, list[str]],
) -> Group:
    order = torch.tensor(sorted(labels))
    sides: dict[str, list[Member]] = {"w": [], "r": []}
    for name, role in signature:
        vector = vectors[name, role]
        index = torch.nonzero(torch.isin(vector, order)).flatten()
        channel = torch.searchsorted(order, vector[index])
        sides[role].append(_member(channels, name, role, index, channel))
    passed = tuple(dict.fromkeys(n for label in labels for n in through.get(label, ())))
    fixed = "a result, an input or an op of unknown channel rule holds them"
    is_fixed = int(order[-1]) == FIXED
    size = 1 if is_fixed else len(order)
    if is_fixed:
        size = max((len(m.index) for m in sides["w"]), default=1)
    return Group(size, tuple(sides["w"]), tuple(sides["r"]), passed, fixed if is_fixed else "")


def _member(
    channels: Channels, name: str, role: str, index: torch.Tensor, channel: torch.Tensor
) -> Member:
    node = channels.sites[name].node
    place = node.op.weight_input or 0
    dim = 0 if role == "w" else 1
    if isinstance(node.op, Embedding):
        dim = 1
    if role == "r" and isinstance(node.op, Conv) and node.op.groups > 1:
        inputs = channels.sites[name].types[1].shape[1]
        index = index % inputs
    return Member(name, node.inputs[place], dim, index, channel)
