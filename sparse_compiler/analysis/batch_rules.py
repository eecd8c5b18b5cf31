"""How samples pass through each op: rules of `batch`, one table.

A rule gets the dimension of each input that holds the samples and gives that of the result, or says
in words why the op mixes samples. An op without a rule is taken to mix them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import sympy

from sparse_compiler.ir.op import Op
from sparse_compiler.ir.types import Dim, TensorType, as_dim
from sparse_compiler.ops.attention import Attention
from sparse_compiler.ops.batch_norm import BatchNorm
from sparse_compiler.ops.cat import Cat
from sparse_compiler.ops.conv import Conv
from sparse_compiler.ops.embedding import Embedding
from sparse_compiler.ops.group_norm import GroupNorm
from sparse_compiler.ops.index import Gather, Index
from sparse_compiler.ops.linear import Linear
from sparse_compiler.ops.matmul import Matmul
from sparse_compiler.ops.norm import LayerNorm, RmsNorm
from sparse_compiler.ops.pad import Pad
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.pool import AdaptivePool, Pool
from sparse_compiler.ops.reduce import Reduce
from sparse_compiler.ops.roll import Flip, Roll
from sparse_compiler.ops.rotary import Rotary
from sparse_compiler.ops.scan import Cumsum
from sparse_compiler.ops.shape import Expand, Permute, Relayout, Reshape, Slice, reshape_groups
from sparse_compiler.ops.softmax import Softmax
from sparse_compiler.ops.take import Spread
from sparse_compiler.ops.upsample import Upsample

SHARED = None
"""In place of a dimension: the value is the same for all samples."""


@dataclass(frozen=True)
class Reading:
    """What a rule sees of one node.

    dims: per input the dimension that holds the samples; constant: which inputs are constants,
    whose dimension an op may still decide; result: its type; samples: their number.
    """

    op: Any
    types: tuple[TensorType, ...]
    dims: tuple[int | None, ...]
    constant: tuple[bool, ...]
    result: TensorType
    samples: Dim


@dataclass(frozen=True)
class Found:
    """dim: of the result; constants: position -> dimension of those that differ by sample."""

    dim: int
    constants: Mapping[int, int] = field(default_factory=dict)


Rule: TypeAlias = Callable[[Reading], Found | str]


def divided(size: Dim, samples: Dim) -> Dim | None:
    """size / samples, where that is a whole number for all symbols; otherwise None."""
    if isinstance(size, int) and isinstance(samples, int):
        return size // samples if samples and size % samples == 0 else None
    ratio = sympy.expand(sympy.sympify(size) / samples)
    return as_dim(ratio) if ratio.as_numer_denom()[1] == 1 else None


# --- inputs beside the first ----------------------------------------------------------------------


def _broadcast(read: Reading, dim: int, first: int) -> Found | str:
    """Inputs from number `first` on broadcast to the result, whose samples are in `dim`."""
    constants: dict[int, int] = {}
    for i in range(first, len(read.types)):
        own = dim - (read.result.rank - read.types[i].rank)
        size = read.types[i].shape[own] if own >= 0 else 1
        if read.dims[i] is not SHARED:
            if read.dims[i] != own or size != read.result.shape[dim]:
                return f"input {i} has its samples in another dimension"
        elif size != 1:
            if not read.constant[i]:
                return f"input {i} is as long as the batch and holds no samples"
            constants[i] = own
    return Found(dim, constants)


def _together(read: Reading, dim: int, positions: range) -> Found | str:
    """The inputs at `positions` have the rank of the result, and samples in the same `dim`."""
    constants: dict[int, int] = {}
    for i in positions:
        if read.dims[i] is SHARED and read.constant[i]:
            constants[i] = dim
        elif read.dims[i] != dim:
            return f"input {i} does not have its samples in dimension {dim}"
    return Found(dim, constants)


def _all_broadcast(read: Reading) -> Found | str:
    aligned = {
        dim + read.result.rank - type_.rank
        for type_, dim in zip(read.types, read.dims, strict=True)
        if dim is not SHARED
    }
    if len(aligned) != 1:
        return "two inputs have their samples in different dimensions"
    return _broadcast(read, aligned.pop(), 0)


# --- ops that work along some dimensions of their first input ------------------------------------


def _apart(mixed: Callable[[Any, TensorType], set[int]]) -> Rule:
    """Of an op that mixes the dimensions `mixed(op, x)`, and broadcasts operands of an epilogue."""

    def rule(read: Reading) -> Found | str:
        dim = read.dims[0]
        if dim is SHARED:
            return "its first input holds no samples"
        if dim in mixed(read.op, read.types[0]):
            return f"it works along dimension {dim}, which holds the samples"
        first = getattr(read.op, "operands", len(read.types))
        if any(d is not SHARED for d in read.dims[1:first]):
            return "a weight differs by sample"
        return _broadcast(read, dim, first)

    return rule


def _all_but_first(_: Any, x: TensorType) -> set[int]:
    return set(range(1, x.rank))


def _last(_: Any, x: TensorType) -> set[int]:
    return {x.rank - 1}


def _own(op: Any, x: TensorType) -> set[int]:
    return {op.dim % x.rank}


def _own_all(op: Any, _: TensorType) -> set[int]:
    return set(op.dims)


def _padded(op: Any, _: TensorType) -> set[int]:
    ends = zip(op.before, op.after, strict=True)
    return {d for d, pair in enumerate(ends) if pair != (0, 0)}


def _reduce(read: Reading) -> Found | str:
    found = _apart(_own_all)(read)
    if isinstance(found, str) or read.op.keepdim:
        return found
    return Found(found.dim - sum(d < found.dim for d in read.op.dims))


# --- ops with rules of their own ------------------------------------------------------------------


def _attention(read: Reading) -> Found | str:
    if read.dims[0] != 0:
        return "the queries do not have their samples first"
    keys, mask = _together(read, 0, range(1, 3)), _broadcast(read, 0, 3)
    if isinstance(keys, str) or isinstance(mask, str):
        return keys if isinstance(keys, str) else mask
    return Found(0, {**keys.constants, **mask.constants})


def _rotary(read: Reading) -> Found | str:
    if read.dims[0] != 0:
        return "its first input does not have its samples first"
    constants: dict[int, int] = {}
    for i in (1, 2):
        if read.types[i].shape[0] == 1:
            continue
        if read.dims[i] != 0 and not read.constant[i]:
            return f"input {i} does not have its samples first"
        constants |= {i: 0} if read.constant[i] else {}
    return Found(0, constants)


def _matmul(read: Reading) -> Found | str:
    found = _all_broadcast(read)
    if isinstance(found, Found) and found.dim >= read.result.rank - 2:
        return "its samples are rows or columns of the matrices"
    return found


def _cat(read: Reading) -> Found | str:
    dim = next(d for d in read.dims if d is not SHARED)
    if dim is SHARED or dim == read.op.dim:
        return "it joins along the dimension of the samples"
    return _together(read, dim, range(len(read.types)))


def _embedding(read: Reading) -> Found | str:
    table, ids = read.dims
    if table is not SHARED or ids is SHARED:
        return "its table differs by sample"
    return Found(ids)


def _index(read: Reading) -> Found | str:
    x, start, count = read.dims[0], read.op.dim, len(read.types) - 1
    picked = read.result.rank - (read.types[0].rank - count)
    if x is None:
        aligned = {
            start + picked - t.rank + d
            for t, d in zip(read.types[1:], read.dims[1:], strict=True)
            if d is not None
        }
        whole = all(t.rank == picked for t in read.types[1:])
        same = len(set(read.dims[1:])) == 1
        return Found(aligned.pop()) if whole and same else "its indices differ in their samples"
    if any(d is not SHARED for d in read.dims[1:]):
        return "each sample is picked from by indices of its own"
    if start <= x < start + count:
        return "it picks among the samples"
    return Found(x if x < start else x - count + picked)


def _gather(read: Reading) -> Found | str:
    dim, index = read.dims
    constants: dict[int, int] = {}
    if dim is SHARED and read.constant[0] and index is not SHARED:
        dim, constants = index, {0: index}
    if dim is SHARED or dim != index or dim == read.op.dim:
        return "its input and its index do not have their samples in the same other dimension"
    same = read.types[0].shape[dim] == read.types[1].shape[dim]
    return Found(dim, constants) if same else "it leaves out samples"


def _permute(read: Reading) -> Found | str:
    return Found(read.op.dims.index(read.dims[0]))


def _relayout(read: Reading) -> Found | str:
    dim = read.dims[0]
    return "nothing holds samples" if dim is SHARED else Found(dim)


def _reshape(read: Reading) -> Found | str:
    """Samples lead the run of dimensions that they are in, before and after."""
    old, new = read.types[0].shape, read.result.shape
    for before, after in reshape_groups(old, new) or ():
        if read.dims[0] not in before:
            continue
        leading = next((d for d in before if old[d] != 1), None)
        if leading != read.dims[0]:
            return "the samples are merged behind another dimension"
        dim = next((d for d in after if new[d] != 1), None)
        if dim is None or divided(new[dim], read.samples) is None:
            return "the samples are split over two dimensions"
        return Found(dim)
    return "its sizes cannot be compared"


RULES: dict[type[Op], Rule] = {
    AdaptivePool: _apart(_all_but_first),
    Attention: _attention,
    BatchNorm: _apart(_all_but_first),
    Cat: _cat,
    Conv: _apart(_all_but_first),
    Cumsum: _apart(_own),
    Embedding: _embedding,
    Expand: _all_broadcast,
    Flip: _apart(_own_all),
    Gather: _gather,
    GroupNorm: _apart(_all_but_first),
    Index: _index,
    LayerNorm: _apart(_last),
    Linear: _apart(_last),
    Matmul: _matmul,
    Pad: _apart(_padded),
    Permute: _permute,
    Pointwise: _all_broadcast,
    Pool: _apart(_all_but_first),
    Reduce: _reduce,
    Relayout: _relayout,
    Reshape: _reshape,
    RmsNorm: _apart(_last),
    Roll: _apart(_own_all),
    Rotary: _rotary,
    Slice: _apart(_own),
    Softmax: _apart(_own),
    Spread: _apart(_last),
    Upsample: _apart(_all_but_first),
}
