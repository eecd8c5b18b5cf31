"""Finds layer norms that a model writes out with means (arXiv:1607.06450).

Also over another dimension than the last, as ConvNeXt's over channels: those become the norm of a
permuted value, which costs nothing in planes. The scale and the shift are rules of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.types import Dim
from sparse_compiler.ops.norm import LayerNorm
from sparse_compiler.ops.reduce import Reduce
from sparse_compiler.ops.shape import Permute, Reshape
from sparse_compiler.passes.base import Context, Pass
from sparse_compiler.passes.match import Pattern
from sparse_compiler.passes.rewriter import Rewriter

_CENTRED = "sub(x0, mean(x0))"
_FORMS = tuple(
    form.format(f"add(mean({square}), x1)")
    for square in (f"pow({_CENTRED}, 2.0)", f"mul({_CENTRED}, {_CENTRED})")
    for form in (
        f"div({_CENTRED}, sqrt({{}}))",
        f"mul({_CENTRED}, rsqrt({{}}))",
        f"div({_CENTRED}, pow({{}}, 0.5))",
        f"mul({_CENTRED}, pow({{}}, -0.5))",
    )
)


@dataclass(frozen=True)
class RecognizeLayerNorm(Pass):
    """(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps)  =>  layer_norm(x); * g + b inside it."""

    name: ClassVar[str] = "recognize-layer-norm"

    def run(self, graph: Graph, context: Context) -> Graph:
        rewriter = _Rewriter(graph, context)
        for node in graph.nodes:
            rewriter.visit(node)
        return rewriter.finish()


@dataclass
class _Norm:
    """A norm as found: its node, and the order that brings its last dimension to `dim`."""

    node: Node
    dim: int


class _Rewriter(Rewriter):
    """norms: the layer norms so far, by the name of the value they give."""

    def __init__(self, graph: Graph, context: Context) -> None:
        super().__init__(graph)
        self.context = context
        self.norms: dict[str, _Norm] = {}

    def visit(self, node: Node) -> None:
        """Appends the node, or what takes its place."""
        found = self._bare(node) or self._with_vector(node)
        if isinstance(found, No):
            self.context.refuse(node.name, found)
        elif found is not None and self.context.spend():
            op, inputs, dim = found
            self._emit(node, op, inputs, dim)
            return
        if isinstance(node.op, LayerNorm):
            self.norms[node.name] = _Norm(node, self.graph.tensor(node.name).rank - 1)
        self.keep(node)

    def _bare(self, node: Node) -> tuple[LayerNorm, tuple[str, ...], int] | No | None:
        dims: set[tuple[int, ...]] = set()

        def mean(part: Node) -> str | None:
            op = part.op
            if not isinstance(op, Reduce) or op.fn != "mean" or not op.keepdim:
                return None
            dims.add(op.dims)
            return part.inputs[0]

        for text in _FORMS:
            dims.clear()
            found = Pattern(text, {"mean": mean}).match(self.producers, node.name)
            x, eps = (found[0], found[1]) if found is not None else (None, None)
            if not isinstance(x, str) or not isinstance(eps, float):
                continue
            if len(dims) != 1 or len(next(iter(dims))) != 1:
                return No("dimensions", f"%{node.name} norms over the dimensions {sorted(dims)}")
            if node.type != self.graph.types[x]:
                return No("broadcast", f"%{node.name} is no norm of %{x}: their shapes differ")
            return LayerNorm(eps, scale=False, shift=False), (x,), next(iter(dims))[0]
        return None

    def _with_vector(self, node: Node) -> tuple[LayerNorm, tuple[str, ...], int] | No | None:
        """A norm times its scale, or plus its shift."""

        def norm(part: Node) -> str | None:
            return part.name if part.name in self.norms else None

        for text, scaling in (("mul(x0, norm(x1))", True), ("add(x0, norm(x1))", False)):
            found = Pattern(text, {"norm": norm}).match(self.producers, node.name)
            if found is None or not isinstance(found[0], str) or not isinstance(found[1], str):
                continue
            before = self.norms[found[1]]
            op = before.node.op
            if not isinstance(op, LayerNorm) or op.shift or (scaling and op.scale):
                return None
            vector = self._vector(found[0], node, before.dim)
            if isinstance(vector, No):
                return vector
            op = replace(op, scale=op.scale or scaling, shift=not scaling)
            return op, (*before.node.inputs, vector), before.dim
        return None

    def _vector(self, name: str, node: Node, dim: int) -> str | No:
        """A weight-time value as a vector along dimension `dim` of the node's result."""
        shape, result = self.graph.tensor(name).shape, self.graph.tensor(node.name).shape
        full: tuple[Dim, ...] = (1,) * (len(result) - len(shape)) + shape
        alone = all(size == 1 for i, size in enumerate(full) if i != dim)
        if name not in self.graph.weight_time or not alone or full[dim] != result[dim]:
            return No("weight", f"%{name} is no vector of weights along dimension {dim}")
        if len(shape) == 1:
            return name
        return self.add(Reshape((result[dim],)), (name,), f"{node.name}.vector")

    def _emit(self, node: Node, op: LayerNorm, inputs: tuple[str, ...], dim: int) -> None:
        """The norm under the node's name; over another dimension than the last, permuted twice."""
        rank = self.graph.tensor(node.name).rank
        if dim == rank - 1:
            self.replace(node, op, inputs)
            self.norms[node.name] = _Norm(self.nodes[-1], dim)
            return
        to_last = (*(d for d in range(rank) if d != dim), dim)
        back = tuple(to_last.index(d) for d in range(rank))
        x = inputs[0]
        if not op.scale and not op.shift:
            x = self.add(Permute(to_last), (x,), f"{node.name}.last")
        norm = self.add(op, (x, *inputs[1:]), f"{node.name}.norm", node.loc)
        self.norms[node.name] = _Norm(self.producers[norm], dim)
        self.replace(node, Permute(back), (norm,))
