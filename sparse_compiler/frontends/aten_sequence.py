"""ATen operators of sequence models -> our ops: reductions, look-ups, products of activations."""

from __future__ import annotations

from itertools import chain
from typing import Any

from torch import fx

from ..ir.types import Dim, product
from ..ops.cat import Cat
from ..ops.embedding import Embedding
from ..ops.index import MAX_INDICES, Gather, Index
from ..ops.iota import Iota
from ..ops.matmul import Matmul
from ..ops.pointwise import Pointwise, broadcast
from ..ops.reduce import Reduce
from ..ops.scalar import CASTS
from ..ops.scan import Cumsum
from .aten_shape import Named, expanded, permuted, reshaped, sliced, typed
from .importer import Adds, Importer, Result
from .rules import FLOATS, overload, pointwise, rule

_WHOLE = ("i64", "i32")
_ORDERED = tuple(dtype for dtype in CASTS if dtype != "bool")  # whose largest has a place


def converted_to(imp: Importer, x: Named, dtype: str) -> Named | None:
    """`x` in another dtype; None where there is no such cast."""
    if x[1].dtype == dtype:
        return x
    if x[1].dtype not in CASTS or dtype not in CASTS:
        return None
    return typed(imp, imp.add(Pointwise(f"{dtype}(x0)"), [x[0]]))


def computed(imp: Importer, text: str, *operands: Named) -> Named:
    """An elementwise expression of values of one dtype."""
    return typed(imp, imp.add(Pointwise(text), [name for name, _ in operands]))


# --- reductions --------------------------------------------------------------------------------


def _dims(args: dict[str, Any], rank: int) -> tuple[int, ...]:
    """The dimensions that are reduced: all where none is named."""
    given = args.get("dim")
    given = [given] if isinstance(given, int) else given
    return tuple(sorted(d % rank for d in given)) if given else tuple(range(rank))


def _reduced(imp: Importer, fn: str, x: Named, args: dict[str, Any]) -> Named:
    """`args`: those of an ATen reduction, of which dim and keepdim count."""
    op = Reduce(fn, _dims(args, x[1].rank), bool(args.get("keepdim", False)))
    return typed(imp, imp.add(op, [x[0]]))


@rule("sum.default", "sum.dim_IntList", "mean.default", "mean.dim", "prod.default", "prod.dim_int")
def _sum(imp: Importer, node: fx.Node) -> Result:
    x, result, args = imp.tensor(node.args[0]), imp.result_type(), imp.arguments()
    if x is None or result is None or x[1].rank == 0:
        return None
    if args.get("dtype") is not None or result.dtype in FLOATS:
        x = converted_to(imp, x, result.dtype)
    if x is None or (result.dtype not in FLOATS and result.dtype != "i64"):
        return None
    return _reduced(imp, overload(node), x, args)[0]


@rule("amax.default", "amin.default", "any.default", "any.dim", "any.dims")
@rule("all.default", "all.dim", "all.dims")
def _extreme(imp: Importer, node: fx.Node) -> Result:
    x, result = imp.tensor(node.args[0]), imp.result_type()
    if x is None or result is None or x[1].rank == 0:
        return None
    name = overload(node)
    if x[1].dtype not in CASTS or (name in ("any", "all") and result.dtype != "bool"):
        return None
    return _reduced(imp, name, x, imp.arguments())[0]


@rule("max.default", "min.default")
def _extreme_of_all(imp: Importer, node: fx.Node) -> Result:
    x = imp.tensor(node.args[0])
    if x is None or x[1].rank == 0 or x[1].dtype not in CASTS:
        return None
    return _reduced(imp, f"a{overload(node)}", x, {})[0]


@rule("max.dim", "min.dim")
def _extreme_and_place(imp: Importer, node: fx.Node) -> Result:
    x, args, name = imp.tensor(node.args[0]), imp.arguments(), overload(node)
    if x is None or x[1].rank == 0 or x[1].dtype not in _ORDERED:
        return None
    return _reduced(imp, f"a{name}", x, args)[0], _reduced(imp, f"arg{name}", x, args)[0]


@rule("argmax.default", "argmin.default")
def _place(imp: Importer, node: fx.Node) -> Result:
    x, args = imp.tensor(node.args[0]), imp.arguments()
    if x is None or x[1].rank == 0 or x[1].dtype not in _ORDERED:
        return None
    if args.get("dim") is None:
        if args["keepdim"]:
            return None
        x = reshaped(imp, x, (x[1].numel,))
    return _reduced(imp, overload(node), x, args)[0]


@rule("var.correction", "std.correction", "var.dim", "std.dim", "var.default", "std.default")
@rule("var_mean.correction", "var_mean.dim", "var_mean.default")
def _variance(imp: Importer, node: fx.Node) -> Result:
    """mean((x - mean(x))^2) n / (n - correction)."""
    x, args, name = imp.tensor(node.args[0]), imp.arguments(), overload(node)
    if x is None or x[1].rank == 0 or x[1].dtype not in FLOATS:
        return None
    correction = imp.number(args.get("correction", int(args.get("unbiased", True))))
    correction = 1 if args.get("correction", 1) is None else correction
    dims = _dims(args, x[1].rank)
    count = product(x[1].shape[d] for d in dims)
    if not isinstance(correction, (int, float)) or (correction and not isinstance(count, int)):
        return None
    if correction and int(count) <= correction:
        return None
    mean = typed(imp, imp.add(Reduce("mean", dims, True), [x[0]]))
    square = computed(imp, "mul(sub(x0, x1), sub(x0, x1))", x, mean)
    found = _reduced(imp, "mean", square, args)
    if correction:
        found = computed(imp, f"mul(x0, {int(count) / (int(count) - correction)!r})", found)
    if name == "std":
        found = computed(imp, "sqrt(x0)", found)
    if name == "var_mean":
        return found[0], reshaped(imp, mean, found[1].shape)[0]
    return found[0]


@rule("linalg_vector_norm.default", "norm.ScalarOpt_dim", "norm.Scalar")
def _norm(imp: Importer, node: fx.Node) -> Result:
    """The root of the sum of squares; the sum, or the largest, of magnitudes."""
    x, result, args = imp.tensor(node.args[0]), imp.result_type(), imp.arguments()
    order = imp.number(args.get("ord", args.get("p")))
    if x is None or result is None or x[1].rank == 0 or x[1].dtype != result.dtype:
        return None
    if x[1].dtype not in FLOATS:
        return None
    if order in (None, 2):
        total = _reduced(imp, "sum", computed(imp, "mul(x0, x0)", x), args)
        return computed(imp, "sqrt(x0)", total)[0]
    fn = {1: "sum", float("inf"): "amax", float("-inf"): "amin"}.get(order)
    return None if fn is None else _reduced(imp, fn, computed(imp, "abs(x0)", x), args)[0]


@rule("logsumexp.default")
def _logsumexp(imp: Importer, node: fx.Node) -> Result:
    """log(sum(exp(x - m))) + m for the largest element m, or for 0 where that is infinite."""
    x, args = imp.tensor(node.args[0]), imp.arguments()
    if x is None or x[1].rank == 0 or x[1].dtype not in FLOATS:
        return None
    top = _reduced(imp, "amax", x, {**args, "keepdim": True})
    shift = computed(imp, "where(isinf(x0), 0.0, x0)", top)
    total = _reduced(imp, "sum", computed(imp, "exp(sub(x0, x1))", x, shift), args)
    return computed(imp, "add(log(x0), x1)", total, reshaped(imp, shift, total[1].shape))[0]


@rule("cumsum.default")
def _cumsum(imp: Importer, node: fx.Node) -> Result:
    x, result, args = imp.tensor(node.args[0]), imp.result_type(), imp.arguments()
    if x is None or result is None or x[1].rank == 0:
        return None
    if args.get("dtype") is not None:
        x = converted_to(imp, x, result.dtype)
    if x is None or x[1].dtype not in CASTS or result.dtype not in (*FLOATS, "i64"):
        return None
    return imp.add(Cumsum(args["dim"] % x[1].rank), [x[0]])


@rule("diff.default")
def _diff(imp: Importer, node: fx.Node) -> Result:
    x, args = imp.tensor(node.args[0]), imp.arguments()
    ends = [imp.tensor(args[k]) for k in ("prepend", "append") if args[k] is not None]
    if x is None or args["n"] != 1 or None in ends or x[1].dtype not in (*FLOATS, *_WHOLE):
        return None
    dim = args["dim"] % x[1].rank
    names = [imp.tensor(args["prepend"]), x, imp.tensor(args["append"])]
    known = [part for part in names if part is not None]
    if len(known) > 1:
        x = typed(imp, imp.add(Cat(dim), [name for name, _ in known]))
    size = x[1].shape[dim]
    later, earlier = sliced(imp, x, dim, 1, size), sliced(imp, x, dim, 0, size - 1)
    return computed(imp, "sub(x0, x1)", later, earlier)[0]


# --- look-ups ----------------------------------------------------------------------------------


@rule("embedding.default")
def _embedding(imp: Importer, node: fx.Node) -> Result:
    table, ids = (imp.tensor(arg) for arg in node.args[:2])
    if table is None or ids is None or table[1].rank != 2 or ids[1].dtype not in _WHOLE:
        return None
    return imp.add(Embedding(), [table[0], ids[0]])


@rule("index.Tensor", "_unsafe_index.Tensor")
def _index(imp: Importer, node: fx.Node) -> Result:
    """Indices with gaps between them put their shape first, as torch does."""
    x, result, args = imp.tensor(node.args[0]), imp.result_type(), imp.arguments()
    if x is None or result is None:
        return None
    places = [d for d, index in enumerate(args["indices"]) if index is not None]
    tensors = [imp.tensor(args["indices"][d]) for d in places]
    known = [t for t in tensors if t is not None and t[1].dtype in _WHOLE]
    if not known or len(known) < len(tensors) or len(known) > MAX_INDICES:
        return None
    first = places[0]
    if places != list(range(first, first + len(places))):
        rest = [d for d in range(x[1].rank) if d not in places]
        x, first = permuted(imp, x, [*places, *rest]), 0
    return imp.add(Index(first), [x[0], *(name for name, _ in known)])


@rule("index_select.default")
def _index_select(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    x, index = imp.tensor(args["self"]), imp.tensor(args["index"])
    if x is None or index is None or x[1].rank == 0 or index[1].dtype not in _WHOLE:
        return None
    index = reshaped(imp, index, (index[1].numel,))
    return imp.add(Index(args["dim"] % x[1].rank), [x[0], index[0]])


@rule("gather.default", "take_along_dim.default")
def _gather(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    x, index = imp.tensor(args["self"]), imp.tensor(args.get("index", args.get("indices")))
    if x is None or index is None or index[1].dtype not in _WHOLE or args["dim"] is None:
        return None
    if x[1].rank != index[1].rank or x[1].rank == 0:
        return None
    dim = args["dim"] % x[1].rank
    if overload(node) == "take_along_dim":
        ones = [(*t[1].shape[:dim], 1, *t[1].shape[dim + 1 :]) for t in (x, index)]
        common = broadcast(*ones)
        x, index = (
            expanded(imp, t, (*common[:dim], t[1].shape[dim], *common[dim + 1 :]))
            for t in (x, index)
        )
    return imp.add(Gather(dim), [x[0], index[0]])


@rule("one_hot.default")
def _one_hot(imp: Importer, node: fx.Node) -> Result:
    ids, classes = imp.tensor(node.args[0]), imp.number(imp.arguments()["num_classes"])
    if ids is None or not isinstance(classes, int) or classes < 1 or ids[1].dtype != "i64":
        return None
    column = reshaped(imp, ids, (*ids[1].shape, 1))
    places = typed(imp, imp.add(Iota(classes), []))
    return imp.add(Pointwise("eq(x0, x1)", "i64"), [column[0], places[0]])


# --- products ----------------------------------------------------------------------------------


def matrix_product(imp: Adds, a: Named, b: Named) -> Named | None:
    """a b by torch's rule for matmul: a vector is a row on the left and a column on the right."""
    if a[1].dtype != b[1].dtype or a[1].dtype not in FLOATS or not (a[1].rank and b[1].rank):
        return None
    left = reshaped(imp, a, (1, *a[1].shape)) if a[1].rank == 1 else a
    right = reshaped(imp, b, (*b[1].shape, 1)) if b[1].rank == 1 else b
    if left[1].shape[-1] != right[1].shape[-2]:
        return None
    found = typed(imp, imp.add(Matmul(), [left[0], right[0]]))
    shape = list(found[1].shape)
    if b[1].rank == 1:
        del shape[-1]
    if a[1].rank == 1:
        del shape[len(shape) - (1 if b[1].rank == 1 else 2)]
    return reshaped(imp, found, tuple(shape))


@rule("mv.default", "dot.default")
def _vector_product(imp: Importer, node: fx.Node) -> Result:
    a, b = (imp.tensor(arg) for arg in node.args[:2])
    product = None if a is None or b is None else matrix_product(imp, a, b)
    return None if product is None else product[0]


@rule("outer.default", "ger.default")
def _outer(imp: Importer, node: fx.Node) -> Result:
    a, b = (imp.tensor(arg) for arg in node.args[:2])
    if a is None or b is None:
        return None
    column = reshaped(imp, a, (*a[1].shape, 1))
    return pointwise(imp, "mul(x0, x1)", [column[0], b[0]])


@rule("einsum.default")
def _einsum(imp: Importer, node: fx.Node) -> Result:
    """Two operands: their common free letters count products, and what is summed is in both."""
    equation, operands = node.args[0], node.args[1]
    if not isinstance(equation, str) or not isinstance(operands, (list, tuple)):
        return None
    tensors = [imp.tensor(arg) for arg in operands]
    text = equation.replace(" ", "")
    if len(tensors) != 2 or "." in text or "->" not in text or "," not in text:
        return None
    inputs, out = text.split("->")
    left, right = inputs.split(",")
    a, b = tensors
    if a is None or b is None or any(len(set(w)) != len(w) for w in (left, right, out)):
        return None
    if set(out) - set(left) - set(right) or (set(left) ^ set(right)) - set(out):
        return None
    return _contract(imp, (a, left), (b, right), out)


def _contract(imp: Importer, a: tuple[Named, str], b: tuple[Named, str], out: str) -> Result:
    (x, left), (y, right) = a, b
    sizes: dict[str, Dim] = dict(zip(left, x[1].shape, strict=True))
    if any(sizes.setdefault(c, size) != size for c, size in zip(right, y[1].shape, strict=True)):
        return None
    batch = [c for c in out if c in left and c in right]
    rows = [c for c in out if c in left and c not in right]
    columns = [c for c in out if c in right and c not in left]
    summed = [c for c in left if c in right and c not in out]

    def matrices(tensor: Named, letters: str, *groups: list[str]) -> Named:
        moved = permuted(imp, tensor, [letters.index(c) for c in (*batch, *chain(*groups))])
        flat = tuple(product(sizes[c] for c in group) for group in groups)
        return reshaped(imp, moved, (*(sizes[c] for c in batch), *flat))

    found = matrix_product(
        imp, matrices(x, left, rows, summed), matrices(y, right, summed, columns)
    )
    if found is None:
        return None
    order = [*batch, *rows, *columns]
    full = reshaped(imp, found, tuple(sizes[c] for c in order))
    return permuted(imp, full, [order.index(c) for c in out])[0]
