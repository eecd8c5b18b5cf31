"""Removes views that undo one another, and moves others out of the way of fusion.

A linear layer works on the last dimension whatever stands before it, so flattening its input is for
nothing; an elementwise op may run before a view as well as after it, and before it is free.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

from sparse_compiler.ir.expr import Arg, Call, Const
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ops.epilogue import TakesEpilogue
from sparse_compiler.ops.linear import Linear
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.shape import Expand, Permute, Reshape, Slice
from sparse_compiler.passes.base import Context, Pass
from sparse_compiler.passes.eliminate_dead_nodes import EliminateDeadNodes
from sparse_compiler.passes.rewriter import Rewriter


@dataclass(frozen=True)
class SimplifyViews(Pass):
    """view(view'(x)) => x; f(view(x)) => view(f(x)); reshape(linear(reshape(x))) => linear(x)."""

    name: ClassVar[str] = "simplify-views"

    def run(self, graph: Graph, context: Context) -> Graph:
        while True:
            after = _Sweep(graph, context).run()
            if after is graph:
                return graph
            graph = EliminateDeadNodes().run(after, Context())


class _Sweep(Rewriter):
    """One walk over the graph. same: values that are another value, by name."""

    def __init__(self, graph: Graph, context: Context) -> None:
        super().__init__(graph)
        self.context = context
        self.same: dict[str, str] = {}

    def run(self) -> Graph:
        """The graph after one walk; values that nobody reads any more are still in it."""
        for original in self.graph.nodes:
            inputs = tuple(self.same.get(name, name) for name in original.inputs)
            node = original if inputs == original.inputs else replace(original, inputs=inputs)
            self.producers[node.name] = node
            rewrite = self._rewrite(node)
            if rewrite is None or not self.context.spend():
                self.keep(node)
            else:
                rewrite()
        return self.finish()

    def _rewrite(self, node: Node) -> Callable[[], None] | None:
        """What to do in place of keeping the node, or None."""
        source = _same_as(self, node)
        if source is not None and node.name not in self.graph.results:
            return lambda: self.same.update({node.name: source})
        return next((found for rule in _RULES if (found := rule(self, node)) is not None), None)

    def above(self, name: str) -> Node | None:
        """The node that makes a value, if nothing else reads it."""
        return self.producers.get(name) if self.only_reader(name) else None


_Rule: TypeAlias = Callable[[_Sweep, Node], "Callable[[], None] | None"]


def _same_as(rw: _Sweep, node: Node) -> str | None:
    """The input that the node's result equals in every element."""
    kinds = (Reshape, Permute, Expand, Slice, Pointwise)
    if len(node.inputs) != 1 or not isinstance(node.op, kinds):
        return None
    source, op = node.inputs[0], node.op
    if isinstance(op, Permute):
        return source if op.dims == tuple(range(len(op.dims))) else None
    if rw.tensor(source) != node.type:
        return None
    if isinstance(op, Pointwise):
        once = (Arg(0), Call("mul", (Arg(0), Const(1.0))), Call("div", (Arg(0), Const(1.0))))
        return source if op.tree in once else None
    return source


def _composed(rw: _Sweep, node: Node) -> Callable[[], None] | None:
    """reshape(reshape(x)) => reshape(x); permute(permute(x)) => permute(x)."""
    inner = rw.producers.get(node.inputs[0]) if len(node.inputs) == 1 else None
    if inner is None or type(inner.op) is not type(node.op):
        return None
    if isinstance(node.op, Reshape):
        return lambda: rw.replace(node, node.op, inner.inputs)
    if isinstance(node.op, Permute) and isinstance(inner.op, Permute):
        dims = tuple(inner.op.dims[d] for d in node.op.dims)
        return lambda: rw.replace(node, Permute(dims), inner.inputs)
    return None


def _unflattened(rw: _Sweep, node: Node) -> Callable[[], None] | None:
    """reshape(linear(reshape(x))) => linear(x), where only leading dimensions were joined."""
    linear = rw.above(node.inputs[0]) if isinstance(node.op, Reshape) else None
    if linear is None or not isinstance(linear.op, Linear) or linear.name in rw.graph.weight_time:
        return None
    flat = rw.producers.get(linear.inputs[0])
    if flat is None or not isinstance(flat.op, Reshape) or len(linear.inputs) != linear.op.operands:
        return None
    x, result = rw.tensor(flat.inputs[0]).shape, rw.tensor(node.name).shape
    wanted = (*x[:-1], rw.tensor(linear.name).shape[-1])
    if x[-1:] != rw.tensor(flat.name).shape[-1:] or result != wanted or len(x) < 2:
        return None
    return lambda: rw.replace(node, linear.op, (flat.inputs[0], *linear.inputs[1:]))


def _before_views(rw: _Sweep, node: Node) -> Callable[[], None] | None:
    """f(view(kernel(x))) => view(f(kernel(x))), so that f becomes the kernel's epilogue."""
    if not isinstance(node.op, Pointwise) or node.name in rw.graph.weight_time:
        return None
    whole = [name for name in node.inputs if rw.tensor(name).numel != 1]
    views: list[Node] = []
    above = rw.above(whole[0]) if len(whole) == 1 else None
    while above is not None and isinstance(above.op, (Reshape, Permute)):
        views.append(above)
        above = rw.above(above.inputs[0])
    if not views or above is None or not _fusible(rw, above):
        return None
    if rw.tensor(views[0].name) != node.type:
        return None
    kernel = above

    def rewrite() -> None:
        inputs = [kernel.name if name == whole[0] else name for name in node.inputs]
        source = rw.add(node.op, inputs, f"{node.name}.early", node.loc)
        for view in reversed(views[1:]):
            source = rw.add(view.op, (source,), f"{view.name}.late")
        rw.replace(node, views[0].op, (source,))

    return rewrite


def _residual(rw: _Sweep, node: Node) -> Callable[[], None] | None:
    """f(permute(kernel(x)), r) => permute(f(kernel(x), permute'(r))): r joins the epilogue too."""
    if not isinstance(node.op, Pointwise) or len(node.inputs) < 2:
        return None
    if any(rw.tensor(name) != node.type or name in rw.graph.weight_time for name in node.inputs):
        return None
    permuted = [name for name in node.inputs if _kernel_below(rw, name) is not None]
    if len(permuted) != 1:
        return None
    permute, kernel = rw.producers[permuted[0]], _kernel_below(rw, permuted[0])
    if kernel is None or not isinstance(permute.op, Permute):
        return None
    dims = permute.op.dims
    back = Permute(tuple(dims.index(d) for d in range(len(dims))))

    def rewrite() -> None:
        inputs = [
            kernel if name == permute.name else rw.add(back, (name,), f"{name}.back")
            for name in node.inputs
        ]
        early = rw.add(node.op, inputs, f"{node.name}.early", node.loc)
        rw.replace(node, permute.op, (early,))

    return rewrite


def _kernel_below(rw: _Sweep, name: str) -> str | None:
    """The value with an epilogue to come that `name` is, itself or permuted once."""
    node = rw.above(name)
    if node is not None and isinstance(node.op, Permute):
        node = rw.above(node.inputs[0])
    return node.name if node is not None and _fusible(rw, node) else None


def _fusible(rw: _Sweep, node: Node) -> bool:
    """True for a kernel with an epilogue, and for arithmetic that goes into one."""
    if isinstance(node.op, Pointwise) and node.name not in rw.graph.weight_time:
        sources = [rw.above(name) for name in node.inputs]
        return any(s is not None and isinstance(s.op, TakesEpilogue) for s in sources)
    return isinstance(node.op, TakesEpilogue)


_RULES: tuple[_Rule, ...] = (_composed, _unflattened, _before_views, _residual)
