"""Finds rotary position embeddings that a model writes out (arXiv:2104.09864), as Llama's do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_compiler.ir.expr import Arg, Call
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.types import Dim
from sparse_compiler.ops.cat import Cat
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.rotary import Rotary
from sparse_compiler.ops.shape import Reshape, Slice
from sparse_compiler.passes.base import Context, Pass
from sparse_compiler.passes.match import Pattern
from sparse_compiler.passes.rewriter import Rewriter


@dataclass(frozen=True)
class RecognizeRotary(Pass):
    """x * cos + cat(-x[D/2:], x[:D/2]) * sin  =>  rotary(x, cos, sin)."""

    name: ClassVar[str] = "recognize-rotary"

    def run(self, graph: Graph, context: Context) -> Graph:
        rw = Rewriter(graph)
        for node in graph.nodes:
            found = _parts(rw, node)
            if isinstance(found, No):
                context.refuse(node.name, found)
            if not isinstance(found, tuple) or not context.spend():
                rw.keep(node)
                continue
            x, *angles = found
            shape = _angles(rw.tensor(x).shape, rw.tensor(angles[0]).shape)
            named = zip(angles, ("cos", "sin"), strict=True)
            vectors = [_flat(rw, name, shape, f"{node.name}.{kind}") for name, kind in named]
            rw.replace(node, Rotary(), (x, *vectors))
        return rw.finish()


def _parts(rw: Rewriter, node: Node) -> tuple[str, str, str] | No | None:
    """(x, cos, sin), a refusal, or None for other nodes."""

    def turned(part: Node) -> str | None:
        return _turned(rw, part)

    pattern = Pattern("add(mul(x0, x1), mul(turned(x0), x2))", {"turned": turned})
    found = pattern.match(rw.producers, node.name)
    if found is None:
        return None
    x, cos, sin = found[0], found[1], found[2]
    if not (isinstance(x, str) and isinstance(cos, str) and isinstance(sin, str)):
        return None
    shapes = rw.tensor(x).shape, rw.tensor(cos).shape
    if _angles(*shapes) is None or rw.tensor(sin) != rw.tensor(cos) or node.type != rw.tensor(x):
        return No("angles", f"%{cos} of {shapes[1]} is no table of angles for {shapes[0]}")
    return x, cos, sin


def _angles(x: tuple[Dim, ...], table: tuple[Dim, ...]) -> tuple[Dim, ...] | None:
    """[B or 1, S, D] for a table that broadcasts over the heads of x [B, H, S, D], else None."""
    full: tuple[Dim, ...] = (1,) * (4 - len(table)) + table
    if len(x) != 4 or len(full) != 4 or full[1] != 1 or full[2:] != x[2:]:
        return None
    even = isinstance(x[3], int) and x[3] % 2 == 0
    return (full[0], *full[2:]) if full[0] in (1, x[0]) and even else None


def _flat(rw: Rewriter, name: str, shape: tuple[Dim, ...] | None, new: str) -> str:
    """The table without its dimension of heads."""
    if shape is None or rw.tensor(name).shape == shape:
        return name
    node = rw.producers.get(name)
    view = node is not None and isinstance(node.op, Reshape)
    if node is not None and view and rw.tensor(node.inputs[0]).shape == shape:
        return node.inputs[0]
    return rw.add(Reshape(shape), (name,), new)


def _turned(rw: Rewriter, node: Node) -> str | None:
    """x of cat(-x[D/2:], x[:D/2]) along the last dimension."""
    if not isinstance(node.op, Cat) or len(node.inputs) != 2:
        return None
    minus, first = (rw.producers.get(name) for name in node.inputs)
    if minus is None or first is None or not isinstance(minus.op, Pointwise):
        return None
    second = rw.producers.get(minus.inputs[0])
    if minus.op.tree != Call("neg", (Arg(0),)) or second is None:
        return None
    x = second.inputs[0]
    last, size = rw.tensor(node.name).rank - 1, rw.tensor(node.name).shape[-1]
    if not isinstance(size, int) or node.op.dim != last or first.inputs != (x,):
        return None
    halves = Slice(last, 0, size // 2), Slice(last, size // 2, size)
    return x if (first.op, second.op) == halves else None
