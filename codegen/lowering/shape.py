"""Views, copies between layouts, and ops that only move elements: each a strided copy of boxes.

In planes a view renames rows; what moves elements is a copy over logical dimensions with the
strides of either side, the batch outermost.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparse_compiler.analysis.batch import outermost
from sparse_compiler.codegen.lowering import always, lowers
from sparse_compiler.codegen.lowering.context import Lowering
from sparse_compiler.codegen.lowering.norms import in_planes
from sparse_compiler.codegen.lowering.places import Place, strides_of
from sparse_compiler.codegen.operands import (
    Box,
    Columns,
    Elements,
    Own,
    Planes,
    Strided,
    Written,
    ld_of,
)
from sparse_compiler.errors import CodegenError
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.text import print_node
from sparse_compiler.ir.types import Dim, Layout, TensorType, as_dim, product
from sparse_compiler.ops.cat import Cat
from sparse_compiler.ops.roll import Flip, Roll
from sparse_compiler.ops.shape import Expand, Permute, Relayout, Reshape, Slice


def copy(
    low: Lowering,
    label: str,
    sizes: Sequence[Dim],
    to: tuple[Place, Sequence[Dim], Dim],
    source: tuple[Place, Sequence[Dim], Dim],
    batch: int | None,
) -> None:
    """Copies a box. to, source: place, strides, offset; batch: the dimension of the samples."""
    box, to_strides = ordered_box(low, label, sizes, to[1], batch)
    _, from_strides = ordered_box(low, label, sizes, source[1], batch)
    written = Strided(to[0], to_strides, to[2], written=True)
    low.emit("copy", "sweep.h", (box, written, Strided(source[0], from_strides, source[2])), label)


def ordered_box(
    low: Lowering, label: str, sizes: Sequence[Dim], strides: Sequence[Dim], batch: int | None
) -> tuple[Box, tuple[Dim, ...]]:
    """A box with the dimension of the samples first, and strides in the same order."""
    order = list(range(len(sizes)))
    samples = batch is not None and low.holds_samples(label)
    if samples and batch is not None:
        order = [batch, *(d for d in order if d != batch)]
    box = [low.per_sample(sizes[d], label) if samples and d == batch else sizes[d] for d in order]
    return Box(tuple(box) or (1,), samples), tuple(strides[d] for d in order) or (0,)


def batch_dim(type_: TensorType) -> int | None:
    """The dimension that holds the samples, if the value does: the outermost inside a plane."""
    return outermost(type_)


def read(low: Lowering, name: str, node: Node) -> Place:
    """Where a value lies, in planes or row-major."""
    return low.planes(name, node) if low.is_planar(name) else low.elements(name)


def write(low: Lowering, node: Node) -> Place:
    """A place for the result of a copying node."""
    return low.result(node) if in_planes(low.graph, node) else low.result_elements(node)


def alias(low: Lowering, node: Node, first: Dim = 0) -> None:
    """The result is the input, renamed; planes start at row `first` of the input's."""
    source = node.inputs[0]
    for (name, group), place in list(low.places.items()):
        if name != source:
            continue
        if isinstance(place, Planes):
            rows = low.rows(node.name)
            place = Planes(place.buffer, as_dim(place.first + first), rows, place.space)
        low.places[node.name, group] = place


def as_elements(low: Lowering, planes: Planes, node: Node) -> Elements:
    """The one plane of a value as row-major memory: its columns, the samples outermost."""
    step = low.per_sample(low.type(node.name).numel, node.name) if low.carried(node.name) else 0
    offset = as_dim(planes.first * ld_of(planes.space))
    return Elements("buffer", planes.buffer, "f32", step, offset)


def _last_dim(layout: Layout | None, rank: int) -> bool:
    return layout == Layout((rank - 1, *range(rank - 1)), 1)


def _transposes(graph: Graph, node: Node) -> bool:
    """True for a copy between a row-major tensor of torch's and planes of the last dimension."""
    source, result = graph.tensor(node.inputs[0]), graph.tensor(node.name)
    pair = (source.layout, result.layout)
    return None in pair and any(_last_dim(layout, result.rank) for layout in pair)


@lowers(Relayout, columnwise=_transposes)
def _relayout(low: Lowering, node: Node) -> None:
    name = node.inputs[0]
    source, result = low.type(name), low.type(node.name)
    if source.layout is None and result.layout is not None and result.layout.planes == 0:
        low.places[node.name, None] = low.input(name)
        return
    if _transposes(low.graph, node):
        _transpose(low, node)
        return
    from_: Place = low.input(name) if source.layout is None else read(low, name, node)
    to: Place = low.output(node.name) if result.layout is None else write(low, node)
    sizes = result.shape
    copy(
        low,
        node.name,
        sizes,
        (to, strides_of(result, to), 0),
        (from_, strides_of(source, from_), 0),
        batch_dim(result if result.layout is not None else source),
    )


def _transpose(low: Lowering, node: Node) -> None:
    """Whole rows of features <-> planes of features, a thread's own tokens only."""
    name, tokens = node.inputs[0], low.tokens_of_copy(node)
    if low.type(name).layout is None:
        to = low.result(node)
        source = (
            Strided(low.input(name), ())
            if tokens is None
            else Own(low.input(name), to.rows, tokens)
        )
        args = (source, to.rows, Columns(to.space), to.rows, Written(to))
        low.emit("rows_to_planes", "relayout.h", args, node.name, tokens=tokens)
        return
    planes = low.planes(name, node)
    out = low.output(node.name)
    target = (
        Strided(out, (), written=True)
        if tokens is None
        else Own(out, planes.rows, tokens, written=True)
    )
    args_ = (planes, Columns(planes.space), planes.rows, target, planes.rows)
    low.emit("planes_to_rows", "relayout.h", args_, node.name, tokens=tokens)


@lowers(Reshape, Permute, columnwise=always)
def _view(low: Lowering, node: Node) -> None:
    if low.is_planar(node.inputs[0]) and not in_planes(low.graph, node):
        low.places[node.name, None] = as_elements(low, low.planes(node.inputs[0], node), node)
        return
    if in_planes(low.graph, node) or isinstance(node.op, Reshape):
        alias(low, node)
        return
    if not isinstance(node.op, Permute):
        raise CodegenError("no view to lower", node=print_node(node))
    source, place = low.type(node.inputs[0]), low.elements(node.inputs[0])
    to, type_ = low.result_elements(node), low.type(node.name)
    steps = strides_of(source, place)
    moved = tuple(steps[d] for d in node.op.dims)
    copy(low, node.name, type_.shape, (to, strides_of(type_, to), 0), (place, moved, 0), 0)


def rows_of_slice(source: TensorType, op: Slice) -> Dim | None:
    """The first row of a slice that is a run of the input's planes; None for other slices."""
    if source.layout is None or op.dim not in source.layout.outer or op.step != 1:
        return None
    place = source.layout.outer.index(op.dim)
    if any(source.shape[d] != 1 for d in source.layout.outer[:place]):
        return None
    return as_dim(op.start * product(source.shape[d] for d in source.layout.outer[place + 1 :]))


def _slices_rows(graph: Graph, node: Node) -> bool:
    source = graph.tensor(node.inputs[0])
    return isinstance(node.op, Slice) and rows_of_slice(source, node.op) is not None


@lowers(Slice, columnwise=_slices_rows)
def _slice(low: Lowering, node: Node) -> None:
    op, source = node.op, low.type(node.inputs[0])
    if not isinstance(op, Slice):
        raise CodegenError("no slice to lower", node=print_node(node))
    first = rows_of_slice(source, op)
    if first is not None and low.is_planar(node.inputs[0]):
        alias(low, node, first)
        return
    place = read(low, node.inputs[0], node)
    to, type_ = write(low, node), low.type(node.name)
    strides = list(strides_of(source, place))
    offset = as_dim(strides[op.dim] * op.start)
    strides[op.dim] = as_dim(strides[op.dim] * op.step)
    target = (to, strides_of(type_, to), 0)
    copy(low, node.name, type_.shape, target, (place, strides, offset), batch_dim(type_))


@lowers(Expand)
def _expand(low: Lowering, node: Node) -> None:
    source, type_ = low.type(node.inputs[0]), low.type(node.name)
    place, to = read(low, node.inputs[0], node), write(low, node)
    own = [
        0 if dim == 1 else stride
        for dim, stride in zip(source.shape, strides_of(source, place), strict=True)
    ]
    strides = [0] * (type_.rank - source.rank) + own
    target = (to, strides_of(type_, to), 0)
    copy(low, node.name, type_.shape, target, (place, strides, 0), batch_dim(type_))


@lowers(Cat)
def _cat(low: Lowering, node: Node) -> None:
    op, type_ = node.op, low.type(node.name)
    if not isinstance(op, Cat):
        raise CodegenError("no concatenation to lower", node=print_node(node))
    to = write(low, node)
    strides = strides_of(type_, to)
    start: Dim = 0
    for name in node.inputs:
        piece = low.type(name)
        source = read(low, name, node)
        offset = as_dim(strides[op.dim] * start)
        start = as_dim(start + piece.shape[op.dim])
        if _in_place(source, to, offset):
            continue
        steps = strides_of(piece, source)
        copy(
            low, node.name, piece.shape, (to, strides, offset), (source, steps, 0), batch_dim(type_)
        )


def _in_place(source: Place, to: Place, offset: Dim) -> bool:
    """True where a piece was computed where it belongs."""
    if not isinstance(source, Planes) or not isinstance(to, Planes):
        return False
    same = source.buffer == to.buffer
    return same and as_dim((source.first - to.first) * ld_of(to.space)) == offset


@lowers(Flip)
def _flip(low: Lowering, node: Node) -> None:
    op, type_ = node.op, low.type(node.name)
    if not isinstance(op, Flip):
        raise CodegenError("no flip to lower", node=print_node(node))
    place, to = read(low, node.inputs[0], node), write(low, node)
    strides = list(strides_of(type_, place))
    offset: Dim = 0
    for d in op.dims:
        offset = as_dim(offset + strides[d] * (type_.shape[d] - 1))
        strides[d] = as_dim(-strides[d])
    target = (to, strides_of(type_, to), 0)
    copy(low, node.name, type_.shape, target, (place, strides, offset), batch_dim(type_))


@lowers(Roll)
def _roll(low: Lowering, node: Node) -> None:
    """Two runs along each rolled dimension, so 2^k boxes."""
    op, type_ = node.op, low.type(node.name)
    if not isinstance(op, Roll):
        raise CodegenError("no roll to lower", node=print_node(node))
    place, to = read(low, node.inputs[0], node), write(low, node)
    from_strides, to_strides = strides_of(type_, place), strides_of(type_, to)
    boxes: list[tuple[list[Dim], Dim, Dim]] = [(list(type_.shape), 0, 0)]
    for d, shift in zip(op.dims, op.shifts, strict=True):
        size = type_.shape[d]
        turn = as_dim(shift % size)
        halves = []
        for sizes, source, target in boxes:
            for length, begin, end in ((as_dim(size - turn), 0, turn), (turn, size - turn, 0)):
                part = [*sizes[:d], length, *sizes[d + 1 :]]
                halves.append(
                    (
                        part,
                        as_dim(source + begin * from_strides[d]),
                        as_dim(target + end * to_strides[d]),
                    )
                )
        boxes = halves
    for sizes, source, target in boxes:
        copy(
            low,
            node.name,
            sizes,
            (to, to_strides, target),
            (place, from_strides, source),
            batch_dim(type_),
        )
