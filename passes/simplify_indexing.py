"""Indexing by whole ranges, as masks of transformers write it, moves nothing: it is a reshape.

`mask[arange(B)[:, None, None, None], arange(S)]` of a mask [B, S] is that mask as [B, 1, 1, S].
As a view it needs no kernel, and it keeps samples apart, which indices do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.refusal import No
from sparse_compiler.ops.index import Index
from sparse_compiler.ops.iota import Iota
from sparse_compiler.ops.shape import Reshape
from sparse_compiler.passes.base import Context, Pass
from sparse_compiler.passes.rewriter import Rewriter


@dataclass(frozen=True)
class SimplifyIndexing(Pass):
    """index(x, iota, iota)  =>  reshape(x), where the ranges are whole and in order."""

    name: ClassVar[str] = "simplify-indexing"

    def run(self, graph: Graph, context: Context) -> Graph:
        rw = Rewriter(graph)
        for node in graph.nodes:
            refusal = _refusal(rw, node)
            if refusal is not None and isinstance(node.op, Index):
                context.refuse(node.name, refusal)
            if refusal is not None or not context.spend():
                rw.keep(node)
                continue
            rw.replace(node, Reshape(rw.tensor(node.name).shape), node.inputs[:1])
        return rw.finish()


def _refusal(rw: Rewriter, node: Node) -> No | None:
    """Why the node is no view of its first input."""
    if not isinstance(node.op, Index):
        return No("op_unsupported", f"{node.op.name} does no indexing")
    x, indices = rw.tensor(node.inputs[0]), node.inputs[1:]
    rank = rw.tensor(node.name).rank - (x.rank - len(indices))
    axes: list[int] = []
    for dim, name in enumerate(indices, node.op.dim):
        source = _through_reshapes(rw, name)
        if source is None or source.op != Iota(length=x.shape[dim], dtype=_dtype(source)):
            return No("indices", f"%{name} is not every number below {x.shape[dim]}")
        shape = rw.tensor(name).shape
        own = [rank - len(shape) + d for d, size in enumerate(shape) if size != 1]
        if len(own) > 1 or (axes and own and own[0] <= axes[-1]):
            return No("indices", f"%{name} runs along the wrong dimension")
        axes += own
    return None


def _dtype(node: Node) -> str:
    return node.op.dtype if isinstance(node.op, Iota) else ""


def _through_reshapes(rw: Rewriter, name: str) -> Node | None:
    """The node that makes a value, views aside."""
    node = rw.producers.get(name)
    while node is not None and isinstance(node.op, Reshape):
        node = rw.producers.get(node.inputs[0])
    return node
