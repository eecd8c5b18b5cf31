"""Fuses elementwise ops into the op that makes their input, by substituting expressions.

An epilogue runs on the accumulators before the only store, so the fused op costs no memory
traffic. A value with a second reader is not fused: it would have to be computed twice. A kernel's
epilogue reads whole operands, or one number per channel; others stay in a sweep of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

from sparse_compiler.ir.expr import Arg, Call, Expr, count_calls, substitute
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.op import Op
from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.types import Dim, TensorType
from sparse_compiler.ops import scalar
from sparse_compiler.ops.epilogue import TakesEpilogue
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.passes.base import Context, Pass


@dataclass(frozen=True)
class FusePointwise(Pass):
    """pointwise[g](linear[f](x, w), r)  =>  linear[g . f](x, w, r); so conv, norms, pointwise.

    Arithmetic on masks and indices is fused among itself, and not into f32 ops: planes hold f32,
    so one operand of another dtype would take the whole expression out of them.
    """

    name: ClassVar[str] = "fuse-pointwise"
    max_calls: int = 64  # functions in one expression: x*x of x*x of ... doubles with each step

    def run(self, graph: Graph, context: Context) -> Graph:
        readers = {name: {u.name for u in users} for name, users in graph.users.items()}
        nodes: dict[str, Node] = {}
        for original in graph.nodes:
            node: Node | None = original
            while node is not None:
                nodes[node.name] = node
                node = self._fused_once(graph, nodes, readers, node, context)
        return graph.with_nodes(nodes.values())

    def _fused_once(
        self,
        graph: Graph,
        nodes: dict[str, Node],
        readers: dict[str, set[str]],
        node: Node,
        context: Context,
    ) -> Node | None:
        """`node` with one of its producers fused into it and taken out of `nodes`, or None."""
        op = node.op
        if not isinstance(op, Pointwise) or node.name in graph.weight_time:
            return None
        refusals: list[No] = []
        places = {name: place for place, name in enumerate(nodes)}
        # a kernel comes last, since nothing fuses into the node once it is one; then the latest
        order = sorted(
            set(node.inputs) & places.keys(),
            key=lambda name: (isinstance(nodes[name].op, TakesEpilogue), -places[name]),
        )
        for name in order:
            producer = nodes[name]
            if name in graph.weight_time:
                continue
            shared = len(readers[name]) > 1 or name in graph.results
            merged = self._merged(graph, producer, node, op, shared)
            if isinstance(merged, No):
                refusals.append(merged)
            elif context.spend():
                del nodes[name]
                for source in producer.inputs:
                    readers[source] = (readers[source] - {name}) | {node.name}
                return merged
        for reason in refusals:
            context.refuse(node.name, reason)
        return None

    def _merged(
        self, graph: Graph, producer: Node, node: Node, op: Pointwise, shared: bool
    ) -> Node | No:
        """`node` computed inside `producer`; keeps the name of `node`, since that lives on."""
        into = producer.op
        if not isinstance(into, (TakesEpilogue, Pointwise)):
            return No("not_fusible", f"{into.name} has no epilogue")
        if shared:
            return No("shared_value", f"%{producer.name} is read elsewhere too")
        if _shape(producer) != _shape(node):
            return No("broadcast", f"%{producer.name} is broadcast by %{node.name}")
        if _all_f32(graph, node) != _all_f32(graph, producer) or (
            not isinstance(into, Pointwise) and producer.type != node.type
        ):
            return No("mixed_dtypes", f"%{node.name} and %{producer.name} compute in other dtypes")
        # the expression reads inputs[first:]; in a kernel's, x0 is the result before them
        first, offset = (0, 0) if isinstance(into, Pointwise) else (into.operands, 1)
        inputs = list(producer.inputs)
        values: list[Expr] = []
        for name in node.inputs:
            if name == producer.name:
                values.append(_value(into))
                continue
            if offset and not _readable(graph, producer, name):
                return No("broadcast", f"%{name} is neither whole nor one number per channel")
            if name not in inputs[first:]:
                inputs.append(name)
            values.append(Arg(inputs.index(name, first) - first + offset))
        tree = substitute(op.tree, values)
        if count_calls(tree) > self.max_calls:
            return No("expression_size", f"{count_calls(tree)} functions in one expression")
        if isinstance(into, Pointwise):
            fused: Op = replace(into, expr=str(tree), dtype=op.dtype)
        else:
            fused = replace(cast(Any, producer.op), epilogue=str(tree))
        return Node(fused, tuple(inputs), node.type, node.name, producer.loc)


def _value(op: TakesEpilogue | Pointwise) -> Expr:
    """What an op's expression gives, in the op's dtype."""
    if isinstance(op, Pointwise) and op.dtype is not None:
        return Call(op.dtype, (op.tree,))
    return op.tree


def _shape(node: Node) -> tuple[Dim, ...] | None:
    return node.type.shape if isinstance(node.type, TensorType) else None


def _all_f32(graph: Graph, node: Node) -> bool:
    """True where a node's inputs, its result and what lies between are f32, or tests of f32."""
    types = (node.type, *(graph.types[name] for name in node.inputs))
    if not all(isinstance(type_, TensorType) and type_.dtype == "f32" for type_ in types):
        return False
    if not isinstance(node.op, Pointwise):
        return True
    inside = scalar.dtypes_in(node.op.tree, ("f32",) * len(node.inputs))
    return {"f32", "bool"}.issuperset(inside.values())


def _readable(graph: Graph, producer: Node, name: str) -> bool:
    """True where a kernel's epilogue can read the value: whole, one number, or one per channel."""
    if not isinstance(producer.type, TensorType):
        return False
    result, shape = producer.type.shape, graph.tensor(name).shape
    full: tuple[Dim, ...] = (1,) * (len(result) - len(shape)) + shape
    channel = producer.op.channel_dim % len(result)
    spread = all(dim == 1 for i, dim in enumerate(full) if i != channel)
    return full == result or (spread and name in graph.weight_time)
