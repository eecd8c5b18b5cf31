"""Half precision is a way to store numbers, not to compute: conversions move to the borders.

The result is nearer to the exact one than what torch computes in half precision, where every op
rounds. Tables stay in half precision: rows are converted after they are picked.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from sparse_compiler.errors import GraphSyntaxError, VerifyError
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.op import Op
from sparse_compiler.ir.types import HALVES, TensorType, Type
from sparse_compiler.ops.pointwise import Pointwise, cast_of
from sparse_compiler.passes.base import Context, Pass

WIDE = "f32"


@dataclass(frozen=True)
class ComputeInFp32(Pass):
    """f(x: bf16): bf16  =>  bf16(f(f32(x)))  for every op, fp16 too; between ops nothing rounds."""

    name: ClassVar[str] = "compute-in-fp32"
    exact: ClassVar[bool] = False

    def run(self, graph: Graph, context: Context) -> Graph:
        if not any(_is_half(graph.types[node.name]) for node in graph.nodes):
            return graph
        rewrite = _Rewrite(graph)
        for node in graph.nodes:
            rewrite.visit(node, context)
        outputs = tuple(rewrite.as_declared(name) for name in graph.outputs)
        updates = tuple((rewrite.as_declared(value), to) for value, to in graph.updates)
        return graph.with_nodes(rewrite.nodes, outputs=outputs, updates=updates)


def _is_half(type_: object) -> bool:
    return isinstance(type_, TensorType) and type_.dtype in HALVES


@dataclass
class _Rewrite:
    """wide, narrow: names of a value of the old graph in fp32, and as it was declared where that is
    another than its own."""

    graph: Graph
    nodes: list[Node] = field(default_factory=list)
    wide: dict[str, str] = field(default_factory=dict)
    narrow: dict[str, str] = field(default_factory=dict)
    casts: dict[str, Node] = field(default_factory=dict)
    """Conversions to half precision that nothing may need."""

    def visit(self, node: Node, context: Context) -> None:
        """Copies a node, in fp32 where it computes with halves."""
        if not any(_is_half(self.graph.types[name]) for name in (*node.inputs, node.name)):
            self._opaque(node)
            return
        if self._keeps_table(node):
            self._opaque(node)
            return
        if isinstance(node.op, Pointwise) and self._vanishes(node):
            return
        wide = self._widened(node) if context.spend() else None
        if wide is None:
            self._opaque(node)
            return
        self.nodes.append(wide)
        if _is_half(node.type):
            self.wide[node.name] = node.name

    def as_declared(self, name: str) -> str:
        """The value in the dtype that it had."""
        if name in self.narrow or name not in self.wide:
            return self.narrow.get(name, name)
        if name in self.casts:
            cast = self.casts[name]
            self.nodes.append(replace(cast, inputs=(self.wide[name],)))
            self.narrow[name] = name
            return name
        type_ = self.graph.tensor(name)
        made = f"{name}.{type_.dtype}"
        self._cast(self.wide[name], type_, made)
        self.narrow[name] = made
        return made

    def in_fp32(self, name: str) -> str:
        """The value in fp32; what is no half is left as it is."""
        type_ = self.graph.types[name]
        if not isinstance(type_, TensorType) or type_.dtype not in HALVES:
            return self.narrow.get(name, name)
        if name not in self.wide:
            made = f"{name}.f32"
            self._cast(name, replace(type_, dtype=WIDE), made)
            self.wide[name], self.narrow[name] = made, name
        return self.wide[name]

    def _cast(self, source: str, type_: TensorType, name: str) -> None:
        self.nodes.append(Node(Pointwise(f"{type_.dtype}(x0)"), (source,), type_, name))

    def _opaque(self, node: Node) -> None:
        """A node that takes what it was declared to take."""
        inputs = tuple(self.as_declared(name) for name in node.inputs)
        self.nodes.append(node if inputs == node.inputs else replace(node, inputs=inputs))

    def _keeps_table(self, node: Node) -> bool:
        """True where elements of a half constant are picked: fewer are converted afterwards."""
        fixed = self.graph.weight_time
        return (
            node.op.moves
            and not node.op.view
            and node.name not in fixed
            and all(n in fixed for n in node.inputs if _is_half(self.graph.types[n]))
        )

    def _vanishes(self, node: Node) -> bool:
        """Notes a conversion between halves and fp32, which changes nothing any more."""
        to = cast_of(node.op)
        (first, *others) = node.inputs
        if to is None or others or to not in (*HALVES, WIDE):
            return False
        source = self.graph.tensor(first)
        if source.dtype not in (*HALVES, WIDE) or (source.dtype == WIDE) == (to == WIDE):
            return False
        if to == WIDE:
            self.narrow[node.name] = self.in_fp32(first)
        else:
            self.wide[node.name] = self.in_fp32(first)
            self.casts[node.name] = node
        return True

    def _widened(self, node: Node) -> Node | None:
        """The node in fp32; None where only the dtype it was written for is known to it."""
        op = node.op.widened()
        if not isinstance(op, Op) or not isinstance(node.type, TensorType):
            return None
        inputs = tuple(self.in_fp32(name) for name in node.inputs)
        types = tuple(map(self._type, node.inputs))
        try:
            type_ = op.infer(types)
        except (VerifyError, GraphSyntaxError):
            return None
        wanted = replace(node.type, dtype=WIDE) if _is_half(node.type) else node.type
        if type_ != wanted:
            return None
        return replace(node, op=op, inputs=inputs, type=type_)

    def _type(self, name: str) -> Type:
        type_ = self.graph.types[name]
        if isinstance(type_, TensorType) and type_.dtype in HALVES:
            return replace(type_, dtype=WIDE)
        return type_
