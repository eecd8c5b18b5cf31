"""Finds activations that a model writes out, such as GPT-2's gelu (arXiv:1606.08415).

One function is cheaper than its parts: the kernels have a polynomial for the whole of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

from sparse_compiler.ir.expr import Call
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.passes.base import Context, Pass
from sparse_compiler.passes.match import Pattern

_CUBES = ("pow(x0, 3.0)", "mul(x0, mul(x0, x0))")
_TANH_ARGUMENTS = (
    *(f"mul(0.7978845608028654, add(x0, mul(0.044715, {cube})))" for cube in _CUBES),
    "mul(mul(x0, 0.7978845608028654), add(1.0, mul(mul(0.044715, x0), x0)))",
    "mul(mul(x0, 0.7978845608028654), add(1.0, mul(0.044715, mul(x0, x0))))",
)
_ERF_ARGUMENTS = ("div(x0, 1.4142135623730951)", "mul(x0, 0.7071067811865476)")
_SIX = "clamp(add(x0, 3.0), 0.0, 6.0)"


@dataclass(frozen=True)
class RecognizeActivations(Pass):
    """0.5 * x * (1 + erf(x / sqrt(2)))  =>  gelu(x); likewise its tanh form, silu, hardswish.

    min(max(x, 0), 6)  =>  clamp(x, 0, 6), as ONNX writes relu6;  max(x, 0)  =>  relu(x).
    """

    name: ClassVar[str] = "recognize-activations"

    def run(self, graph: Graph, context: Context) -> Graph:
        nodes = []
        for node in graph.nodes:
            found = _activation(graph, graph.producers, node)
            nodes.append(found if found is not None and context.spend() else node)
        return graph.with_nodes(nodes)


def _activation(graph: Graph, producers: Mapping[str, Node], node: Node) -> Node | None:
    root = node.op.tree if isinstance(node.op, Pointwise) else None
    if not isinstance(root, Call):
        return None
    if root.fn in _EXTREMES:
        return _clamp(graph, producers, node)
    if root.fn not in ("mul", "div"):
        return None
    for function, pattern in _patterns():
        found = pattern.match(producers, node.name)
        x = found[0] if found is not None else None
        if isinstance(x, str) and graph.types[x] == node.type:
            return replace(node, op=Pointwise(f"{function}(x0)"), inputs=(x,))
    return None


_EXTREMES = ("minimum", "maximum")
_CLAMPS = (  # and the number beside x inside: either may be found as either
    (Pattern("minimum(maximum(x0, x1), x2)"), 1),
    (Pattern("maximum(minimum(x0, x2), x1)"), 2),
)


def _clamp(graph: Graph, producers: Mapping[str, Node], node: Node) -> Node | None:
    """min(max(x, low), high)  =>  clamp(x, low, high);  max(x, 0)  =>  relu(x)."""
    for pattern, inner in _CLAMPS:
        found = pattern.match(producers, node.name)
        if found is None:
            continue
        if isinstance(found[0], float):
            found = {**found, 0: found[inner], inner: found[0]}
        x, low, high = (found[i] for i in range(3))
        numbers = isinstance(low, float) and isinstance(high, float) and low <= high
        if isinstance(x, str) and numbers and graph.types[x] == node.type:
            return replace(node, op=Pointwise(f"clamp(x0, {low!r}, {high!r})"), inputs=(x,))
    found = Pattern("maximum(x0, 0.0)").match(producers, node.name)
    source = found[0] if found is not None else None
    if isinstance(source, str) and graph.types[source] == node.type:
        return replace(node, op=Pointwise("relu(x0)"), inputs=(source,))
    return None


@lru_cache(maxsize=1)
def _patterns() -> tuple[tuple[str, Pattern], ...]:
    forms = [
        *(("gelu", text) for text in _halved(f"erf({a})" for a in _ERF_ARGUMENTS)),
        *(("gelu_tanh", text) for text in _halved(f"tanh({a})" for a in _TANH_ARGUMENTS)),
        ("silu", "mul(x0, sigmoid(x0))"),
        ("hardswish", f"mul(x0, div({_SIX}, 6.0))"),
        ("hardswish", f"div(mul(x0, {_SIX}), 6.0)"),
        ("hardswish", "mul(x0, hardsigmoid(x0))"),
    ]
    return tuple((function, Pattern(text)) for function, text in forms)


def _halved(cores: Iterator[str]) -> Iterator[str]:
    """0.5 * x * (1 + core) in every order of multiplication."""
    for core in cores:
        yield f"mul(mul(0.5, x0), add(1.0, {core}))"
        yield f"mul(x0, mul(0.5, add(1.0, {core})))"
        yield f"mul(0.5, mul(x0, add(1.0, {core})))"
        yield f"mul(div(x0, 2.0), add(1.0, {core}))"
