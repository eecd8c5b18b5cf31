"""Spreading a value over samples comes last: what is computed of it before, is computed once.

Position ids of transformers are one row of numbers, spread over the batch and only then looked up:
a table [B, S, C] for every set of sizes, of B equal parts. Arithmetic broadcasts by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ops.embedding import Embedding
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.shape import Expand
from sparse_compiler.passes.base import Context, Pass
from sparse_compiler.passes.rewriter import Rewriter


@dataclass(frozen=True)
class SinkExpands(Pass):
    """embedding(t, expand(i))  =>  expand(embedding(t, i));  add(x, expand(y))  =>  add(x, y).

    For t, i and y that depend on no input: what varies from call to call is chosen a layout as it
    is.
    """

    name: ClassVar[str] = "sink-expands"

    def run(self, graph: Graph, context: Context) -> Graph:
        rw = Rewriter(graph)
        constant = {param.name for param in graph.params}
        for node in graph.nodes:
            if constant.issuperset(node.inputs):
                constant.add(node.name)
            if isinstance(node.op, Embedding) and node.name in constant:
                source = _before_expand(rw, node.inputs[1])
                if source is not None and context.spend():
                    row = rw.add(node.op, (node.inputs[0], source), f"{node.name}.once", node.loc)
                    rw.replace(node, Expand(rw.tensor(node.name).shape), (row,))
                    continue
            if isinstance(node.op, Pointwise):
                inputs = _without_expands(rw, node, constant)
                if inputs != node.inputs and context.spend():
                    rw.replace(node, node.op, inputs)
                    continue
            rw.keep(node)
        return rw.finish()


def _before_expand(rw: Rewriter, name: str) -> str | None:
    """What a value is spread from; None where nothing spreads it."""
    producer = rw.producers.get(name)
    return producer.inputs[0] if producer is not None and isinstance(producer.op, Expand) else None


def _without_expands(rw: Rewriter, node: Node, constant: set[str]) -> tuple[str, ...]:
    """The inputs from before they were spread, wherever the result keeps its type."""
    inputs = list(node.inputs)
    for i, name in enumerate(node.inputs):
        source = _before_expand(rw, name)
        if source is None or name not in constant:
            continue
        tried = [*inputs[:i], source, *inputs[i + 1 :]]
        if node.op.infer(tuple(rw.tensor(n) for n in tried)) == node.type:
            inputs = tried
    return tuple(inputs)
