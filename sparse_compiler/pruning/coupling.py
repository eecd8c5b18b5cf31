"""Finds the groups of a graph: which rows and columns of its weights are one channel, neuron, head.

Every output channel of every layer gets a label of its own. The channel rules of the ops say which
channels must go together; such channels take the greatest of their labels. What then has the same
label, in rows and columns of whatever layer, is one unit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import networkx as nx
import torch

from sparse_compiler.analysis.channels.facts import along
from sparse_compiler.analysis.channels.flow import Channels, WeightTerms, find_constants, sweep
from sparse_compiler.analysis.channels.rules import rule_of
from sparse_compiler.analysis.channels.rules.views import View
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ops.attention import Attention
from sparse_compiler.ops.linear import Linear
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.pruning.groups import Group, Member

_STORED = (".parametrizations.weight.original", ".weight_orig", ".weight")


@dataclass(frozen=True)
class Labels:
    """Of one layer, by the path of its module: those of its rows, and of a linear's columns."""

    layer: str
    rows: torch.Tensor
    columns: torch.Tensor | None
    node: Node


@dataclass(frozen=True)
class Coupling:
    """The labelled graph. results: labels of channels that the model gives out."""

    channels: Channels
    layers: tuple[Labels, ...]
    results: frozenset[int]


def couple(graph: Graph, params: Mapping[str, torch.Tensor]) -> Coupling:
    """Labels for all channels of `graph`, as imported; params: its weights by name."""
    channels = Channels(graph, WeightTerms(graph, params))
    find_constants(channels)
    found: list[tuple[str, Node]] = []
    for name, fact in channels.facts.items():
        channels.alive[name] = torch.zeros(fact.frame, dtype=torch.int64)
    start = 1
    for node in graph.nodes:
        path = layer_path(graph, node)
        # also of what no layer holds, as nn.MultiheadAttention's in_proj_weight: heads are seen
        writes = path is not None or isinstance(node.op, Attention | Linear)
        if node.name not in channels.sites or not writes or node.name in graph.weight_time:
            continue
        frame = channels.facts[node.name].frame
        count = math.prod(frame)
        channels.alive[node.name] = torch.arange(start, start + count).reshape(frame)
        start += count
        if path is not None:
            found.append((path, node))
    sweep(channels, _spread)
    _join_calls(channels, [_labels(channels, path, node) for path, node in found], start)
    results = {
        label
        for name in graph.results
        if name in channels.alive
        for label in _distinct(channels.alive[name])
    }
    layers = tuple(_labels(channels, path, node) for path, node in found)
    return Coupling(channels, layers, frozenset(results - {0}))


def _spread(channels: Channels, node: Node) -> set[str]:
    """The labels of a node's inputs and result, joined; the names of those that changed."""
    site = channels.sites.get(node.name)
    if site is None:
        return set()
    rule, alive = rule_of(node.op), channels.alive
    result = alive[node.name]
    inputs = tuple(
        torch.zeros(f.frame, dtype=torch.int64) if f.fixed else alive[name]
        for name, f in zip(node.inputs, site.facts, strict=True)
    )
    if isinstance(rule, View):  # renames channels; its ties would even out how many heads keep
        result = torch.maximum(result, rule.push(site, inputs[0]))
        inputs = (torch.maximum(inputs[0], rule.pull(site, result)), *inputs[1:])
    else:
        inputs, result = rule.ties(site, inputs, result)
    joined = [
        (name, labels)
        for name, labels, f in zip(node.inputs, inputs, site.facts, strict=True)
        if not f.fixed
    ]
    changed = set()
    for name, labels in (*joined, (node.name, result)):
        new = torch.maximum(alive[name], labels)
        if not torch.equal(new, alive[name]):
            alive[name] = new
            changed.add(name)
    return changed


def _join_calls(channels: Channels, layers: list[Labels], count: int) -> None:
    """Row for row, a layer that is called twice has one label for all of its calls."""
    calls: dict[str, list[Labels]] = {}
    for layer in layers:
        calls.setdefault(layer.layer, []).append(layer)
    same = nx.Graph()
    for first, *others in calls.values():
        for other in others:
            same.add_edges_from(zip(first.rows.tolist(), other.rows.tolist(), strict=True))
    if not same:
        return
    table = torch.arange(count)
    for part in nx.connected_components(same):
        table[list(part)] = 0 if 0 in part else max(part)
    for name, labels in channels.alive.items():
        channels.alive[name] = table[labels]


def channel_groups(coupling: Coupling) -> Iterator[Group]:
    """Output channels that go together, rows alone; not those that the model gives out."""
    graph = nx.Graph()
    for at, layer in enumerate(coupling.layers):
        labels = set(layer.rows.tolist())
        if labels & coupling.results or 0 in labels:
            continue
        graph.add_node(at)
        graph.add_edges_from((at, f"label {label}") for label in labels)
    for part in _components(graph):
        layers = [coupling.layers[at] for at in part]
        units = _numbered(label for layer in layers for label in layer.rows.tolist())
        yield _group(len(units), [_rows(layer, units) for layer in layers])


def neuron_groups(coupling: Coupling) -> Iterator[Group]:
    """Hidden units: rows of linear layers that elementwise ops alone lie behind, up to one linear
    layer, whose columns they are. Gated ones are rows of two layers."""
    barred = _beyond_elementwise(coupling)
    for reader in coupling.layers:
        if reader.columns is None:
            continue
        labels = reader.columns.tolist()
        if 0 in labels or set(labels) & barred or len(set(labels)) < len(labels):
            continue
        touched = [x for x in coupling.layers if set(x.rows.tolist()) & set(labels)]
        readers = [x for x in coupling.layers if x.columns is not None and _meets(x, labels)]
        same = all(set(x.rows.tolist()) == set(labels) for x in touched)
        if not touched or not same or not _one_reader(readers, reader, coupling.layers):
            continue
        units = _numbered(labels)
        members = [*(_rows(layer, units) for layer in touched), _columns(reader, units)]
        yield _group(len(units), [m for m in members if m is not None])


def head_groups(coupling: Coupling) -> Iterator[Group]:
    """Heads of each attention; query heads that share a key head are one unit with it."""
    channels = coupling.channels
    seen: set[frozenset[int]] = set()  # an attention that is called twice has the same labels
    for node in channels.graph.nodes:
        if not isinstance(node.op, Attention) or node.name not in channels.sites:
            continue
        units = _heads([channels.alive[name] for name in node.inputs[:3]])
        count = len(set(units.values()))
        if count < 2 or 0 in units or frozenset(units) in seen:
            continue  # nothing to choose from, or heads that no layer of the model makes
        seen.add(frozenset(units))
        members = [
            member
            for layer in coupling.layers
            for member in (_rows(layer, units), _columns(layer, units))
            if member is not None and bool((member.units >= 0).any())
        ]
        if members:
            yield _group(count, members)


def _heads(masks: list[torch.Tensor]) -> dict[int, int]:
    """Label -> unit, of the labels [B, H, S, D] of query, key and value. Heads are one unit where
    they share a label: query heads with the key head that they read, in whatever way."""
    graph = nx.Graph()
    heads = max(mask.shape[1] for mask in masks)
    for mask in masks:
        for head in range(heads):
            own = mask[:, head // (heads // mask.shape[1])]
            graph.add_edges_from(((head,), label) for label in _distinct(own))
    parts = [
        sorted(n[0] for n in part if isinstance(n, tuple))
        for part in nx.connected_components(graph)
    ]
    return {
        label: unit
        for unit, part in enumerate(sorted(parts))
        for head in part
        for label in graph[(head,)]
    }


def _labels(channels: Channels, path: str, node: Node) -> Labels:
    result = channels.alive[node.name]
    rows = along(result, node.op.channel_dim, result.shape[node.op.channel_dim])
    columns = None
    if isinstance(node.op, Linear):
        x = channels.alive[node.inputs[0]]
        columns = along(x, -1, x.shape[-1])
    return Labels(path, rows, columns, node)


def layer_path(graph: Graph, node: Node) -> str | None:
    """The module path of the weight that a layer reads, also through a mask; None without one."""
    place = node.op.weight_input
    if place is None or node.name in graph.weight_time:
        return None
    waiting = [node.inputs[place]]
    while waiting:
        name = waiting.pop()
        producer = graph.producers.get(name)
        if producer is not None:
            waiting += producer.inputs
        for ending in _STORED:
            if producer is None and f".{name}".endswith(ending):
                return f".{name}".removesuffix(ending).removeprefix(".")
    return None


def _beyond_elementwise(coupling: Coupling) -> set[int]:
    """Labels that anything but layers, views and elementwise ops reads or makes, and results."""
    channels = coupling.channels
    found = set(coupling.results)
    for name, site in channels.sites.items():
        op = site.node.op
        if op.view or isinstance(op, Pointwise | Linear):
            continue
        for value in (*site.node.inputs, name):
            if value in channels.alive:
                found.update(_distinct(channels.alive[value]))
    return found - {0}


def _components(graph: nx.Graph) -> Iterator[list[int]]:
    """The layers of each connected part, in the order of the graph."""
    parts = (
        sorted(n for n in part if isinstance(n, int)) for part in nx.connected_components(graph)
    )
    yield from sorted(parts)


def _distinct(labels: torch.Tensor) -> set[int]:
    return set(labels.flatten().tolist())


def _meets(layer: Labels, labels: list[int]) -> bool:
    return layer.columns is not None and bool(set(layer.columns.tolist()) & set(labels))


def _one_reader(readers: list[Labels], reader: Labels, layers: Sequence[Labels]) -> bool:
    """Whether one layer alone reads these units, the same in each of its calls; `reader` is the
    first of them."""
    calls = [x for x in layers if x.layer == reader.layer]
    alike = len({tuple(x.columns.tolist()) for x in calls if x.columns is not None}) == 1
    return alike and reader is readers[0] and {x.layer for x in readers} == {reader.layer}


def _group(count: int, members: Iterable[Member]) -> Group:
    """Each layer once, however often it is called."""
    return Group(count, tuple({(m.layer, m.axis): m for m in members}.values()))


def _numbered(labels: Iterable[int]) -> dict[int, int]:
    return {label: at for at, label in enumerate(dict.fromkeys(labels))}


def _rows(layer: Labels, units: Mapping[int, int]) -> Member:
    return Member(layer.layer, 0, _mapped(layer.rows, units))


def _columns(layer: Labels, units: Mapping[int, int]) -> Member | None:
    return None if layer.columns is None else Member(layer.layer, 1, _mapped(layer.columns, units))


def _mapped(labels: torch.Tensor, units: Mapping[int, int]) -> torch.Tensor:
    return torch.tensor([units.get(label, -1) for label in labels.tolist()])


FINDERS = {"channel": channel_groups, "neuron": neuron_groups, "head": head_groups}
"""Pattern -> how its groups are found."""
