"""Relax's reductions and look-ups: sums, extremes, rows of tables, advanced indexing."""

from __future__ import annotations

from typing import Any

from ..ops.embedding import Embedding
from ..ops.index import MAX_INDICES, Gather, Index
from ..ops.pointwise import Pointwise
from ..ops.reduce import Reduce
from ..ops.scalar import CASTS
from .aten_shape import reshaped, sliced
from .relax_importer import Number, RelaxImporter, Sizes, Value
from .relax_rules import FLOATS, operator, rule
from .relax_shape import axes_of

_REDUCTIONS = {"sum": "sum", "mean": "mean", "max": "amax", "min": "amin", "prod": "prod"}
_WHOLE = ("i64", "i32")


@rule(*_REDUCTIONS)
def _reduce(imp: RelaxImporter, call: Any) -> Value | None:
    x, result, name = imp.tensor(call.args[0]), imp.result_type(), operator(call)
    if x is None or result is None or x[1].rank == 0 or x[1].dtype not in CASTS:
        return None
    dims, keepdim = axes_of(call.attrs.axis, x[1].rank), bool(call.attrs.keepdims)
    if name in ("max", "min"):
        return imp.add(Reduce(_REDUCTIONS[name], dims, keepdim), [x[0]])
    if result.dtype not in FLOATS and (name == "mean" or result.dtype != "i64"):
        return None
    return imp.add(Reduce(_REDUCTIONS[name], dims, keepdim), [x[0]])


@rule("variance", "std")
def _variance(imp: RelaxImporter, call: Any) -> Value | None:
    """mean((x - mean(x))^2), and its root."""
    x = imp.tensor(call.args[0])
    if x is None or x[1].dtype not in FLOATS:
        return None
    dims = axes_of(call.attrs.axis, x[1].rank)
    mean = imp.add(Reduce("mean", dims, True), [x[0]])
    square = imp.add(Pointwise("mul(sub(x0, x1), sub(x0, x1))"), [x[0], mean])
    found = imp.add(Reduce("mean", dims, bool(call.attrs.keepdims)), [square])
    if operator(call) == "variance":
        return found
    return imp.add(Pointwise("sqrt(x0)"), [found])


@rule("argmax", "argmin")
def _place(imp: RelaxImporter, call: Any) -> Value | None:
    x, result = imp.tensor(call.args[0]), imp.result_type()
    if x is None or result is None or result.dtype != "i64" or call.attrs.axis is None:
        return None
    if x[1].dtype not in CASTS or x[1].dtype == "bool":
        return None
    dims = axes_of(call.attrs.axis, x[1].rank)
    return imp.add(Reduce(operator(call), dims, bool(call.attrs.keepdims)), [x[0]])


# --- look-ups ----------------------------------------------------------------------------------


@rule("take")
def _take(imp: RelaxImporter, call: Any) -> Value | None:
    """Rows of a table, or elements along an axis; of a shape, the size at a known place."""
    whole, place = imp.value(call.args[0]), imp.number(call.args[1])
    if isinstance(whole, Sizes) and isinstance(place, int):
        inside = -len(whole.dims) <= place < len(whole.dims)
        return Number(whole.dims[place], "i64") if inside else None
    x, result = imp.tensor(call.args[0]), imp.result_type()
    if x is None or result is None:
        return None
    axis = call.attrs.axis
    if axis is None and x[1].rank != 1:
        return None
    dim = 0 if axis is None else int(axis) % x[1].rank
    size = x[1].shape[dim]
    if isinstance(place, int) and isinstance(size, int) and -size <= place < size:
        begin = place % size
        return reshaped(imp, sliced(imp, x, dim, begin, begin + 1), result.shape)[0]
    ids = imp.tensor(call.args[1])
    if ids is None or ids[1].dtype not in _WHOLE:
        return None
    if dim == 0 and x[1].rank == 2 and x[0] in imp.weight_time:
        return imp.add(Embedding(), [x[0], ids[0]])
    return imp.add(Index(dim), [x[0], ids[0]])


@rule("gather_elements")
def _gather_elements(imp: RelaxImporter, call: Any) -> Value | None:
    x, ids = (imp.tensor(arg) for arg in call.args)
    if x is None or ids is None or ids[1].dtype not in _WHOLE or x[1].rank != ids[1].rank:
        return None
    return imp.add(Gather(int(call.attrs.axis) % x[1].rank), [x[0], ids[0]])


@rule("gather_nd")
def _gather_nd(imp: RelaxImporter, call: Any) -> Value | None:
    """The last dimension of the ids counts the dimensions of x that are picked in."""
    x, ids, result = imp.tensor(call.args[0]), imp.tensor(call.args[1]), imp.result_type()
    batch = int(call.attrs.batch_dims)
    if x is None or ids is None or result is None or batch or ids[1].dtype not in _WHOLE:
        return None
    count, last = ids[1].shape[-1], ids[1].rank - 1
    if not isinstance(count, int) or not 0 < count <= min(x[1].rank, MAX_INDICES):
        return None
    parts = [
        reshaped(imp, sliced(imp, ids, last, i, i + 1), ids[1].shape[:-1]) for i in range(count)
    ]
    return imp.add(Index(0), [x[0], *(part[0] for part in parts)])


@rule("index_tensor")
def _index_tensor(imp: RelaxImporter, call: Any) -> Value | None:
    x, indices = imp.tensor(call.args[0]), imp.tensors(call.args[1])
    if x is None or indices is None or not 0 < len(indices) <= min(x[1].rank, MAX_INDICES):
        return None
    if any(index[1].dtype not in _WHOLE for index in indices):
        return None
    return imp.add(Index(0), [x[0], *(index[0] for index in indices)])
