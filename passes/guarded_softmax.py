"""Finds a softmax whose rows without any score are set to 0, as torch's attention does it.

Taken apart, that is where(isnan(p), 0, p) behind p = softmax(s), which is NaN in such rows, or
where(all(s == -inf), 0, p), "all" being written as a maximum or an "any" of what is not so.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

from sparse_compiler.ir.graph import Node
from sparse_compiler.ops.iota import Full
from sparse_compiler.ops.reduce import Reduce
from sparse_compiler.ops.softmax import Softmax
from sparse_compiler.passes.match import Pattern
from sparse_compiler.passes.rewriter import Rewriter


@dataclass(frozen=True)
class Probabilities:
    """softmax: the node; guard: the nodes that set rows without scores to 0, none where NaN."""

    softmax: Node
    guard: frozenset[str] = frozenset()

    @property
    def scores(self) -> str:
        """What the softmax is of."""
        return self.softmax.inputs[0]


_NONE_LEFT = (
    "logical_not(ne(any(i8(logical_not(eq(x0, -inf)))), 0.0))",
    "logical_not(any(logical_not(eq(x0, -inf))))",
    "logical_not(any(ne(x0, -inf)))",
    "all(eq(x0, -inf))",
)


def probabilities(rw: Rewriter, name: str) -> Probabilities | None:
    """The softmax that gives the value, or whose guarded result it is; None for other values."""
    node = rw.producers.get(name)
    if node is not None and isinstance(node.op, Softmax):
        return Probabilities(node)
    found = Pattern("where(isnan(x0), x1, x0)").match(rw.producers, name)
    if found is not None:
        return _guarded(rw, name, found[0], found[1])
    for text in _NONE_LEFT:
        whole = {fn: partial(_reduced, rw, fn) for fn in ("any", "all")}
        found = Pattern(f"where({text}, x1, x2)", whole).match(rw.producers, name)
        guarded = None if found is None else _guarded(rw, name, found[2], found[1])
        if found is not None and guarded is not None:
            return guarded if guarded.scores == found[0] else None
    return None


def _guarded(
    rw: Rewriter, name: str, softmax: str | float, zero: str | float
) -> Probabilities | None:
    node = rw.producers.get(softmax) if isinstance(softmax, str) else None
    if node is None or not isinstance(node.op, Softmax) or not _is_zero(rw, zero):
        return None
    parts = {name}
    waiting = [name]
    while waiting:
        for source in rw.producers[waiting.pop()].inputs:
            inside = source not in (node.name, node.inputs[0]) and source in rw.producers
            if inside and source not in parts and not rw.producers[source].op.random:
                parts.add(source)
                waiting.append(source)
    return Probabilities(node, frozenset(parts))


def _is_zero(rw: Rewriter, value: str | float) -> bool:
    node = rw.producers.get(value) if isinstance(value, str) else None
    if node is not None and isinstance(node.op, Full):
        return node.op.value == 0
    return value == 0


def _reduced(rw: Rewriter, fn: str, node: Node) -> str | None:
    """The input of a reduction over the last dimension that tells whether any, or all, is true."""
    if not isinstance(node.op, Reduce) or not node.op.keepdim:
        return None
    wanted = {"any": ("any", "amax"), "all": ("all", "amin")}[fn]
    last = rw.tensor(node.inputs[0]).rank - 1
    return node.inputs[0] if node.op.fn in wanted and node.op.dims == (last,) else None


def read_besides(rw: Rewriter, name: str, readers: Collection[str]) -> bool:
    """True where anything but the nodes `readers` reads a value."""
    return name in rw.graph.results or any(
        user.name not in readers for user in rw.graph.users.get(name, ())
    )
