"""Finds RMS norms that a model writes out with reductions (arXiv:1910.07467), as Llama's do.

Two rules, so that a norm is found with and without its weight. Whatever else reads a value in
between keeps it; the rest is dead afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sparse_compiler.ir.attrs import Slot
from sparse_compiler.ir.expr import Arg, Const, Expr
from sparse_compiler.ir.expr import Call as ExprCall
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.refusal import No
from sparse_compiler.ops.norm import RmsNorm
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.torch_call import TorchCall
from sparse_compiler.passes.base import Context, Pass

_SQUARES = (ExprCall("pow", (Arg(0), Const(2.0))), ExprCall("mul", (Arg(0), Arg(0))))
_PRODUCT = ExprCall("mul", (Arg(0), Arg(1)))


@dataclass(frozen=True)
class RecognizeRmsNorm(Pass):
    """x * rsqrt(mean(x^2) + eps)  =>  rms_norm[eps](x);  w * rms_norm(x)  =>  rms_norm(x, w)."""

    name: ClassVar[str] = "recognize-rms-norm"

    def run(self, graph: Graph, context: Context) -> Graph:
        producers = dict(graph.producers)
        nodes = []
        for node in graph.nodes:
            for rule in (_bare, _weighted):
                found = rule(graph, producers, node)
                if isinstance(found, No):
                    context.refuse(node.name, found)
                elif found is not None and context.spend():
                    node = found
            producers[node.name] = node
            nodes.append(node)
        return graph.with_nodes(nodes)


def _bare(graph: Graph, producers: dict[str, Node], node: Node) -> Node | No | None:
    """x * rsqrt(mean(x^2) + eps)."""
    if _tree(node) != _PRODUCT:
        return None
    for x, scale in (node.inputs, node.inputs[::-1]):
        root = producers.get(scale)
        mean, eps = _inverse_root(producers, root)
        squares = _mean_of_last(graph, producers, mean)
        if squares is None or squares.inputs != (x,) or _tree(squares) not in _SQUARES:
            continue
        if node.type != graph.types[x]:
            return No("broadcast", f"%{node.name} is no norm of %{x}: their shapes differ")
        return replace(node, op=RmsNorm(eps, scale=False), inputs=(x,))
    return None


def _inverse_root(producers: dict[str, Node], node: Node | None) -> tuple[Node | None, float]:
    """The node a and the eps in rsqrt(a + eps); one node, or two."""
    match _tree(node):
        case ExprCall("rsqrt", (Arg(0),)) if node is not None:
            inner = producers.get(node.inputs[0])
            match _tree(inner):
                case ExprCall("add", (Arg(0), Const(eps))) if inner is not None:
                    return producers.get(inner.inputs[0]), eps
        case ExprCall("rsqrt", (ExprCall("add", (Arg(0), Const(eps))),)) if node is not None:
            return producers.get(node.inputs[0]), eps
    return None, 0.0


def _mean_of_last(graph: Graph, producers: dict[str, Node], node: Node | None) -> Node | None:
    """What a mean over the last dimension, which it keeps, is taken of."""
    if node is None or not isinstance(node.op, TorchCall) or node.op.target != "aten.mean.dim":
        return None
    rank = graph.tensor(node.inputs[0]).rank
    if node.op.kwargs or node.op.args not in [(Slot(0), (d,), True) for d in (-1, rank - 1)]:
        return None
    return producers.get(node.inputs[0])


def _weighted(graph: Graph, producers: dict[str, Node], node: Node) -> Node | No | None:
    """w * rms_norm(x) for a vector of weights."""
    if _tree(node) != _PRODUCT:
        return None
    for weight, other in (node.inputs, node.inputs[::-1]):
        norm = producers.get(other)
        if norm is None or not isinstance(norm.op, RmsNorm) or norm.op.scale:
            continue
        if weight not in graph.weight_time or graph.tensor(weight).shape != _last(graph, norm):
            return No("weight", f"%{weight} is no vector of weights along the last dimension")
        op = replace(norm.op, scale=True)
        return replace(node, op=op, inputs=(norm.inputs[0], weight))
    return None


def _last(graph: Graph, norm: Node) -> tuple[object, ...]:
    return graph.tensor(norm.inputs[0]).shape[-1:]


def _tree(node: Node | None) -> Expr | None:
    return node.op.tree if node is not None and isinstance(node.op, Pointwise) else None
