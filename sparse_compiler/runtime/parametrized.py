"""Parametrized tensors as the numbers that they come to, for files.

A masked weight is `mul(original, mask)`: two parameters, one of them dense. In a file only the
product counts, under the name that `remove_parametrizations` would give it: `fc1.weight`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import torch

from ..ir.graph import Graph, Value
from ..ir.types import TensorType
from .weights import WeightTimeValues

_PART = re.compile(r"(?:(.*)\.)?parametrizations\.([^.]+)\.[^.]+(?:\.[^.]+)*")


def fold_parametrized(
    graph: Graph, params: Mapping[str, torch.Tensor]
) -> tuple[Graph, dict[str, torch.Tensor]]:
    """The graph with one parameter for each parametrized tensor, and all parameters by name.

    One stays as it is where its parts are used for anything else too.
    """
    groups: dict[str, set[str]] = {}
    for value in graph.params:
        match = _PART.fullmatch(value.name)
        if match is not None:
            name = f"{match[1]}.{match[2]}" if match[1] else match[2]
            groups.setdefault(name, set()).add(value.name)
    folded: dict[str, str] = {}
    for name, parts in groups.items():
        whole = None if name in graph.types else _whole(graph, parts)
        if whole is not None:
            folded[whole] = name
    return _with_params(graph, params, folded)


def _whole(graph: Graph, parts: set[str]) -> str | None:
    """The first weight-time value that is made of nothing but `parts`, and through which all uses
    of them go."""
    inside = set(parts)
    for node in graph.nodes:
        if node.name in graph.weight_time and node.inputs and set(node.inputs) <= inside:
            inside.add(node.name)
    made = [node.name for node in graph.nodes if node.name in inside]
    return next((name for name in made if _all_pass(graph, parts, inside, name)), None)


def _all_pass(graph: Graph, parts: set[str], inside: set[str], through: str) -> bool:
    stack, seen = list(parts), set(parts)
    while stack:
        value = stack.pop()
        if value in graph.results:
            return False
        for user in graph.users[value]:
            if user.name == through or user.name in seen:
                continue
            if user.name not in inside:
                return False
            seen.add(user.name)
            stack.append(user.name)
    return isinstance(graph.types[through], TensorType)


def _with_params(
    graph: Graph, params: Mapping[str, torch.Tensor], folded: Mapping[str, str]
) -> tuple[Graph, dict[str, torch.Tensor]]:
    """`folded`: values that become parameters, with their new names."""
    if not folded:
        return graph, dict(params)
    nodes = [node for node in graph.nodes if node.name in graph.weight_time]
    values = WeightTimeValues(graph, nodes, params, folded)
    made = {
        name: torch.nn.Parameter(values.take(value), requires_grad=False)
        for value, name in folded.items()
    }
    kept = [
        replace(node, inputs=tuple(folded.get(name, name) for name in node.inputs))
        for node in graph.nodes
        if node.name not in folded
    ]
    needed = {*graph.results, *(target for _, target in graph.updates)}
    alive = []
    for node in reversed(kept):
        if node.name in needed or node.name not in graph.weight_time:
            needed.update(node.inputs)
            alive.append(node)
    types = {value: graph.tensor(value) for value in folded}
    added = [Value(name, types[value]) for value, name in folded.items()]
    old = [value for value in graph.params if value.name in needed]
    outputs = tuple(folded.get(name, name) for name in graph.outputs)
    smaller = replace(graph, params=(*old, *added), nodes=tuple(reversed(alive)), outputs=outputs)
    return smaller, {value.name: (made | dict(params))[value.name] for value in smaller.params}
