"""One column of activations, row-major: linears along the weight, norms, rotary, one query.

A decoding step has a single token, so planes would be of one number each; in rows everything is
vectorised along the features, and keys and values are read where the cache holds them.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparse_compiler.codegen.lowering.context import Lowering
from sparse_compiler.codegen.operands import (
    Arg,
    ScalarFunctor,
    Scratch,
    Strided,
    Struct,
    Weight,
    Word,
)
from sparse_compiler.errors import CodegenError
from sparse_compiler.ir.expr import Expr
from sparse_compiler.ir.graph import Node
from sparse_compiler.ir.text import print_node
from sparse_compiler.ir.types import as_dim
from sparse_compiler.ops.attention import Attention, default_scale
from sparse_compiler.ops.rotary import Rotary

_HEADER = "one_column.h"


def in_rows(low: Lowering, node: Node) -> bool:
    """True for a result that lies row-major."""
    layout = low.type(node.name).layout
    return layout is not None and layout.planes == 0


def _reads(low: Lowering, names: Sequence[str]) -> tuple[Arg, ...]:
    """Operands of an expression, a number to each feature or one for all."""
    found: list[Arg] = []
    for name in names:
        type_ = low.type(name)
        if type_.dtype != "f32":
            raise CodegenError(f"an operand of {type_.dtype} beside one column", node=f"%{name}")
        stride = 0 if type_.numel == 1 else 1
        found.append(Struct("RowRead", (Strided(low.elements(name), ()), stride)))
    return tuple(found)


def _functor(tree: Expr, operands: int) -> ScalarFunctor:
    return ScalarFunctor(tree, ("f32",) * (1 + operands), "f32")


def linear_row(low: Lowering, node: Node, tree: Expr, names: Sequence[str]) -> None:
    """A linear on one column. tree: of the sums x0 and the values `names`."""
    weight = low.type(node.inputs[1])
    index = Weight(low.weight(node.inputs[1], "packed"))
    x = Strided(low.elements(node.inputs[0]), ())
    y = Strided(low.result_elements(node), (), written=True)
    scratch = Scratch("decode_scratch_floats", (index, 1))
    args = (index, x, y, scratch, _functor(tree, len(names)), *_reads(low, names))
    flops = as_dim(2 * weight.shape[0] * weight.shape[1])
    low.emit("decode_row", "decode.h", args, node.name, flops=flops)


def norm_row(
    low: Lowering, node: Node, eps: float, tree: Expr, names: Sequence[str], *, centred: bool
) -> None:
    """A norm of one column. tree: of the normalised x0 and the values `names`."""
    size = low.type(node.name).shape[-1]
    x = Strided(low.elements(node.inputs[0]), ())
    y = Strided(low.result_elements(node), (), written=True)
    args = (size, float(eps), centred, x, y, _functor(tree, len(names)), *_reads(low, names))
    low.emit("norm_row", _HEADER, args, node.name)


def rotate_row(low: Lowering, node: Node) -> None:
    """A rotary embedding at one position."""
    op, type_ = node.op, low.type(node.name)
    if not isinstance(op, Rotary):
        raise CodegenError("no rotary embedding", node=print_node(node))
    x, cos, sin = (Strided(low.elements(name), ()) for name in node.inputs)
    y = Strided(low.result_elements(node), (), written=True)
    sizes = (type_.shape[1], type_.shape[3], low.type(node.inputs[1]).shape[2])
    low.emit("rotate_row", _HEADER, (*sizes, x, cos, sin, y, op.interleaved), node.name)


def attend_row(low: Lowering, node: Node) -> None:
    """An attention of one query; keys and values row-major."""
    op = node.op
    if not isinstance(op, Attention):
        raise CodegenError("not an attention", node=print_node(node))
    q, k, v = (low.type(name) for name in node.inputs[:3])
    keys, (_, heads, _, size) = k.shape[2], q.shape
    pointers = tuple(Strided(low.elements(name), ()) for name in node.inputs[:3])
    mask: Arg = Word("static_cast<const float*>(nullptr)")
    step = as_dim(0)
    if op.mask:
        type_ = low.type(node.inputs[3])
        mask = Strided(low.elements(node.inputs[3]), ())
        step = keys if type_.numel != keys else 0
    scale = float(op.scale if op.scale is not None else default_scale(size))
    geometry = (heads, k.shape[1], keys, size, v.shape[3], scale, op.nan_rows, step)
    y = Strided(low.result_elements(node), (), written=True)
    scratch = Scratch("attend_row_scratch_floats", (keys,))
    args = (Struct("OneQuery", geometry), *pointers, mask, y, scratch)
    flops = as_dim(2 * keys * heads * (size + v.shape[3]))
    low.emit("attend_row", _HEADER, args, node.name, flops=flops)
