"""Puts masks on the weights of a graph, by magnitude: pruning for what comes as a graph.

A mask is a parameter of its own, named after the weight it stands on, so that weights that are one
share it, and the graph prints, saves and runs with it. It changes numbers, and so it is no part of
the pipeline; a module is better pruned by `sparse_compiler.sparsify`, which has all criteria.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import ClassVar

import torch

from sparse_compiler.errors import UnsupportedError
from sparse_compiler.ir.graph import Graph, Node, Value
from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.types import TensorType
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.passes.base import Context, Pass
from sparse_compiler.pruning.patterns import parse_pattern
from sparse_compiler.pruning.scopes import SCOPES


@dataclass(frozen=True)
class InsertMasks(Pass):
    """linear(x, w)  =>  linear(x, where(mask, w, 0))   the smallest units of w in the pattern gone.

    sparsity, pattern, scope, min_weights: as of `sparse_compiler.Recipe`, for patterns of single
    weights. include: a glob on the names of weights. The masks join `context.params`.

    Without `context.params` nothing is known and nothing is done. Raises UnsupportedError for a
    pattern whose units span several weights.
    """

    name: ClassVar[str] = "insert-masks"
    sparsity: float = 0.9
    pattern: str = "unstructured"
    scope: str = "uniform"
    include: str = "*"
    min_weights: int = 4096

    def run(self, graph: Graph, context: Context) -> Graph:
        pattern = parse_pattern(self.pattern)
        if pattern.grouped and not pattern.rows_alone:
            raise UnsupportedError(
                f"cannot insert masks of pattern {self.pattern!r} into a graph",
                why="its units span several weights",
                fix="prune the module by sparse_compiler.sparsify",
            )
        params = context.params
        if params is None:  # nothing is known of any weight
            return graph
        names = [name for name in self._weights(graph, params, context) if context.spend()]
        matrices = [params[name].detach().abs().flatten(1) for name in names]
        shares = [0.0 if pattern.fixed_sparsity is not None else self.sparsity] * len(names)
        found = pattern.masks(
            matrices,
            [torch.ones_like(m, dtype=torch.bool) for m in matrices],
            shares,
            SCOPES[self.scope],
        )
        masks = {
            f"{name}.mask": mask.reshape(params[name].shape)
            for name, mask in zip(names, found, strict=True)
        }
        if not masks:
            return graph
        context.params = {**params, **masks}
        return _masked(graph, names)

    def _weights(
        self, graph: Graph, params: Mapping[str, torch.Tensor], context: Context
    ) -> Iterator[str]:
        """Parameters that a layer reads as they are, each once; reasons for the others."""
        values = {value.name: value for value in graph.params}
        pattern = parse_pattern(self.pattern)
        seen: set[str] = set()
        for node in graph.nodes:
            place = node.op.weight_input
            if place is None or node.name in graph.weight_time:
                continue
            name = node.inputs[place]
            if name in seen or not fnmatchcase(name, self.include):
                continue
            reason = _refused(graph, node, name, values, self.min_weights)
            if reason is None:
                misfit = pattern.misfit(*params[name].flatten(1).shape)
                reason = No("pattern_does_not_fit", misfit) if misfit else None
            if reason is not None:
                context.refuse(node.name, reason)
                continue
            seen.add(name)
            yield name


def _refused(
    graph: Graph, node: Node, name: str, params: dict[str, Value], smallest: int
) -> No | None:
    if name not in params:
        return No("weight_is_computed", f"%{name} is no parameter; it may have a mask already")
    weight, result = params[name].type, node.type
    if f"{name}.mask" in graph.types:
        return No("name_is_taken", f"%{name}.mask is another value")
    size = 1
    for dim in weight.shape:
        size *= int(dim)  # parameters have no symbols
    if size < smallest:
        return No("weight_is_small", f"{size} weights, fewer than {smallest}")
    rows = result.shape[node.op.channel_dim] if isinstance(result, TensorType) else None
    if weight.shape[0] != rows:
        return No("weight_is_transposed", "its first dimension is not that of the outputs")
    return None


def _masked(graph: Graph, names: list[str]) -> Graph:
    """The graph with a mask for each of these weights, read by all that read the weight."""
    types = {value.name: value.type for value in graph.params}
    masks = tuple(Value(f"{n}.mask", replace(types[n], dtype="bool")) for n in names)
    nodes = [
        Node(Pointwise("where(x1, x0, 0.0)"), (n, f"{n}.mask"), types[n], f"{n}.masked")
        for n in names
    ]
    renamed = {n: f"{n}.masked" for n in names}
    nodes += [
        replace(node, inputs=tuple(renamed.get(i, i) for i in node.inputs)) for node in graph.nodes
    ]
    outputs = tuple(renamed.get(name, name) for name in graph.outputs)
    return graph.with_nodes(nodes, params=(*graph.params, *masks), outputs=outputs)
