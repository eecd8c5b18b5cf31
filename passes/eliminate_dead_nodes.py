"""Removes nodes whose value nobody reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_compiler.ir.graph import Graph
from sparse_compiler.passes.base import Context, Pass


@dataclass(frozen=True)
class EliminateDeadNodes(Pass):
    """%a = f(%x); return %x  =>  return %x. Effects are updates, so no node is kept for them."""

    name: ClassVar[str] = "eliminate-dead-nodes"

    def run(self, graph: Graph, context: Context) -> Graph:
        live = set(graph.results)
        kept = []
        for node in reversed(graph.nodes):
            if node.name in live or not context.spend():
                kept.append(node)
                live.update(node.inputs)
        return graph.with_nodes(reversed(kept))
