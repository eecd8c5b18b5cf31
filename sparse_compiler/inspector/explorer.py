"""Graphs in the JSON of Model Explorer (ai-edge-model-explorer), whose viewer folds and searches
them: the graph before all passes and the one after, nodes grouped by module path."""

from __future__ import annotations

import re
from typing import Any

from ..ir.attrs import print_attr
from ..ir.graph import Graph, Node
from ..ir.text import print_type
from ..runtime.pipeline import Lowered


def explorer_graphs(lowered: Lowered) -> dict[str, Any]:
    """`{"graphs": [...]}`, to be written to a .json file and opened in Model Explorer."""
    graphs = {"before all passes": lowered.source, "after all passes": lowered.graph}
    return {"graphs": [{"id": name, "nodes": _nodes(graph)} for name, graph in graphs.items()]}


def _nodes(graph: Graph) -> list[dict[str, Any]]:
    found = [
        _node(value.name, kind, kind, (), {}, print_type(value.type))
        for kind, values in (("input", graph.inputs), ("param", graph.params))
        for value in values
    ]
    found += [_operation(node) for node in graph.nodes]
    found += [
        _node(f"return {i}", "return", "return", (name,), {}, print_type(graph.types[name]))
        for i, name in enumerate(graph.outputs)
    ]
    return found


def _operation(node: Node) -> dict[str, Any]:
    attributes = {name: print_attr(value) for name, value in node.op.attributes().items()}
    if node.loc:
        attributes["from"] = node.loc
    module, _, _ = node.name.rpartition(".")
    namespace = "/".join(_folded(module))
    return _node(node.name, node.op.name, namespace, node.inputs, attributes, print_type(node.type))


def _folded(module: str) -> list[str]:
    """Path of a module with `layer.0` as one folder, as people think of it."""
    return re.sub(r"\.(\d+)(?=\.|$)", r" \1", module).split(".") if module else []


def _node(
    name: str,
    label: str,
    namespace: str,
    inputs: tuple[str, ...],
    attributes: dict[str, str],
    type_: str,
) -> dict[str, Any]:
    return {
        "id": name,
        "label": label,
        "namespace": namespace,
        "attrs": [{"key": key, "value": value} for key, value in attributes.items()],
        "incomingEdges": [
            {"sourceNodeId": source, "sourceNodeOutputId": "0", "targetNodeInputId": str(i)}
            for i, source in enumerate(inputs)
        ],
        "outputsMetadata": [
            {
                "id": "0",
                "attrs": [{"key": "name", "value": name}, {"key": "type", "value": type_}],
            }
        ],
    }
