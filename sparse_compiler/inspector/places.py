"""Where the layers of a graph are: what makes a node one, and the weight that it reads."""

from __future__ import annotations

from ..ir.graph import Graph, Node
from ..ops.embedding import Embedding
from ..ops.torch_call import TorchCall
from ..passes.provenance import module_path, weight_sources
from ..runtime.pipeline import Lowered

_LAYER_CALLS = (
    "aten.conv",
    "aten.linear",
    "aten.addmm",
    "aten.bmm",
    "aten.mm",
    "aten.matmul",
    "aten.lstm",
    "aten.gru",
    "aten.rnn",
    "aten.embedding",
    "aten.einsum",
)


def layer_weight(graph: Graph, node: Node) -> str | None:
    """The weight-time value that makes a node a layer; None for other nodes."""
    if node.op.weight_input is not None:
        return node.inputs[node.op.weight_input]
    called = isinstance(node.op, TorchCall) and node.op.target.startswith(_LAYER_CALLS)
    if called or isinstance(node.op, Embedding):
        params = {param.name for param in graph.params}
        weights = [i for i in node.inputs if i in graph.weight_time and _root(graph, i) in params]
        return next((i for i in weights if graph.tensor(i).rank >= 2), None)
    return None


def _root(graph: Graph, value: str) -> str:
    """What a weight-time value was made of first: a parameter, or a constant."""
    while value in graph.producers and graph.producers[value].inputs:
        value = graph.producers[value].inputs[0]
    return value


def layer_values(lowered: Lowered) -> dict[str, dict[str, str]]:
    """By layer: the value that it computes, and the one that is its weight."""
    graph, facts = lowered.graph, lowered.context.facts
    found = {}
    for node in graph.nodes:
        weight = None if node.name in graph.weight_time else layer_weight(graph, node)
        if weight is not None:
            for source in weight_sources(graph, weight, facts):
                found[module_path(graph, source)] = {"value": node.name, "source": source}
    return found
