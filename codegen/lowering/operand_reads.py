"""How a kernel on planes reads its other operands, broadcast to its result.

Planes of an operand serve runs of the result's planes. Its columns are those of the result, one for
each sample, or spread: over a constant when shapes are bound, over an activation by a copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparse_compiler.analysis.batch import outermost
from sparse_compiler.codegen.lowering.places import row_map, strides_of
from sparse_compiler.codegen.operands import ConstantPlanes, Planes, Read, Vector
from sparse_compiler.codegen.program import Buffer
from sparse_compiler.errors import CodegenError
from sparse_compiler.ir.graph import Node
from sparse_compiler.ir.text import print_node
from sparse_compiler.ir.types import Dim, Layout, TensorType, product

if TYPE_CHECKING:
    from sparse_compiler.codegen.lowering.context import Lowering


def operand_of(low: Lowering, name: str, node: Node) -> Read | Vector:
    """What an epilogue of `node` reads at (row, column), broadcast to the node's result."""
    result, type_ = low.type(node.name), low.type(name)
    if name in low.constants and type_.layout is None:
        return low.vector(name)
    if result.layout is None or type_.layout is None:
        raise CodegenError(f"%{name} cannot be read in planes", node=print_node(node))
    shape = (1,) * (result.rank - type_.rank) + type_.shape
    full = [shape[d] == result.shape[d] for d in result.layout.outer]
    sizes = [result.shape[d] for d in result.layout.outer]
    div, mod = row_map(full, sizes, name)
    if name in low.constants:
        place, column = _constant(low, name, node, shape, result.layout)
        return Read(place, div, mod, column)
    inner = result.layout.inner
    if all(shape[d] == result.shape[d] for d in inner):
        return Read(low.planes(name, node), div, mod, True)
    batch = outermost(result)
    alone = low.per_sample(result.shape[batch], node.name) if batch in inner else 1
    if all(shape[d] == 1 for d in inner if d != batch) and alone == 1:
        each = low.holds_samples(name) and low.holds_samples(node.name)
        space = low.space(node.name, low.group(node)) if each else None
        return Read(low.anywhere(name), div, mod, False, space)
    return Read(_spread(low, name, node, shape, result), div, mod, True)


def _constant(
    low: Lowering, name: str, node: Node, shape: tuple[Dim, ...], layout: Layout
) -> tuple[ConstantPlanes, bool]:
    """Planes of a constant of that (padded) shape over the node's columns; whether it has any."""
    result = low.type(node.name)
    column = any(shape[d] != 1 for d in layout.inner)
    carried = low.holds_samples(name)
    wide = list(shape)
    for d in layout.inner if column else ():
        wide[d] = result.shape[d]
        if d == outermost(result) and not carried:
            wide[d] = low.per_sample(result.shape[d], node.name)
    space = low.space(node.name, low.group(node))
    index = low.weight(name, "planes", type_=TensorType("f32", tuple(wide), layout))
    return ConstantPlanes(index, space, low.columns_of(space) if carried else 0), column


def _spread(
    low: Lowering, name: str, node: Node, shape: tuple[Dim, ...], result: TensorType
) -> Planes:
    """A copy of a value of that (padded) shape, spread over the columns of `node`'s result."""
    from sparse_compiler.codegen.lowering.shape import batch_dim, copy

    if result.layout is None:
        raise CodegenError(f"%{name} is spread over no planes", node=print_node(node))
    source = low.place_in(name, None)
    own = strides_of(low.type(name), source)
    steps = [0] * (result.rank - len(own))
    steps += [0 if dim == 1 else step for dim, step in zip(low.type(name).shape, own, strict=True)]
    inner = result.layout.inner
    wide = TensorType(
        "f32",
        tuple(result.shape[d] if d in inner else size for d, size in enumerate(shape)),
        result.layout,
    )
    rows = product(wide.shape[d] for d in result.layout.outer)
    space = low.space(node.name, None)
    to = new_rows(low, rows, space)
    copy(
        low,
        node.name,
        wide.shape,
        (to, strides_of(wide, to), 0),
        (source, steps, 0),
        batch_dim(wide),
    )
    group = low.group(node)
    if group is None:
        return to
    apart = new_rows(low, rows, low.space(node.name, group))
    low.move_columns(node.name, to, apart, into_group=True)
    return apart


def new_rows(low: Lowering, rows: Dim, space: int) -> Planes:
    """Fresh planes that hold no value of the graph."""
    low.buffers.append(Buffer(rows, space))
    return Planes(len(low.buffers) - 1, 0, rows, space)


def lay_out_constant(low: Lowering, name: str) -> None:
    """Copies a constant into planes, for kernels that read activations."""
    from sparse_compiler.codegen.lowering.shape import batch_dim, copy

    type_ = low.type(name)
    source, to = low.elements(name), low.new_planes(name, None)
    sides = (to, strides_of(type_, to), 0), (source, strides_of(type_, source), 0)
    copy(low, name, type_.shape, *sides, batch_dim(type_))
    low.places[name, None] = to
