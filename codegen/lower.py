"""Laid-out graph -> Program: groups native nodes into segments and turns each into a kernel call.

One rule per op says which call it becomes; views become nothing, they rename rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import networkx as nx

from sparse_compiler.codegen.plan import RowAllocator, sync_points
from sparse_compiler.codegen.program import (
    AttentionCall,
    Call,
    LinearCall,
    Load,
    MaskInput,
    NormCall,
    Operand,
    Planes,
    PointwiseCall,
    Program,
    Segment,
    SoftmaxCall,
    Store,
    TorchStep,
    Vector,
)
from sparse_compiler.errors import CodegenError
from sparse_compiler.ir.expr import Arg, Expr, parse_expr
from sparse_compiler.ir.expr import Call as ExprCall
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.text import print_node
from sparse_compiler.ir.types import Dim, TensorType, product
from sparse_compiler.ops.attention import Attention
from sparse_compiler.ops.linear import Linear
from sparse_compiler.ops.norm import LayerNorm, RmsNorm
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.shape import Relayout, Slice
from sparse_compiler.ops.softmax import Softmax


def lower(graph: Graph) -> Program:
    """The program of a laid-out graph. Raises `CodegenError` on what the passes let through."""
    segments = _segments(graph)
    owner = {node.name: i for i, nodes in enumerate(segments) for node in nodes}
    steps: list[Segment | TorchStep] = []
    for item in _ordered(graph, owner):
        if isinstance(item, int):
            steps.append(_SegmentLowering(graph, segments[item], set(owner)).run())
        elif item.name not in graph.weight_time:
            steps.append(TorchStep(item))
    return Program(
        tuple((v.name, v.type) for v in graph.inputs),
        tuple(node for node in graph.nodes if node.name in graph.weight_time),
        tuple(steps),
        graph.outputs,
        graph.updates,
        graph.symbols,
    )


def is_native(graph: Graph, node: Node) -> bool:
    """True for what runs in planes: a planar result, or the relayout out of planes."""
    if node.name in graph.weight_time:
        return False
    planar = isinstance(node.type, TensorType) and node.type.layout is not None
    return planar or isinstance(node.op, Relayout)


def _segments(graph: Graph) -> list[list[Node]]:
    """Native nodes joined by planar values, in the order of their first nodes."""
    joined = nx.Graph()
    for node in graph.nodes:
        if is_native(graph, node):
            joined.add_node(node.name)
            for name in node.inputs:
                type_ = graph.types[name]
                if isinstance(type_, TensorType) and type_.layout is not None:
                    joined.add_edge(name, node.name)
    position = {node.name: i for i, node in enumerate(graph.nodes)}
    components = sorted(
        (sorted(c, key=position.__getitem__) for c in nx.connected_components(joined)),
        key=lambda names: position[names[0]],
    )
    return [[graph.producers[name] for name in names] for names in components]


def _ordered(graph: Graph, owner: dict[str, int]) -> list[Node | int]:
    """Segments (by number) and other nodes in a legal order near the graph's own."""
    order = nx.DiGraph()
    first: dict[Node | int, int] = {}
    for position, node in enumerate(graph.nodes):
        item: Node | int = owner.get(node.name, node)
        first.setdefault(item, position)
        order.add_node(item)
        for name in node.inputs:
            source = graph.producers.get(name)
            if source is not None:
                origin: Node | int = owner.get(name, source)
                if origin != item:
                    order.add_edge(origin, item)
    try:
        return list(nx.lexicographical_topological_sort(order, key=first.__getitem__))
    except nx.NetworkXUnfeasible as error:
        raise CodegenError("segments depend on one another in a circle") from error


class _SegmentLowering:
    """Lowers one segment: places for values, a call per node, waits where threads must meet."""

    def __init__(self, graph: Graph, nodes: Sequence[Node], native: set[str]) -> None:
        self.graph, self.nodes, self.native = graph, nodes, native
        self.names = {node.name for node in nodes}
        self.rows = RowAllocator()
        self.places: dict[str, Planes] = {}
        self.owners: dict[str, str] = {}
        self.inputs: dict[str, TensorType] = {}
        self.outputs: dict[str, TensorType] = {}
        self.weights: dict[str, TensorType] = {}
        self.masks: dict[MaskInput, int] = {}
        self.calls: list[Call] = []
        self.last_use = self._last_uses()

    def run(self) -> Segment:
        """The finished segment."""
        for node in self.nodes:
            self._lower(node)
            self._free_after(node)
        samples, unit = self._columns()
        return Segment(
            self.nodes[-1].name,
            tuple(self.inputs.items()),
            tuple(self.outputs.items()),
            tuple(self.weights.items()),
            tuple(self.calls),
            tuple(self.masks),
            samples,
            unit,
            self.rows.rows,
            sync_points(self.calls),
            tuple(node.name for node in self.nodes),
        )

    def _lower(self, node: Node) -> None:
        if node.op.view:
            self._view(node)
            return
        rule = RULES.get(type(node.op))
        if rule is None:
            raise CodegenError(
                "no kernel call for a node that stands in planes", node=print_node(node)
            )
        self.calls.append(rule(self, node))

    # --- places ---------------------------------------------------------------------------------

    def _last_uses(self) -> dict[str, Node]:
        """The last node that reads each buffer, through any view of it."""
        last: dict[str, Node] = {}
        for node in self.nodes:
            sources = [self.owners.get(i, i) for i in node.inputs if i in self.names]
            self.owners[node.name] = sources[0] if node.op.view else node.name
            for source in sources:
                last[source] = node
            last.setdefault(self.owners[node.name], node)
        return last

    def place(self, node: Node, *, over: Sequence[str] = ()) -> Planes:
        """Rows for a node's result, those of an input in `over` if this node is its last reader."""
        rows = plane_count(self.graph.tensor(node.name), print_node(node))
        for name in over:
            owner = self.owners.get(name)
            if owner is None or self.last_use[owner] is not node:
                continue
            if self.places[owner].rows == rows and self.places[name] == self.places[owner]:
                self.places[node.name] = self.places.pop(owner)
                return self.places[node.name]
        self.places[node.name] = self.rows.take(rows)
        return self.places[node.name]

    def _free_after(self, node: Node) -> None:
        for name in {self.owners.get(i, i) for i in (*node.inputs, node.name)}:
            if self.last_use.get(name) is node and name in self.places:
                self.rows.free(self.places.pop(name))

    def _view(self, node: Node) -> None:
        source = self.places[node.inputs[0]]
        rows = plane_count(self.graph.tensor(node.name), print_node(node))
        first = source.first
        if isinstance(node.op, Slice):
            dims = self.graph.tensor(node.inputs[0])
            inside = dims.layout.outer if dims.layout is not None else ()
            below = inside[inside.index(node.op.dim) + 1 :]
            first += int(node.op.start) * math.prod(int(dims.shape[d]) for d in below)
        self.places[node.name] = Planes(first, rows)

    # --- operands -------------------------------------------------------------------------------

    def input(self, name: str) -> int:
        """Number of a row-major input of the segment."""
        self.inputs.setdefault(name, self.graph.tensor(name))
        return list(self.inputs).index(name)

    def output(self, name: str) -> int:
        """Number of a row-major output of the segment."""
        self.outputs[name] = self.graph.tensor(name)
        return list(self.outputs).index(name)

    def weight(self, name: str) -> int:
        """Number of a weight-time value."""
        self.weights.setdefault(name, self.graph.tensor(name))
        return list(self.weights).index(name)

    def operand(self, name: str) -> Operand:
        """Where an elementwise operand comes from."""
        if name in self.places:
            return self.places[name]
        numel = self.graph.tensor(name).numel
        return Vector(self.weight(name), single=numel == 1)

    def mask(self, mask: MaskInput) -> int:
        """Number of an attention mask; layers that share one convert it once."""
        return self.masks.setdefault(mask, len(self.masks))

    def _columns(self) -> tuple[Dim, Dim]:
        """(samples, columns per sample): attention keeps a sample's tokens together."""
        for call in self.calls:
            if isinstance(call, AttentionCall):
                node = next(n for n in self.nodes if n.name == call.label)
                return self.graph.tensor(node.inputs[0]).shape[0], call.sq
        for node in self.nodes:
            type_ = self.graph.tensor(node.name)
            if type_.layout is not None:
                return product(type_.shape[d] for d in type_.layout.inner), 1
        raise CodegenError("a segment without planes", node=print_node(self.nodes[0]))


def plane_count(type_: TensorType, node: str) -> int:
    """How many planes a planar tensor has; they are never symbolic."""
    layout = type_.layout
    count = product(type_.shape[d] for d in layout.outer) if layout is not None else None
    if not isinstance(count, int):
        raise CodegenError("a value whose planes cannot be counted", node=node)
    return count


Rule: TypeAlias = Callable[[_SegmentLowering, Node], Call]


def _relayout(low: _SegmentLowering, node: Node) -> Call:
    if node.op == Relayout():
        planes = low.places[node.inputs[0]]
        return Store(planes, low.output(node.name), node.name)
    return Load(low.input(node.inputs[0]), low.place(node), node.name)


def _linear(low: _SegmentLowering, node: Node) -> Call:
    op = node.op
    if not isinstance(op, Linear):
        raise CodegenError("not a linear", node=print_node(node))
    x = low.places[node.inputs[0]]
    weight = low.graph.tensor(node.inputs[1])
    operands = [low.operand(name) for name in node.inputs[op.operands :]]
    expr: Expr = op.tree
    if op.bias:
        operands.append(low.operand(node.inputs[2]))
        biased = ExprCall("add", (Arg(0), Arg(len(operands))))
        expr = _replace_first(expr, biased)
    return LinearCall(
        weight.format,
        low.weight(node.inputs[1]),
        x,
        low.place(node),
        expr,
        tuple(operands),
        node.name,
    )


def _replace_first(expr: Expr, value: Expr) -> Expr:
    """`expr` with x0 replaced and every other input kept."""
    if isinstance(expr, Arg):
        return value if expr.index == 0 else expr
    if isinstance(expr, ExprCall):
        return ExprCall(expr.fn, tuple(_replace_first(a, value) for a in expr.args))
    return expr


def _pointwise(low: _SegmentLowering, node: Node) -> Call:
    op = node.op
    if not isinstance(op, Pointwise):
        raise CodegenError("not a pointwise op", node=print_node(node))
    operands = tuple(low.operand(name) for name in node.inputs)
    return PointwiseCall(low.place(node, over=node.inputs), op.tree, operands, node.name)


def _layer_norm(low: _SegmentLowering, node: Node) -> Call:
    op = node.op
    if not isinstance(op, LayerNorm):
        raise CodegenError("not a layer norm", node=print_node(node))
    text = "x0"
    operands = tuple(low.operand(name) for name in node.inputs[1:])
    if op.scale:
        text = "mul(x0, x1)"
    if op.shift:
        text = f"add({text}, x{len(operands)})"
    x = low.places[node.inputs[0]]
    to = low.place(node, over=node.inputs[:1])
    return NormCall("layer_norm", x, to, op.eps, parse_expr(text), operands, node.name)


def _rms_norm(low: _SegmentLowering, node: Node) -> Call:
    op = node.op
    if not isinstance(op, RmsNorm):
        raise CodegenError("not an RMS norm", node=print_node(node))
    operands = tuple(low.operand(name) for name in node.inputs[1:])
    expr = parse_expr("mul(x0, x1)" if op.scale else "x0")
    x = low.places[node.inputs[0]]
    to = low.place(node, over=node.inputs[:1])
    return NormCall("rms_norm", x, to, op.eps, expr, operands, node.name)


def _softmax(low: _SegmentLowering, node: Node) -> Call:
    op = node.op
    if not isinstance(op, Softmax):
        raise CodegenError("not a softmax", node=print_node(node))
    x = low.places[node.inputs[0]]
    return SoftmaxCall(x, low.place(node, over=node.inputs[:1]), op.log, node.name)


def _attention(low: _SegmentLowering, node: Node) -> Call:
    op = node.op
    if not isinstance(op, Attention):
        raise CodegenError("not an attention", node=print_node(node))
    q, k, v = (low.graph.tensor(name) for name in node.inputs[:3])
    heads, size = int(q.shape[1]), int(q.shape[3])
    mask = None
    if op.mask:
        type_ = low.graph.tensor(node.inputs[3])
        shape = (1,) * (4 - type_.rank) + type_.shape
        full = (shape[0] != 1, shape[1] != 1, shape[2] != 1)
        mask = low.mask(
            MaskInput(low.input(node.inputs[3]), type_.dtype, heads if full[1] else 1, full)
        )
    return AttentionCall(
        low.places[node.inputs[0]],
        low.places[node.inputs[1]],
        low.places[node.inputs[2]],
        low.place(node),
        heads,
        heads // int(k.shape[1]),
        size,
        int(v.shape[3]),
        q.shape[2],
        k.shape[2],
        op.scale if op.scale is not None else 1 / math.sqrt(size),
        op.causal,
        mask,
        node.name,
    )


RULES: dict[type, Rule] = {
    Relayout: _relayout,
    Linear: _linear,
    Pointwise: _pointwise,
    LayerNorm: _layer_norm,
    RmsNorm: _rms_norm,
    Softmax: _softmax,
    Attention: _attention,
}
