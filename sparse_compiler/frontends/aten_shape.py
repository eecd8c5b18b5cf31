"""ATen operators that move elements -> our ops: views, slices, joins."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import sympy
from torch import fx

from ..ir.types import Dim, TensorType, as_dim
from ..ops.cat import Cat
from ..ops.roll import Flip, Roll
from ..ops.shape import Expand, Permute, Reshape, Slice
from .importer import Adds, Importer, Result
from .rules import overload, pointwise, rule

Named = tuple[str, TensorType]


def typed(imp: Adds, name: str) -> Named:
    """A value that is a tensor, with its type."""
    type_ = imp.builder.types[name]
    if not isinstance(type_, TensorType):
        raise TypeError(f"%{name} is no tensor")
    return name, type_


def reshaped(imp: Adds, x: Named, shape: tuple[Dim, ...]) -> Named:
    """`x` under another shape, itself where it has that already."""
    return x if x[1].shape == shape else typed(imp, imp.add(Reshape(shape), [x[0]]))


def permuted(imp: Adds, x: Named, dims: Sequence[int]) -> Named:
    """`x` with its dimensions in this order."""
    order = tuple(d % x[1].rank for d in dims)
    if order == tuple(range(x[1].rank)):
        return x
    return typed(imp, imp.add(Permute(order), [x[0]]))


def expanded(imp: Adds, x: Named, shape: tuple[Dim, ...]) -> Named:
    """`x` broadcast to `shape`."""
    return x if x[1].shape == shape else typed(imp, imp.add(Expand(shape), [x[0]]))


def sliced(imp: Adds, x: Named, dim: int, start: Dim, stop: Dim) -> Named:
    """Elements start..stop-1 of a dimension."""
    if start == 0 and stop == x[1].shape[dim]:
        return x
    return typed(imp, imp.add(Slice(dim, start, stop), [x[0]]))


# --- views -----------------------------------------------------------------------------------


@rule(
    "view.default",
    "reshape.default",
    "_unsafe_view.default",
    "_reshape_alias.default",
    "flatten.using_ints",
    "unflatten.int",
    "unsqueeze.default",
    "squeeze.default",
    "squeeze.dim",
    "squeeze.dims",
    "view_copy.default",
    "view_as.default",
    "reshape_as.default",
    "ravel.default",
)
def _reshape(imp: Importer, node: fx.Node) -> Result:
    x, result = imp.tensor(node.args[0]), imp.result_type()
    if x is None or result is None or x[1].dtype != result.dtype:
        return None
    return reshaped(imp, x, result.shape)[0]


@rule("permute.default")
def _permute(imp: Importer, node: fx.Node) -> Result:
    x = imp.tensor(node.args[0])
    return None if x is None else permuted(imp, x, list(imp.arguments()["dims"]))[0]


@rule("transpose.int", "t.default", "numpy_T.default", "mT.default", "swapaxes.default")
def _transpose(imp: Importer, node: fx.Node) -> Result:
    x, args = imp.tensor(node.args[0]), imp.arguments()
    if x is None or x[1].rank < 2:
        return None if x is None else x[0]
    dims = list(range(x[1].rank))
    if overload(node) == "numpy_T":
        return permuted(imp, x, dims[::-1])[0]
    a = args.get("dim0", args.get("axis0", -2))
    b = args.get("dim1", args.get("axis1", -1))
    dims[a], dims[b] = dims[b], dims[a]
    return permuted(imp, x, dims)[0]


@rule("movedim.int", "movedim.intlist")
def _movedim(imp: Importer, node: fx.Node) -> Result:
    x, args = imp.tensor(node.args[0]), imp.arguments()
    if x is None:
        return None
    sources, targets = (
        [d % x[1].rank for d in ([args[k]] if isinstance(args[k], int) else args[k])]
        for k in ("source", "destination")
    )
    rest = iter(d for d in range(x[1].rank) if d not in sources)
    placed = dict(zip(targets, sources, strict=True))
    order = [placed[d] if d in placed else next(rest) for d in range(x[1].rank)]
    return permuted(imp, x, order)[0]


@rule("expand.default", "expand_as.default", "broadcast_to.default", "expand_copy.default")
def _expand(imp: Importer, node: fx.Node) -> Result:
    x, result = imp.tensor(node.args[0]), imp.result_type()
    return None if x is None or result is None else expanded(imp, x, result.shape)[0]


@rule("repeat.default", "tile.default")
def _repeat(imp: Importer, node: fx.Node) -> Result:
    """[a, b] m x n times: [1, a, 1, b] expanded to [m, a, n, b], and reshaped."""
    x, result, args = imp.tensor(node.args[0]), imp.result_type(), imp.arguments()
    counts = [imp.number(n) for n in args["repeats" if "repeats" in args else "dims"]]
    if x is None or result is None or None in counts:
        return None
    rank = len(result.shape)
    counts = [1] * (rank - len(counts)) + counts
    sizes = (1,) * (rank - x[1].rank) + x[1].shape
    if all(n == 1 for n in counts):
        return reshaped(imp, x, result.shape)[0]
    pairs = list(zip(counts, sizes, strict=True))
    split = tuple(d for n, size in pairs for d in ((size,) if n == 1 else (1, size)))
    full = tuple(d for n, size in pairs for d in ((size,) if n == 1 else (n, size)))
    return reshaped(imp, expanded(imp, reshaped(imp, x, split), full), result.shape)[0]


@rule("repeat_interleave.self_int")
def _repeat_interleave(imp: Importer, node: fx.Node) -> Result:
    """Each element n times in its place: [a] -> [a, 1] -> [a, n] -> [a n]."""
    x, result, args = imp.tensor(node.args[0]), imp.result_type(), imp.arguments()
    count = imp.number(args["repeats"])
    if x is None or result is None or count is None or args["dim"] is None:
        return None
    dim, shape = args["dim"] % x[1].rank, x[1].shape
    split = reshaped(imp, x, (*shape[: dim + 1], 1, *shape[dim + 1 :]))
    full = expanded(imp, split, (*shape[: dim + 1], count, *shape[dim + 1 :]))
    return reshaped(imp, full, result.shape)[0]


@rule(
    "clone.default",
    "contiguous.default",
    "alias.default",
    "detach.default",
    "lift_fresh_copy.default",
    "lift_fresh.default",
    "dropout.default",
    "feature_dropout.default",
    "positive.default",
    "real.default",
)
def _identity(imp: Importer, node: fx.Node) -> Result:
    """What changes no number: same shape, dtype and device; dropout only outside training."""
    x, result = imp.tensor(node.args[0]), imp.result_type()
    if x is None or result is None or x[1].logical != result:
        return None
    source, value = node.args[0], node.meta["val"]
    if imp.arguments().get("train", False):
        return None
    if isinstance(source, fx.Node) and source.meta["val"].device != value.device:
        return None
    return x[0]


# --- parts -----------------------------------------------------------------------------------


@rule("slice.Tensor")
def _slice(imp: Importer, node: fx.Node) -> Result:
    x, result, args = imp.tensor(node.args[0]), imp.result_type(), imp.arguments()
    start = 0 if args["start"] is None else imp.number(args["start"])
    step = args["step"]
    if x is None or result is None or not isinstance(step, int) or start is None:
        return None
    dim = args["dim"] % x[1].rank
    if x[1].shape == result.shape:
        return x[0]
    count = result.shape[dim]
    start = _from_start(start, x[1].shape[dim], count)
    if start is None:
        return None
    stop = start + (count - 1) * step + 1 if step > 1 else start + count
    op = Slice(dim, start, as_dim(stop) if count != 0 else start, step)
    return imp.add(op, [x[0]])


def _from_start(index: Any, size: Dim, count: Dim) -> Dim | None:
    """A start as torch clamps it to 0..size, or None where only the shapes decide that.

    Where torch knows the count of a slice from the end, it has made sure that there are as many.
    """
    if isinstance(index, sympy.Expr):
        return as_dim(index) if index.is_nonnegative else None
    if isinstance(size, int):
        return min(index, size) if index >= 0 else max(0, index + size)
    if index >= 0:
        return int(index)
    return as_dim(size + index) if isinstance(count, int) else None


@rule("select.int")
def _select(imp: Importer, node: fx.Node) -> Result:
    x, result, args = imp.tensor(node.args[0]), imp.result_type(), imp.arguments()
    index = imp.number(args["index"])
    if x is None or result is None or index is None:
        return None
    dim = args["dim"] % x[1].rank
    if isinstance(index, sympy.Expr) and not index.is_nonnegative:
        return None
    if isinstance(index, int) and index < 0:
        index = as_dim(index + x[1].shape[dim])
    return reshaped(imp, sliced(imp, x, dim, index, index + 1), result.shape)[0]


@rule("narrow.default")
def _narrow(imp: Importer, node: fx.Node) -> Result:
    x, args = imp.tensor(node.args[0]), imp.arguments()
    start, length = imp.number(args["start"]), imp.number(args["length"])
    if x is None or not isinstance(start, int) or length is None or start < 0:
        return None
    return sliced(imp, x, args["dim"] % x[1].rank, start, as_dim(start + length))[0]


@rule("split.Tensor", "split_with_sizes.default", "chunk.default", "split.sizes")
def _split(imp: Importer, node: fx.Node) -> Result:
    parts = _parts(imp, node)
    return None if parts is None else tuple(part[0] for part in parts)


@rule("unbind.int")
def _unbind(imp: Importer, node: fx.Node) -> Result:
    x, size = imp.tensor(node.args[0]), imp.arguments().get("dim", 0)
    if x is None or not isinstance(x[1].shape[size % x[1].rank], int):
        return None
    dim = size % x[1].rank
    shape = x[1].shape[:dim] + x[1].shape[dim + 1 :]
    places = range(int(x[1].shape[dim]))
    return tuple(reshaped(imp, sliced(imp, x, dim, i, i + 1), shape)[0] for i in places)


def _parts(imp: Importer, node: fx.Node) -> list[Named] | None:
    x, parts = imp.tensor(node.args[0]), node.meta.get("val")
    if x is None or not isinstance(parts, (list, tuple)):
        return None
    dim = imp.arguments().get("dim", 0) % x[1].rank
    stops: list[Dim] = [0]
    for part in parts:
        size = imp.number(part.shape[dim])
        if size is None:
            return None
        stops.append(as_dim(stops[-1] + size))
    return [sliced(imp, x, dim, a, b) for a, b in pairwise(stops)]


@rule("glu.default")
def _glu(imp: Importer, node: fx.Node) -> Result:
    x = imp.tensor(node.args[0])
    if x is None:
        return None
    dim = imp.arguments()["dim"] % x[1].rank
    size = x[1].shape[dim]
    if not isinstance(size, int):
        return None
    left, right = sliced(imp, x, dim, 0, size // 2), sliced(imp, x, dim, size // 2, size)
    return pointwise(imp, "mul(x0, sigmoid(x1))", [left[0], right[0]])


@rule("roll.default")
def _roll(imp: Importer, node: fx.Node) -> Result:
    x, args = imp.tensor(node.args[0]), imp.arguments()
    shifts = tuple(imp.number(s) for s in args["shifts"])
    if x is None or None in shifts:
        return None
    if not args["dims"]:
        flat = reshaped(imp, x, (x[1].numel,))
        rolled = typed(imp, imp.add(Roll(shifts, (0,)), [flat[0]]))
        return reshaped(imp, rolled, x[1].shape)[0]
    dims = tuple(d % x[1].rank for d in args["dims"])
    if len(set(dims)) != len(dims):
        return None
    return x[0] if all(s == 0 for s in shifts) else imp.add(Roll(shifts, dims), [x[0]])


@rule("flip.default")
def _flip(imp: Importer, node: fx.Node) -> Result:
    x = imp.tensor(node.args[0])
    if x is None:
        return None
    return imp.add(Flip(tuple(d % x[1].rank for d in imp.arguments()["dims"])), [x[0]])


# --- joins -----------------------------------------------------------------------------------


@rule("cat.default", "concat.default", "concatenate.default")
def _cat(imp: Importer, node: fx.Node) -> Result:
    result, args = imp.result_type(), imp.arguments()
    tensors = [imp.tensor(arg) for arg in args["tensors"]]
    known = [t for t in tensors if t is not None and t[1].shape != (0,)]  # as torch does
    if result is None or None in tensors or not known:
        return None
    dim = args.get("dim", 0) % len(result.shape)
    if len(known) == 1 and known[0][1].logical == result:
        return known[0][0]
    return _joined(imp, known, dim, result)


@rule("stack.default")
def _stack(imp: Importer, node: fx.Node) -> Result:
    result, args = imp.result_type(), imp.arguments()
    tensors = [imp.tensor(arg) for arg in args["tensors"]]
    if result is None or None in tensors:
        return None
    dim = args["dim"] % len(result.shape)
    shape = (*result.shape[:dim], 1, *result.shape[dim + 1 :])
    return _joined(imp, [reshaped(imp, t, shape) for t in tensors if t is not None], dim, result)


def _joined(imp: Importer, tensors: list[Named], dim: int, result: TensorType) -> Result:
    frames = {t[1].shape[:dim] + t[1].shape[dim + 1 :] for t in tensors}
    if len(frames) != 1 or {t[1].dtype for t in tensors} != {result.dtype}:
        return None
    return imp.add(Cat(dim), [t[0] for t in tensors])
