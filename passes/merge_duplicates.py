"""Computes equal things once: the same op on the same inputs is the same value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.op import Op
from sparse_compiler.ops.torch_call import TorchCall
from sparse_compiler.passes.base import Context, Pass


@dataclass(frozen=True)
class MergeDuplicates(Pass):
    """%a = f(%x); %b = f(%x)  =>  %a = f(%x), and %a wherever %b stood.

    Calls into torch may draw random numbers, so they are left alone.
    """

    name: ClassVar[str] = "merge-duplicates"

    def run(self, graph: Graph, context: Context) -> Graph:
        seen: dict[tuple[Op, tuple[str, ...]], str] = {}
        renamed: dict[str, str] = {}
        nodes: list[Node] = []
        for node in graph.nodes:
            inputs = tuple(renamed.get(name, name) for name in node.inputs)
            node = node if inputs == node.inputs else replace(node, inputs=inputs)
            if isinstance(node.op, TorchCall):
                nodes.append(node)
                continue
            first = seen.setdefault((node.op, inputs), node.name)
            # a result keeps its own value: outputs that share memory would surprise the caller
            if first != node.name and node.name not in graph.results and context.spend():
                renamed[node.name] = first
            else:
                nodes.append(node)
        return graph.with_nodes(nodes) if renamed else graph
