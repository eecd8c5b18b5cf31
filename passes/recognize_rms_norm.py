"""Finds RMS norms that a model writes out with reductions (arXiv:1910.07467), as Llama's do.

Two rules, so that a norm is found with and without its weight. Whatever else reads a value in
between keeps it; the rest is dead afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.refusal import No
from sparse_compiler.ops.norm import RmsNorm
from sparse_compiler.ops.reduce import Reduce
from sparse_compiler.passes.base import Context, Pass
from sparse_compiler.passes.match import Pattern


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


def _bare(graph: Graph, producers: Mapping[str, Node], node: Node) -> Node | No | None:
    """x * rsqrt(mean(x^2) + eps)."""

    def mean(part: Node) -> str | None:
        if not isinstance(part.op, Reduce):
            return None
        last = graph.tensor(part.inputs[0]).rank - 1
        return part.inputs[0] if part.op == Reduce("mean", (last,), keepdim=True) else None

    for text in _FORMS:
        found = Pattern(text, {"mean": mean}).match(producers, node.name)
        if found is None:
            continue
        x, eps = found[0], found[1]
        if not isinstance(x, str) or not isinstance(eps, float):
            continue
        if node.type != graph.types[x]:
            return No("broadcast", f"%{node.name} is no norm of %{x}: their shapes differ")
        return replace(node, op=RmsNorm(eps, scale=False), inputs=(x,))
    return None


_FORMS = tuple(
    form.format(f"add(mean({square}), x1)")
    for square in ("pow(x0, 2.0)", "mul(x0, x0)")
    for form in ("mul(x0, rsqrt({}))", "div(x0, sqrt({}))", "mul(x0, pow({}, -0.5))")
)


def _weighted(graph: Graph, producers: Mapping[str, Node], node: Node) -> Node | No | None:
    """w * rms_norm(x) for a vector of weights."""

    def norm(part: Node) -> str | None:
        return part.name if isinstance(part.op, RmsNorm) and not part.op.scale else None

    found = Pattern("mul(x0, norm(x1))", {"norm": norm}).match(producers, node.name)
    if found is None or not isinstance(found[0], str) or not isinstance(found[1], str):
        return None
    weight, inner = found[0], producers[found[1]]
    if not isinstance(inner.op, RmsNorm):
        return None
    if weight not in graph.weight_time or graph.tensor(weight).shape != _last(graph, inner):
        return No("weight", f"%{weight} is no vector of weights along the last dimension")
    return replace(node, op=replace(inner.op, scale=True), inputs=(inner.inputs[0], weight))


def _last(graph: Graph, norm: Node) -> tuple[object, ...]:
    return graph.tensor(norm.inputs[0]).shape[-1:]
