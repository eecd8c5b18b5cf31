"""Elementwise expressions and reductions: on planes with vectors, or swept over row-major boxes."""

from __future__ import annotations

from sparse_compiler.codegen.lowering import always, lowers
from sparse_compiler.codegen.lowering.context import Lowering
from sparse_compiler.codegen.lowering.images import SAME
from sparse_compiler.codegen.lowering.norms import in_planes, source
from sparse_compiler.codegen.lowering.places import strides_of
from sparse_compiler.codegen.operands import (
    Box,
    Columns,
    Elements,
    Functor,
    Samples,
    ScalarFunctor,
    Strided,
    Struct,
    Written,
)
from sparse_compiler.errors import CodegenError
from sparse_compiler.ir.expr import Arg as ExprArg
from sparse_compiler.ir.expr import Expr
from sparse_compiler.ir.graph import Node
from sparse_compiler.ir.text import print_node
from sparse_compiler.ir.types import Dim, TensorType, product
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.reduce import Reduce
from sparse_compiler.ops.take import Spread


@lowers(Pointwise, columnwise=in_planes)
def _pointwise(low: Lowering, node: Node) -> None:
    op = node.op
    if not isinstance(op, Pointwise):
        raise CodegenError("not a pointwise op", node=print_node(node))
    if not in_planes(low.graph, node):
        sweep(low, node, op.tree)
        return
    functor = Functor(op.tree, tuple(low.operand(n, node) for n in node.inputs), False)
    to = low.result(node, over=node.inputs)
    args = (to.rows, Columns(to.space), Written(to), functor)
    low.emit("pointwise", "pointwise.h", args, node.name, tokens=low.tokens(node))


@lowers(Spread, columnwise=always)
def _spread(low: Lowering, node: Node) -> None:
    op = node.op
    if not isinstance(op, Spread):
        raise CodegenError("not a spread", node=print_node(node))
    x, to = low.planes(node.inputs[0], node), low.result(node)
    runs = Struct("", tuple(Struct("", pair) for pair in op.ranges))
    fill = Functor(ExprArg(0), (low.vector(node.inputs[1]),), False)
    args = (to.rows, Columns(to.space), Written(to), x, Struct("Runs", (runs,), (len(op.ranges),)))
    low.emit("spread", "spread.h", (*args, fill), node.name, tokens=low.tokens(node))


def sweep(low: Lowering, node: Node, tree: Expr) -> None:
    """A row-major result from row-major inputs broadcast to it."""
    type_ = low.type(node.name)
    inputs = [(low.type(name), low.elements(name)) for name in node.inputs]
    to = low.result_elements(node)
    reads = tuple(
        Strided(place, broadcast_strides(kind, place, type_.rank)) for kind, place in inputs
    )
    functor = ScalarFunctor(tree, tuple(kind.dtype for kind, _ in inputs), type_.dtype)
    args = (
        samples_box(low, node.name, type_.shape),
        Strided(to, strides_of(type_, to) or (0,), written=True),
        functor,
        *reads,
    )
    low.emit("map", "sweep.h", args, node.name)


def broadcast_strides(type_: TensorType, place: Elements, rank: int) -> tuple[Dim, ...]:
    """Strides over a result of `rank` dimensions: 0 where the value has size 1 or no dimension."""
    strides = strides_of(type_, place)
    own = tuple(0 if dim == 1 else s for dim, s in zip(type_.shape, strides, strict=True))
    return ((0,) * (rank - type_.rank) + own) or (0,)


def samples_box(low: Lowering, name: str, shape: tuple[Dim, ...]) -> Box:
    """The box of a shape whose first dimension counts samples if the value is carried."""
    if not shape:
        return Box((1,), samples=False)
    if not low.holds_samples(name):
        return Box(tuple(shape), samples=False)
    return Box((low.per_sample(shape[0], name), *shape[1:]), samples=True)


_FOLDS = {
    "sum": "Sum",
    "mean": "Mean",
    "amax": "Max",
    "amin": "Min",
    "prod": "Prod",
    "any": "Any",
    "all": "All",
    "argmax": "ArgMax",
    "argmin": "ArgMin",
}
_PLANAR = {"sum": "PlaneSum", "mean": "PlaneSum", "amax": "PlaneMax", "amin": "PlaneMin"}


@lowers(Reduce)
def _reduce(low: Lowering, node: Node) -> None:
    op = node.op
    if not isinstance(op, Reduce):
        raise CodegenError("not a reduction", node=print_node(node))
    source_type = low.type(node.inputs[0])
    if not low.is_planar(node.inputs[0]):
        _fold(low, node, op, source_type)
        return
    layout = source_type.layout
    x = low.planes(node.inputs[0], node)
    # one row of columns is row-major
    to = Written(low.result(node)) if in_planes(low.graph, node) else _one_row(low, node)
    mean = op.fn == "mean"
    kernel = _PLANAR[op.fn]
    if layout is not None and set(op.dims) == set(layout.outer):
        finish = Struct("Divided", (x.rows,)) if mean else SAME
        args = (1, x.rows, 1, Columns(x.space), to, source(x), finish)
        low.emit(f"reduce_rows<{kernel}>", "reduce.h", args, node.name)
        return
    batch = layout.inner[0] if layout is not None else 0
    samples = Samples(low.per_sample(source_type.shape[batch], node.inputs[0]))
    columns = product(source_type.shape[d] for d in op.dims)
    finish = Struct("Divided", (columns,)) if mean else SAME
    args_ = (x.rows, samples, columns, to, source(x), finish)
    low.emit(f"reduce_columns<{kernel}>", "reduce.h", args_, node.name)


def _one_row(low: Lowering, node: Node) -> Struct:
    """A row-major result as a kernel of planes writes it: a pointer, and no rows to step over."""
    return Struct("pair", (Strided(low.result_elements(node), (), written=True), 0))


def _fold(low: Lowering, node: Node, op: Reduce, source_type: TensorType) -> None:
    """Kept dimensions first, then those that are reduced."""
    place, to = low.elements(node.inputs[0]), low.result_elements(node)
    kept = [d for d in range(source_type.rank) if d not in op.dims]
    strides = strides_of(source_type, place)
    kept_type = TensorType(low.type(node.name).dtype, tuple(source_type.shape[d] for d in kept))
    shape = tuple(source_type.shape[d] for d in [*kept, *op.dims])
    box = samples_box(low, node.name, shape) if kept else Box(shape, samples=False)
    to_strides = strides_of(kept_type, to) + (0,) * len(op.dims)
    args = (
        box,
        len(kept),
        Strided(to, to_strides, written=True),
        Strided(place, tuple(strides[d] for d in [*kept, *op.dims])),
    )
    low.emit(f"fold<{_FOLDS[op.fn]}>", "fold.h", args, node.name)
