"""Fuses elementwise ops into the op that makes their input, by substituting expressions.

An epilogue runs on the accumulators before the only store, so the fused op costs no memory
traffic. A value with a second reader is not fused: it would have to be computed twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sparse_compiler.ir.expr import Arg, Expr, count_calls, substitute
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.op import Op
from sparse_compiler.ir.refusal import No
from sparse_compiler.ops.linear import Linear
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.passes.base import Context, Pass


@dataclass(frozen=True)
class FusePointwise(Pass):
    """pointwise[g](linear[f](x, w), r)  =>  linear[g . f](x, w, r); likewise two pointwise ops."""

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
        # a linear comes last, since nothing fuses into the node once it is one; then the latest
        order = sorted(
            set(node.inputs) & places.keys(),
            key=lambda name: (isinstance(nodes[name].op, Linear), -places[name]),
        )
        for name in order:
            producer = nodes[name]
            if name in graph.weight_time:
                continue
            shared = len(readers[name]) > 1 or name in graph.results
            merged = self._merged(producer, node, op, shared)
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

    def _merged(self, producer: Node, node: Node, op: Pointwise, shared: bool) -> Node | No:
        """`node` computed inside `producer`; keeps the name of `node`, since that lives on."""
        into = producer.op
        if not isinstance(into, (Linear, Pointwise)):
            return No("not_fusible", f"{into.name} has no epilogue")
        if shared:
            return No("shared_value", f"%{producer.name} is read elsewhere too")
        if producer.type != node.type:
            return No("broadcast", f"%{producer.name} is broadcast by %{node.name}")
        # the expression reads inputs[first:]; in a linear's, x0 is the product before them
        first, offset = (into.operands, 1) if isinstance(into, Linear) else (0, 0)
        inputs = list(producer.inputs)
        values: list[Expr] = []
        for name in node.inputs:
            if name == producer.name:
                values.append(into.tree)
                continue
            if name not in inputs[first:]:
                inputs.append(name)
            values.append(Arg(inputs.index(name, first) - first + offset))
        tree = substitute(op.tree, values)
        if count_calls(tree) > self.max_calls:
            return No("expression_size", f"{count_calls(tree)} functions in one expression")
        if isinstance(into, Linear):
            fused: Op = replace(into, epilogue=str(tree))
        else:
            fused = replace(into, expr=str(tree))
        return Node(fused, tuple(inputs), node.type, node.name, producer.loc)
