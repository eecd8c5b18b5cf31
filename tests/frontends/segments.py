"""Segments that torch itself runs, in place of native ones: what hosts them can be tested alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from sparse_compiler.codegen.lower import lower
from sparse_compiler.frontends.importer import Imported
from sparse_compiler.ir.graph import Graph
from sparse_compiler.ir.interpret import bind_shape, run_node
from sparse_compiler.ir.types import TensorType
from sparse_compiler.passes.base import Context
from sparse_compiler.runtime.pipeline import Lowered

CPU = torch.device("cpu")
OPS = ("linear", "attention", "layer_norm", "pointwise", "reshape", "permute", "slice")
Grouping = Callable[[Imported], list[tuple[Any, ...]]]


@dataclass
class TorchSegment:
    """Nodes of the graph run by their references, on the parameters as they are at the call."""

    imported: Imported
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    calls: int = 0
    device: torch.device = CPU

    def run(self, tensors: list[Any], known: dict[str, int] | None = None) -> list[torch.Tensor]:
        assert all(t.is_contiguous() for t in tensors)
        graph, symbols = self.imported.graph, dict(known or {})
        for name, tensor in zip(self.inputs, tensors, strict=True):
            assert bind_shape(graph.types[name], tensor.shape, symbols) is None
        values = {**self.imported.params, **dict(zip(self.inputs, tensors, strict=True))}

        def value(name: str) -> torch.Tensor:
            if name not in values:
                node = graph.producers[name]
                inputs = [value(i) for i in node.inputs]
                values[name] = run_node(node, inputs, symbols, graph.objects)
            return values[name]

        self.calls += 1
        contiguous = torch.contiguous_format
        with torch.no_grad():
            return [value(name).clone(memory_format=contiguous) for name in self.outputs]


def native_nodes(imported: Imported, ops: tuple[str, ...]) -> list[Any]:
    graph = imported.graph
    return [
        node
        for node in graph.nodes
        if node.op.name in ops
        and node.name not in graph.weight_time
        and isinstance(node.type, TensorType)
        and node.type.dtype == "f32"
    ]


def each_linear(imported: Imported) -> list[tuple[Any, ...]]:
    return [(node,) for node in native_nodes(imported, ("linear",))]


def each_op(imported: Imported) -> list[tuple[Any, ...]]:
    return [(node,) for node in native_nodes(imported, OPS)]


def long_runs(imported: Imported) -> list[tuple[Any, ...]]:
    """Nodes up to the first that torch must run on their results."""
    native, groups, current = set(native_nodes(imported, OPS)), [], []
    for node in imported.graph.nodes:
        if node in native:
            current.append(node)
        elif {c.name for c in current} & set(node.inputs):
            groups.append(tuple(current))
            current = []
    return [*groups, tuple(current)]


class Pipeline:
    """Stands in for the compiler: `build_segments` by a grouping of nodes."""

    def __init__(self, grouping: Grouping) -> None:
        self.grouping = grouping
        self.built: list[TorchSegment] = []
        self.graphs: list[Any] = []
        self.hints: list[dict[str, int]] = []

    def build_segments(
        self, graph: Graph, params: Any, options: Any, hints: Any
    ) -> tuple[list[TorchSegment], Lowered]:
        imported = Imported(graph, params)
        self.hints.append(hints)
        segments = []
        for nodes in self.grouping(imported):
            names = {node.name for node in nodes}
            read = dict.fromkeys(i for node in nodes for i in node.inputs)
            inputs = [i for i in read if i not in names and i not in graph.weight_time]
            outputs = [
                name
                for name in (node.name for node in nodes)
                if name in graph.results or any(u.name not in names for u in graph.users[name])
            ]
            if outputs:
                segments.append(TorchSegment(imported, tuple(inputs), tuple(outputs)))
        self.built += segments
        self.graphs.append(graph)
        return segments, Lowered(graph, graph, lower(graph), Context(), ())


def assert_equal(ours: Any, eager: Any, tolerance: float = 1e-5) -> None:
    for a, b in zip(pytree.tree_leaves(ours), pytree.tree_leaves(eager), strict=True):
        if not isinstance(b, torch.Tensor):
            continue
        assert a.shape == b.shape and a.dtype == b.dtype and a.stride() == b.stride()
        if b.numel():
            assert float((a - b).abs().max()) <= tolerance * float(b.abs().max())
