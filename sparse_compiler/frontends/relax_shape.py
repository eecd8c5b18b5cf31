"""Relax's operators that move elements, or make them from nothing: views, parts, joins."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from ..ir.types import Dim, as_dim
from ..ops.cat import Cat
from ..ops.iota import Full, Iota
from ..ops.pad import MODES, Pad
from ..ops.roll import Flip
from ..ops.scalar import CASTS
from ..ops.shape import Slice
from .aten_shape import Named, expanded, permuted, reshaped, sliced, typed
from .relax_importer import Number, RelaxImporter, Sizes, Value
from .relax_rules import FLOATS, operator, pointwise, rule

# --- views -----------------------------------------------------------------------------------


@rule("reshape", "expand_dims", "squeeze", "flatten")
def _reshape(imp: RelaxImporter, call: Any) -> Value | None:
    value, result = imp.value(call.args[0]), imp.result_type()
    if result is None:
        return None
    if isinstance(value, Number) and not result.shape:
        return value
    x = imp.tensor(value) if isinstance(value, (str, Number, Sizes)) else None
    return None if x is None else reshaped(imp, x, result.shape)[0]


@rule("permute_dims")
def _permute(imp: RelaxImporter, call: Any) -> Value | None:
    x, axes = imp.tensor(call.args[0]), call.attrs.axes
    if x is None:
        return None
    return permuted(imp, x, range(x[1].rank)[::-1] if axes is None else ints(axes))[0]


@rule("broadcast_to")
def _broadcast_to(imp: RelaxImporter, call: Any) -> Value | None:
    x, result = imp.tensor(call.args[0]), imp.result_type()
    return None if x is None or result is None else expanded(imp, x, result.shape)[0]


@rule("tile", "repeat")
def _repeat(imp: RelaxImporter, call: Any) -> Value | None:
    """tile: [a] -> [1, a] -> [n, a] -> [n a]; repeat, each element: [a] -> [a, 1] -> [a, n]."""
    x, result = imp.tensor(call.args[0]), imp.result_type()
    whole = operator(call) == "tile"
    if x is None or result is None or x[1].rank == 0:
        return None
    if whole:
        counts = list(ints(call.attrs.repeats))
        rank = len(result.shape)
        counts = [1] * (rank - len(counts)) + counts
        sizes: tuple[Dim, ...] = (1,) * (rank - x[1].rank) + x[1].shape
    elif call.attrs.axis is None:
        return None
    else:
        counts, sizes = [1] * x[1].rank, x[1].shape
        counts[int(call.attrs.axis) % x[1].rank] = int(call.attrs.repeats)
    pairs = list(zip(counts, sizes, strict=True))
    first = 0 if whole else 1  # where the copies stand beside the elements
    split = tuple(d for _, size in pairs for d in ((1, size) if first == 0 else (size, 1)))
    full = tuple(d for n, size in pairs for d in ((n, size) if first == 0 else (size, n)))
    return reshaped(imp, expanded(imp, reshaped(imp, x, split), full), result.shape)[0]


# --- parts -----------------------------------------------------------------------------------


@rule("strided_slice")
def _strided_slice(imp: RelaxImporter, call: Any) -> Value | None:
    whole = imp.value(call.args[0])
    values = [imp.value(arg) for arg in call.args[1:]]
    if not all(isinstance(v, tuple) for v in values):
        return None
    parts = [_numbers(v) for v in values]
    axes, begins, ends = parts[:3]
    strides = parts[3] if len(parts) > 3 else [1] * len(axes)
    if any(n is None for part in (axes, begins, ends, strides) for n in part):
        return None
    x = imp.tensor(whole) if isinstance(whole, (str, Number, Sizes)) else None
    result = imp.result_type()
    if x is None or result is None:
        return None
    for axis, begin, end, stride in zip(axes, begins, ends, strides, strict=True):
        found = _part(imp, x, int(axis) % x[1].rank, begin, end, int(stride))
        if found is None:
            return None
        x = found
    return x[0] if x[1].shape == result.shape else None


def _numbers(value: Value) -> list[Any]:
    """The numbers of a tuple; None for what is not known."""
    items = value if isinstance(value, tuple) else ()
    return [item.value if isinstance(item, Number) else None for item in items]


def _part(
    imp: RelaxImporter, x: Named, dim: int, begin: Dim, end: Dim, stride: int
) -> Named | None:
    """Elements begin, begin + stride, ... before `end`; both may count from the end."""
    size = x[1].shape[dim]
    if stride == -1 and begin == -1:
        backwards = isinstance(end, int) and isinstance(size, int) and end < -size
        return typed(imp, imp.add(Flip((dim,)), [x[0]])) if backwards else None
    if stride < 1:
        return None
    start, stop = _inside(begin, size), _inside(end, size)
    if start is None or stop is None:
        return None
    if isinstance(start, int) and isinstance(stop, int):
        stop = max(start, stop)
    if stride == 1:
        return sliced(imp, x, dim, start, stop)
    return typed(imp, imp.add(Slice(dim, start, stop, stride), [x[0]]))


def _inside(index: Dim, size: Dim) -> Dim | None:
    """An index from the start, within 0 to size; None where that depends on the sizes."""
    if isinstance(size, int):
        if not isinstance(index, int):
            return None
        return min(max(index + size if index < 0 else index, 0), size)
    if isinstance(index, int):
        if index >= 2**31 - 1:
            return size
        return index if index >= 0 else as_dim(size + index)
    return index


@rule("split")
def _split(imp: RelaxImporter, call: Any) -> Value | None:
    x, given = imp.tensor(call.args[0]), call.attrs.indices_or_sections
    if x is None:
        return None
    dim = int(call.attrs.axis) % x[1].rank
    size = x[1].shape[dim]
    if not isinstance(size, int):
        return None
    count = imp.plain(given)
    if count is None:
        stops = [0, *ints(given), size]
    else:
        step = -(-size // int(count))
        stops = [min(i * step, size) for i in range(int(count) + 1)]
    return tuple(sliced(imp, x, dim, a, b)[0] for a, b in pairwise(stops))


@rule("flip")
def _flip(imp: RelaxImporter, call: Any) -> Value | None:
    x = imp.tensor(call.args[0])
    return None if x is None else imp.add(Flip((int(call.attrs.axis) % x[1].rank,)), [x[0]])


@rule("nn.pad")
def _pad(imp: RelaxImporter, call: Any) -> Value | None:
    x, mode = imp.tensor(call.args[0]), str(call.attrs.pad_mode)
    mode = {"edge": "replicate"}.get(mode, mode)
    value = imp.number(call.args[1]) if len(call.args) > 1 else getattr(call.attrs, "pad_value", 0)
    widths = list(ints(call.attrs.pad_width))
    if x is None or mode not in MODES or x[1].dtype not in CASTS:
        return None
    if len(widths) != 2 * x[1].rank or not isinstance(value, (int, float)):
        return None
    op = Pad(mode, tuple(widths[::2]), tuple(widths[1::2]), float(value))
    return imp.add(op, [x[0]])


# --- joins -----------------------------------------------------------------------------------


@rule("concat", "stack")
def _concat(imp: RelaxImporter, call: Any) -> Value | None:
    tensors, result = imp.tensors(call.args[0]), imp.result_type()
    if tensors is None or result is None or not tensors:
        return None
    dim = int(call.attrs.axis or 0) % len(result.shape)
    if operator(call) == "stack":
        shape = (*result.shape[:dim], 1, *result.shape[dim + 1 :])
        tensors = [reshaped(imp, t, shape) for t in tensors]
    if {t[1].dtype for t in tensors} != {result.dtype}:
        return None
    return imp.add(Cat(dim), [t[0] for t in tensors])


# --- from nothing, and sizes -----------------------------------------------------------------


@rule("full", "full_like", "zeros", "zeros_like", "ones", "ones_like")
def _full(imp: RelaxImporter, call: Any) -> Value | None:
    result, name = imp.result_type(), operator(call)
    known = {"zeros": 0, "ones": 1}.get(name.removesuffix("_like"))
    value = imp.number(call.args[1]) if known is None else known
    if result is None or value is None or result.dtype not in CASTS:
        return None
    if not isinstance(value, (int, float)):
        return imp.add(Full(value, result.shape, result.dtype), [])
    if not result.shape:
        return Number(value, result.dtype)
    value = float(value) if result.dtype in FLOATS else value
    return imp.add(Full(value, result.shape, result.dtype), [])


@rule("arange")
def _arange(imp: RelaxImporter, call: Any) -> Value | None:
    result = imp.result_type()
    start, _, step = (imp.number(arg) for arg in call.args)
    if result is None or result.dtype not in CASTS or start is None:
        return None
    if not isinstance(step, (int, float)):
        return None
    whole = isinstance(step, int) and not isinstance(start, float)
    if result.dtype not in FLOATS and not whole:
        return None
    return imp.add(Iota(result.shape[0], start, step, result.dtype), [])


@rule("tril", "triu")
def _triangle(imp: RelaxImporter, call: Any) -> Value | None:
    """where(column - row <= k, x, 0), or >= for the upper triangle."""
    x, k = imp.tensor(call.args[0]), imp.number(call.args[1])
    if x is None or not isinstance(k, int) or x[1].rank < 2:
        return None
    height, width = x[1].shape[-2:]
    rows = reshaped(imp, typed(imp, imp.add(Iota(height), [])), (height, 1))
    columns = imp.add(Iota(width), [])
    inside = f"{'le' if operator(call) == 'tril' else 'ge'}(sub(x1, x2), {float(k)!r})"
    return pointwise(imp, f"where({inside}, x0, 0.0)", [x[0], columns, rows[0]])


@rule("shape_of")
def _shape_of(imp: RelaxImporter, call: Any) -> Value | None:
    x = imp.tensor(call.args[0])
    return None if x is None else Sizes(x[1].shape)


@rule("shape_to_tensor")
def _shape_to_tensor(imp: RelaxImporter, call: Any) -> Value | None:
    dims = imp.sizes(call.args[0])
    return None if dims is None else Sizes(dims, tensor=True)


@rule("tensor_to_shape")
def _tensor_to_shape(imp: RelaxImporter, call: Any) -> Value | None:
    dims, known = imp.sizes(call.args[0]), imp.array(call.args[0])
    if dims is not None:
        return Sizes(dims)
    return None if known is None else Sizes(tuple(int(d) for d in known.reshape(-1)))


def ints(values: Any) -> tuple[int, ...]:
    """A list of numbers of TVM's."""
    return tuple(int(v) for v in values)


def axes_of(axes: Any, rank: int) -> tuple[int, ...]:
    """The dimensions that an attribute names, all where it names none."""
    if axes is None:
        return tuple(range(rank))
    given: Sequence[Any] = [axes] if isinstance(axes, int) else axes
    return tuple(sorted(int(a) % rank for a in given))


__all__ = ["axes_of", "ints"]
