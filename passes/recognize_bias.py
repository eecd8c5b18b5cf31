"""Finds the bias of a layer where it is added behind the layer, as in TVM's and ONNX's graphs.

A bias inside a layer lets parallel layers be merged, and a batch norm behind it be folded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

from sparse_compiler.ir.expr import Arg, Call
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.types import Dim
from sparse_compiler.ops.conv import Conv
from sparse_compiler.ops.linear import Linear
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.shape import Reshape
from sparse_compiler.passes.base import Context, Pass
from sparse_compiler.passes.rewriter import Rewriter

_SUMS = (Call("add", (Arg(0), Arg(1))), Call("add", (Arg(1), Arg(0))))


@dataclass(frozen=True)
class RecognizeBias(Pass):
    """add(linear(x, w), b)  =>  linear[bias](x, w, b);  likewise conv, b one number a channel."""

    name: ClassVar[str] = "recognize-bias"

    def run(self, graph: Graph, context: Context) -> Graph:
        rw = Rewriter(graph)
        gone: set[str] = set()
        for node in graph.nodes:
            found = _layer_and_bias(rw, node)
            if isinstance(found, No):
                context.refuse(node.name, found)
            if not isinstance(found, tuple) or not context.spend():
                rw.keep(node)
                continue
            layer, bias = found
            vector = _vector(rw, bias, f"{node.name}.bias")
            op = replace(cast(Any, layer.op), bias=True)
            rw.replace(node, op, (*layer.inputs, vector))
            rw.nodes[-1] = replace(rw.nodes[-1], loc=layer.loc)
            gone.add(layer.name)
        rw.nodes = [node for node in rw.nodes if node.name not in gone]
        return rw.finish()


def _layer_and_bias(rw: Rewriter, node: Node) -> tuple[Node, str] | No | None:
    """The layer in a sum and the other term; a refusal; None for other nodes."""
    if not isinstance(node.op, Pointwise) or len(node.inputs) != 2 or node.op.tree not in _SUMS:
        return None
    for name, bias in (node.inputs, node.inputs[::-1]):
        layer = rw.producers.get(name)
        if layer is None or not isinstance(layer.op, (Linear, Conv)) or layer.op.bias:
            continue
        if bias not in rw.graph.weight_time or name in rw.graph.weight_time:
            continue
        if layer.op.epilogue != "x0" or layer.type != node.type:
            return No("epilogue", f"%{name} is changed or spread before %{bias} is added")
        if not rw.only_reader(name):
            return No("shared_value", f"%{name} is read elsewhere too, without %{bias}")
        if not _per_channel(rw, layer, bias):
            return No("no_bias", f"%{bias} has not one number for each channel of %{name}")
        return layer, bias
    return None


def _per_channel(rw: Rewriter, layer: Node, bias: str) -> bool:
    result, given = rw.tensor(layer.name), rw.tensor(bias)
    dim = layer.op.channel_dim % result.rank
    if given.rank > result.rank or given.dtype != result.dtype:
        return False
    full: tuple[Dim, ...] = (1,) * (result.rank - given.rank) + given.shape
    return full == tuple(size if i == dim else 1 for i, size in enumerate(result.shape))


def _vector(rw: Rewriter, name: str, new: str) -> str:
    """The bias as [M]: itself, what it was reshaped from, or a view."""
    shape = (rw.tensor(name).numel,)
    if rw.tensor(name).shape == shape:
        return name
    node = rw.producers.get(name)
    if (
        node is not None
        and isinstance(node.op, Reshape)
        and rw.tensor(node.inputs[0]).shape == shape
    ):
        return node.inputs[0]
    return rw.add(Reshape(shape), (name,), new)
