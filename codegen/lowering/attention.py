"""Scaled dot product attention; its mask is made additive once for all layers that share it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import sympy

from sparse_compiler.codegen.lowering import always, lowers
from sparse_compiler.codegen.lowering.context import Lowering
from sparse_compiler.codegen.lowering.one_column import attend_row, in_rows
from sparse_compiler.codegen.operands import (
    Arg,
    Elements,
    First,
    Foreign,
    Held,
    Samples,
    Scratch,
    Strided,
    Struct,
    Word,
    Written,
)
from sparse_compiler.errors import CodegenError
from sparse_compiler.ir.graph import Node
from sparse_compiler.ir.text import print_node
from sparse_compiler.ir.types import Dim, as_dim
from sparse_compiler.ops.attention import Attention


@dataclass(frozen=True)
class Mask:
    """An additive mask, keys outside queries. strides: in floats, of sample, head, key, query;
    0 broadcasts."""

    pointer: Arg
    strides: tuple[Dim, Dim, Dim, Dim]


@lowers(Attention, columnwise=always)
def _attention(low: Lowering, node: Node) -> None:
    op = node.op
    if not isinstance(op, Attention):
        raise CodegenError("not an attention", node=print_node(node))
    if in_rows(low, node):
        attend_row(low, node)
        return
    q_type, k_type, v_type = (low.type(name) for name in node.inputs[:3])
    samples, heads, queries, size = q_type.shape
    keys, values = k_type.shape[2], v_type.shape[3]
    tokens = low.tokens(node)
    mask = _mask(low, node, tokens) if op.mask else Mask(Word("nullptr"), (0, 0, 0, 0))
    q = low.planes(node.inputs[0], node)
    k, v = (low.planes(name, node) for name in node.inputs[1:3])
    to = low.result(node)
    apart = tokens is not None and k.space == tokens
    args: tuple[Arg, ...] = (
        *(q, Foreign(k), Foreign(v), Written(to)),
        Samples(low.per_sample(samples, node.inputs[0])),
        *(heads, int(heads) // int(k_type.shape[1])),
        queries if tokens is None else Held(tokens),
        *(keys, size, values),
        float(op.scale if op.scale is not None else 1 / math.sqrt(int(size))),
        *(op.causal, op.nan_rows, mask.pointer, *mask.strides),
        0 if tokens is None else First(tokens),
        Word(f"part{tokens}") if apart else 0,
        Word("part_stride") if apart else 0,
        Scratch("attend_scratch_floats", (size, values)),
    )
    columns = low.per_sample(as_dim(samples * queries), node.inputs[0])
    flops = as_dim(2 * columns * keys * heads * (size + values))
    low.emit("attend", "attend.h", args, node.name, tokens=tokens, flops=flops)


def lines(columns: Dim) -> Dim:
    """Floats of whole cache lines that hold `columns` of them."""
    if isinstance(columns, int):
        return (columns + 15) // 16 * 16
    return as_dim(16 * sympy.ceiling(columns / 16))


def _mask(low: Lowering, node: Node, tokens: int | None) -> Mask:
    """The mask as the kernel reads it: a constant laid out so, or converted at run time."""
    name = node.inputs[3]
    type_ = low.type(name)
    shape = (1,) * (4 - type_.rank) + type_.shape
    heads = shape[1]
    keys = shape[3]
    full = (shape[0] != 1, heads != 1, shape[2] != 1)
    row = lines(shape[2]) if full[2] else lines(keys)
    head = as_dim(keys * row) if full[2] else row
    strides = (
        as_dim(heads * head) if full[0] else 0,
        head if full[1] else 0,
        row if full[2] else 1,
        1 if full[2] else 0,
    )
    if name in low.constants:
        own = low.holds_samples(name)
        step = as_dim(low.per_sample(shape[0], name) * strides[0]) if own else 0
        pointer: Arg = Elements("weight", low.weight(name, "mask"), "f32", step)
    else:
        key = ("mask", name)
        if key not in low.shared_work:
            low.shared_work[key] = _convert(low, name, shape, strides)
        pointer = low.shared_work[key]
    if tokens is not None and full[2]:
        pointer = Struct("sum", (pointer, First(tokens)))
    return Mask(pointer, strides)


def _convert(
    low: Lowering, name: str, shape: tuple[Dim, ...], strides: tuple[Dim, Dim, Dim, Dim]
) -> Elements:
    """A bool or additive row-major mask -> additive planes of keys, or one row of keys."""
    type_, source = low.type(name), low.elements(name)
    if type_.dtype not in ("bool", "f32"):
        raise CodegenError(f"an attention mask of {type_.dtype}", node=f"%{name}")
    batched = low.holds_samples(name)
    samples = low.per_sample(shape[0], name)
    count = Samples(samples) if batched else shape[0]
    _, heads, queries, keys = shape
    whole = as_dim(heads * queries * keys)
    full = strides[3] == 1
    row = strides[2] if full else lines(keys)
    size = as_dim(samples * heads * (keys if full else 1) * row)
    to = low.new_elements(size, "f32", carried=batched)
    if full:
        sizes: tuple[Arg, ...] = (count, heads, keys)
        steps: tuple[Dim, ...] = (whole, as_dim(queries * keys), 1)
        step, columns = keys, queries
    else:
        sizes, steps = (1, count, heads), (0, whole, keys)
        step, columns = 1, keys
    source_ = Strided(source, ())
    geometry = Struct("Strided", (Struct("", sizes), Struct("", steps), step))
    args = (source_, geometry, columns, Strided(to, (), written=True), row)
    low.emit("mask_to_planes", "attend.h", args, name)
    return to
