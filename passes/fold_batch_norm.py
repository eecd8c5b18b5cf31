"""Folds a batch norm into the weight before it; what cannot be folded becomes a scale and a shift.

With running statistics a batch norm is s * x + t per channel, s = gamma / sqrt(var + eps) and
t = beta - s * mean (arXiv:1502.03167). A scaled row of a weight has the zeros that it had.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.refusal import No
from sparse_compiler.ops.batch_norm import BatchNorm
from sparse_compiler.ops.epilogue import TakesEpilogue
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.shape import Reshape
from sparse_compiler.passes.base import Context, Pass
from sparse_compiler.passes.rewriter import Rewriter


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """batch_norm(conv(x, w, b))  =>  conv(x, s * w, s * b + t); alone  =>  s * x + t."""

    name: ClassVar[str] = "fold-batch-norm"

    def run(self, graph: Graph, context: Context) -> Graph:
        norms = [node for node in graph.nodes if isinstance(node.op, BatchNorm)]
        folded: dict[str, Node] = {}  # the layers that norms go into, by the norm's name
        for norm in norms:
            layer = _layer(graph, norm)
            if isinstance(layer, No):
                context.refuse(norm.name, layer)
            else:
                folded[norm.name] = layer
        rw = Rewriter(graph)
        gone: set[str] = set()
        for node in graph.nodes:
            fixed = all(name in graph.weight_time for name in node.inputs[1:])
            if not isinstance(node.op, BatchNorm) or not fixed or not context.spend():
                rw.keep(node)
                continue
            scale, shift = _affine(rw, node, node.op)
            if node.name in folded:
                _fold(rw, node, folded[node.name], scale, shift)
                gone.add(folded[node.name].name)
            else:
                _alone(rw, node, scale, shift)
        rw.nodes = [node for node in rw.nodes if node.name not in gone]
        return rw.finish()


def _layer(graph: Graph, norm: Node) -> Node | No:
    """The layer that makes the norm's input, if the norm can be part of its weight."""
    layer = graph.producers.get(norm.inputs[0])
    if layer is None or layer.op.weight_input is None or not isinstance(layer.op, TakesEpilogue):
        return No("not_foldable", f"no layer with a weight makes %{norm.inputs[0]}")
    if layer.op.channel_dim % graph.tensor(layer.name).rank != 1:
        return No("not_foldable", f"the channels of %{layer.name} are not those of the norm")
    if len(graph.users[layer.name]) > 1 or layer.name in graph.results:
        return No("shared_value", f"%{layer.name} is read elsewhere too")
    if layer.op.epilogue != "x0":
        return No("epilogue", f"{layer.op.epilogue} comes between %{layer.name} and the norm")
    if not all(name in graph.weight_time for name in (*layer.inputs[1:], *norm.inputs[1:])):
        return No("weight_is_computed", "the weight or a statistic changes from call to call")
    return layer


def _affine(rw: Rewriter, node: Node, op: BatchNorm) -> tuple[str, str]:
    """s and t [C] of a batch norm, computed when weights change."""
    _, mean, variance, *affine = node.inputs
    gamma = affine[:1] if op.scale else []
    beta = affine[-1:] if op.shift else []
    root = f"sqrt(add(x0, {op.eps!r}))"
    text = f"div(x1, {root})" if gamma else f"reciprocal({root})"
    scale = rw.add(Pointwise(text), (variance, *gamma), f"{node.name}.scale")
    text = "sub(x2, mul(x0, x1))" if beta else "neg(mul(x0, x1))"
    shift = rw.add(Pointwise(text), (scale, mean, *beta), f"{node.name}.shift")
    return scale, shift


def _fold(rw: Rewriter, node: Node, layer: Node, scale: str, shift: str) -> None:
    """The layer with scaled rows in the place of the norm."""
    x, weight, *bias = layer.inputs
    column = (rw.tensor(scale).shape[0], *(1 for _ in rw.tensor(weight).shape[1:]))
    rows = rw.add(Reshape(column), (scale,), f"{node.name}.scale.rows")
    folded = rw.add(Pointwise("mul(x0, x1)"), (weight, rows), f"{weight}.folded")
    if bias:
        inputs = (*bias, scale, shift)
        shift = rw.add(Pointwise("add(mul(x0, x1), x2)"), inputs, f"{bias[0]}.folded")
    rw.replace(node, replace(cast(Any, layer.op), bias=True), (x, folded, shift))
    rw.nodes[-1] = replace(rw.nodes[-1], loc=layer.loc)


def _alone(rw: Rewriter, node: Node, scale: str, shift: str) -> None:
    """The norm as arithmetic."""
    column = (rw.tensor(scale).shape[0], *(1 for _ in rw.tensor(node.name).shape[2:]))
    if len(column) > 1:
        scale = rw.add(Reshape(column), (scale,), f"{node.name}.scale.column")
        shift = rw.add(Reshape(column), (shift,), f"{node.name}.shift.column")
    rw.replace(node, Pointwise("add(mul(x0, x1), x2)"), (node.inputs[0], scale, shift))
