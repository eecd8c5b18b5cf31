"""Laid-out graph -> Program: groups native nodes into segments and lowers each to kernel calls."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import networkx as nx

from sparse_compiler.analysis.batch import batch_of
from sparse_compiler.codegen.lowering import rule_of
from sparse_compiler.codegen.lowering.context import Lowering, Separation
from sparse_compiler.codegen.lowering.places import with_lifetimes
from sparse_compiler.codegen.plan import waits_of
from sparse_compiler.codegen.program import Program, Segment, TorchStep
from sparse_compiler.errors import CodegenError
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.text import print_node
from sparse_compiler.ir.types import TensorType
from sparse_compiler.ops.shape import Relayout

log = logging.getLogger(__name__)


def lower(graph: Graph) -> Program:
    """The program of a laid-out graph. Raises `CodegenError` on what the passes let through."""
    segments = _segments(graph)
    owner = {node.name: i for i, nodes in enumerate(segments) for node in nodes}
    steps: list[Segment | TorchStep] = []
    for item in _ordered(graph, owner):
        if isinstance(item, int):
            steps.append(_lower_segment(graph, segments[item]))
        elif item.name not in graph.bind_time:
            steps.append(TorchStep(item))
    program = Program(
        tuple((v.name, v.type) for v in graph.inputs),
        tuple(n for n in graph.nodes if n.name in graph.weight_time),
        tuple(n for n in graph.nodes if n.name in graph.bind_time - graph.weight_time),
        tuple(steps),
        graph.outputs,
        graph.updates,
        graph.symbols,
    )
    log.debug("%s", program)
    return program


def is_native(graph: Graph, node: Node) -> bool:
    """True for what runs in a segment: a laid-out result, or the copy out of one."""
    if node.name in graph.bind_time:
        return False
    laid_out = isinstance(node.type, TensorType) and node.type.layout is not None
    return laid_out or isinstance(node.op, Relayout)


def _segments(graph: Graph) -> list[list[Node]]:
    """Native nodes joined by laid-out values, in the order of their first nodes."""
    joined = nx.Graph()
    for node in graph.nodes:
        if is_native(graph, node):
            joined.add_node(node.name)
            for name in node.inputs:
                type_ = graph.types[name]
                if name in graph.bind_time or not isinstance(type_, TensorType):
                    continue
                if type_.layout is not None:
                    joined.add_edge(name, node.name)
    position = {node.name: i for i, node in enumerate(graph.nodes)}
    components = sorted(
        (sorted(c, key=position.__getitem__) for c in nx.connected_components(joined)),
        key=lambda names: position[names[0]],
    )
    return [[graph.producers[name] for name in names] for names in components]


def _ordered(graph: Graph, owner: dict[str, int]) -> list[Node | int]:
    """Segments (by number) and other nodes in a legal order near the graph's own."""
    order = nx.DiGraph()
    first: dict[Node | int, int] = {}
    for position, node in enumerate(graph.nodes):
        item: Node | int = owner.get(node.name, node)
        first.setdefault(item, position)
        order.add_node(item)
        for name in node.inputs:
            source = graph.producers.get(name)
            if source is not None:
                origin: Node | int = owner.get(name, source)
                if origin != item:
                    order.add_edge(origin, item)
    try:
        return list(nx.lexicographical_topological_sort(order, key=first.__getitem__))
    except nx.NetworkXUnfeasible as error:
        raise CodegenError("segments depend on one another in a circle") from error


def _lower_segment(graph: Graph, nodes: Sequence[Node]) -> Segment:
    batch = batch_of(graph, nodes)
    separation = Separation(1, frozenset())
    if not isinstance(batch, No):
        separation = Separation(batch.samples, batch.carried)
    low = Lowering(graph, nodes, separation, graph.bind_time)
    for node in nodes:
        rule = rule_of(node.op)
        if rule is None:
            raise CodegenError("no kernel call for a native node", node=print_node(node))
        rule.emit(low, node)
    low.calls.sort(key=lambda call: not call.once)  # as they run: waits and lifetimes go by it
    return low.segment(waits_of(low.calls), with_lifetimes(low.buffers, low.calls))
