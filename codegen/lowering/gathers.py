"""Reads at computed positions, running sums, products of activations, and rotary embeddings."""

from __future__ import annotations

from dataclasses import replace

from sparse_compiler.codegen.lowering import lowers
from sparse_compiler.codegen.lowering.context import Lowering
from sparse_compiler.codegen.lowering.elementwise import broadcast_strides, samples_box
from sparse_compiler.codegen.lowering.norms import in_planes
from sparse_compiler.codegen.lowering.one_column import in_rows, rotate_row
from sparse_compiler.codegen.lowering.places import strides_of
from sparse_compiler.codegen.operands import (
    Arg,
    Columns,
    ConstantPlanes,
    Elements,
    Own,
    Planes,
    Samples,
    Scratch,
    Strided,
    Struct,
    Written,
)
from sparse_compiler.errors import CodegenError
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.text import print_node
from sparse_compiler.ir.types import Dim, TensorType, as_dim, product
from sparse_compiler.ops.embedding import Embedding
from sparse_compiler.ops.index import Gather, Index
from sparse_compiler.ops.matmul import Matmul
from sparse_compiler.ops.rotary import Rotary
from sparse_compiler.ops.scan import Cumsum


@lowers(Embedding, columnwise=in_planes)
def _embedding(low: Lowering, node: Node) -> None:
    table, name = low.type(node.inputs[0]), node.inputs[1]
    ids, ids_type = low.elements(name), low.type(name)
    rows, width = table.shape
    pointer = Strided(low.elements(node.inputs[0]), ())
    if in_planes(low.graph, node):
        to = low.result(node)
        tokens = low.tokens(node)
        source: Arg = Strided(ids, ()) if tokens is None else Own(ids, 1, tokens)
        args: tuple[Arg, ...] = (pointer, rows, width, source, Columns(to.space), Written(to))
        args += (low.error(node),)
        low.emit("gather_rows_to_planes", "gather.h", args, node.name, tokens=tokens)
        return
    out = low.result_elements(node)
    count: Arg = ids_type.numel
    if low.holds_samples(node.name):
        count = Samples(low.per_sample(ids_type.numel, name))
    args = (pointer, rows, width, Strided(ids, ()), count, Strided(out, (), written=True), width)
    low.emit("gather_rows", "gather.h", (*args, low.error(node)), node.name)


@lowers(Index)
def _index(low: Lowering, node: Node) -> None:
    op, type_ = node.op, low.type(node.name)
    if not isinstance(op, Index):
        raise CodegenError("not an index", node=print_node(node))
    x = low.type(node.inputs[0])
    indices = [(low.type(n), low.elements(n)) for n in node.inputs[1:]]
    picked = type_.rank - (x.rank - len(indices))
    before, after = op.dim, x.rank - op.dim - len(indices)
    strides = strides_of(x, low.elements(node.inputs[0]))
    from_strides = (*strides[:before], *(0,) * picked, *strides[x.rank - after :])
    parts = [
        Struct(
            "",
            (
                Strided(
                    place,
                    ((0,) * before + _broadcast(kind, place, picked) + (0,) * after) or (0,),
                ),
                x.shape[op.dim + k],
                strides[op.dim + k],
            ),
        )
        for k, (kind, place) in enumerate(indices)
    ]
    _emit_index(low, node, from_strides, parts, indices[0][0], wrap=True)


def _broadcast(type_: TensorType, place: Elements, rank: int) -> tuple[Dim, ...]:
    return broadcast_strides(type_, place, rank)[:rank] if rank else ()


@lowers(Gather)
def _gather(low: Lowering, node: Node) -> None:
    op = node.op
    if not isinstance(op, Gather):
        raise CodegenError("not a gather", node=print_node(node))
    x, index = low.type(node.inputs[0]), low.type(node.inputs[1])
    strides = list(strides_of(x, low.elements(node.inputs[0])))
    place = low.elements(node.inputs[1])
    step, strides[op.dim] = strides[op.dim], 0
    part = Struct("", (Strided(place, strides_of(index, place)), x.shape[op.dim], step))
    _emit_index(low, node, tuple(strides), [part], index, wrap=False)


def _emit_index(
    low: Lowering,
    node: Node,
    from_strides: tuple[Dim, ...],
    parts: list[Struct],
    index: TensorType,
    *,
    wrap: bool,
) -> None:
    type_ = low.type(node.name)
    rank = max(1, type_.rank)
    place = low.elements(node.inputs[0])
    to = low.result_elements(node)
    args = (
        samples_box(low, node.name, type_.shape),
        Strided(to, strides_of(type_, to) or (0,), written=True),
        Strided(place, from_strides or (0,)),
        Struct("Indices", (Struct("", tuple(parts)),), (index.dtype, rank, len(parts))),
        wrap,
        low.error(node),
    )
    low.emit("index_at", "gather_calls.h", args, node.name)


@lowers(Cumsum)
def _cumsum(low: Lowering, node: Node) -> None:
    op, type_ = node.op, low.type(node.name)
    if not isinstance(op, Cumsum):
        raise CodegenError("not a cumsum", node=print_node(node))
    source, to = low.elements(node.inputs[0]), low.result_elements(node)
    outer: Arg = product(type_.shape[: op.dim])
    if low.holds_samples(node.name):
        outer = Samples(
            as_dim(low.per_sample(type_.shape[0], node.name) * product(type_.shape[1 : op.dim]))
        )
    args = (
        outer,
        type_.shape[op.dim],
        product(type_.shape[op.dim + 1 :]),
        Strided(source, ()),
        Strided(to, (), written=True),
    )
    low.emit("cumsum", "scan.h", args, node.name)


def _three_batches(strides: tuple[Dim, ...]) -> tuple[Dim, ...]:
    return (0,) * (3 - len(strides)) + tuple(strides)


@lowers(Matmul)
def _matmul(low: Lowering, node: Node) -> None:
    type_ = low.type(node.name)
    batch = type_.shape[:-2]
    if len(batch) > 3:
        raise CodegenError("a product over more than 3 batch dimensions", node=print_node(node))
    places = [low.elements(name) for name in node.inputs]
    kinds = [low.type(name) for name in node.inputs]
    to = low.result_elements(node)
    sizes: list[Arg] = [1] * (3 - len(batch)) + list(batch)
    if batch and low.holds_samples(node.name):
        sizes[3 - len(batch)] = Samples(low.per_sample(batch[0], node.name))

    def matrices(kind: TensorType, place: Elements, *, written: bool = False) -> Struct:
        strides = strides_of(kind, place) if written else broadcast_strides(kind, place, type_.rank)
        steps = Struct("", _three_batches(strides[:-2]))
        fixed = strides_of(kind, place)
        return Struct("", (Strided(place, (), written=written), steps, *fixed[-2:]))

    geometry = Struct(
        "Matmul",
        (
            Struct("", tuple(sizes)),
            *type_.shape[-2:],
            kinds[0].shape[-1],
            matrices(kinds[0], places[0]),
            matrices(kinds[1], places[1]),
            matrices(type_, to, written=True),
        ),
    )
    scratch = Scratch("matmul_scratch_floats", (Struct("Matmul", ()),))
    low.emit("matmul", "matmul.h", (geometry, scratch), node.name)


def _rotates_planes(graph: Graph, node: Node) -> bool:
    return in_planes(graph, node)


@lowers(Rotary, columnwise=_rotates_planes)
def _rotary(low: Lowering, node: Node) -> None:
    op, type_ = node.op, low.type(node.name)
    if in_rows(low, node):
        rotate_row(low, node)
        return
    if not isinstance(op, Rotary) or not in_planes(low.graph, node):
        raise CodegenError("no rotary embedding in planes", node=print_node(node))
    x = low.planes(node.inputs[0], node)
    angles = [_angles(low, name, node) for name in node.inputs[1:]]
    to = low.result(node)
    rotated = low.type(node.inputs[1]).shape[2]
    args = (type_.shape[1], type_.shape[3], rotated, x, *angles, Written(to), op.interleaved)
    args = (*args, Columns(to.space))
    low.emit("rotate", "rotate.h", args, node.name, tokens=low.tokens(node))


def _angles(low: Lowering, name: str, node: Node) -> Planes | ConstantPlanes:
    """Planes of angles at the node's columns."""
    if name not in low.constants:
        return low.planes(name, node)
    type_, (samples, _, positions, _) = low.type(name), low.type(node.name).shape
    space = low.space(node.name, low.group(node))
    apart = low.holds_samples(name)
    batch = samples if apart else low.per_sample(samples, node.name)
    wide = replace(type_, shape=(batch, positions, type_.shape[2]))
    index = low.weight(name, "planes", type_=wide)
    return ConstantPlanes(index, space, low.columns_of(space) if apart else 0)
