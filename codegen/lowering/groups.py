"""Groups of nodes that work on the same tokens, column by column, with an attention among them.

Threads may hold tokens of one sample each in such a group and meet around attention only.
"""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx

from sparse_compiler.codegen.lowering import rule_of
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.types import Dim, TensorType, product
from sparse_compiler.ops.attention import Attention


def token_groups(
    graph: Graph, nodes: Sequence[Node], samples: Dim, constants: frozenset[str]
) -> dict[str, int]:
    """Per node of a group its number."""
    columnwise = {node.name: node for node in nodes if _columnwise(graph, node)}
    joined = nx.Graph()
    for node in columnwise.values():
        joined.add_node(node.name)
        for name in node.inputs:
            if name in columnwise and _columns(graph, name) == _columns_of(graph, node):
                joined.add_edge(name, node.name)
    position = {node.name: i for i, node in enumerate(nodes)}
    components = sorted(
        nx.connected_components(joined), key=lambda c: min(map(position.__getitem__, c))
    )
    groups: dict[str, int] = {}
    number = 0
    for component in components:
        if any(_attends(graph, columnwise[name], samples) for name in component):
            groups |= dict.fromkeys(component, number)
            number += 1
    return groups


def _columnwise(graph: Graph, node: Node) -> bool:
    rule = rule_of(node.op)
    if _columns_of(graph, node) is None:
        return False
    if node.op.view:
        return _planar(graph.types.get(node.inputs[0])) and _planar(node.type)
    return rule is not None and rule.columnwise(graph, node)


def _planar(type_: object) -> bool:
    return isinstance(type_, TensorType) and type_.layout is not None and type_.layout.planes > 0


def _columns_of(graph: Graph, node: Node) -> Dim | None:
    """Columns of a node's result, or of what it copies out of planes."""
    return _columns(graph, node.name if _planar(node.type) or not node.inputs else node.inputs[0])


def _columns(graph: Graph, name: str) -> Dim | None:
    type_ = graph.types[name]
    if not isinstance(type_, TensorType) or type_.layout is None or type_.layout.planes == 0:
        return None
    return product(type_.shape[d] for d in type_.layout.inner)


def _attends(graph: Graph, node: Node, samples: Dim) -> bool:
    """True for an attention within each sample, over all of its tokens."""
    if not isinstance(node.op, Attention):
        return False
    return graph.tensor(node.inputs[0]).shape[0] == samples
