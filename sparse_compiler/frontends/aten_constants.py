"""ATen operators that make tensors from nothing -> our ops: sequences, constants, triangles."""

from __future__ import annotations

from typing import Any

import sympy
from torch import fx

from ..ops.iota import Full, Iota
from ..ops.scalar import CASTS
from .aten_shape import reshaped, typed
from .importer import Importer, Result
from .rules import FLOATS, at_home, overload, pointwise, rule


@rule("arange.default", "arange.start", "arange.start_step")
def _arange(imp: Importer, node: fx.Node) -> Result:
    result, args = imp.result_type(), imp.arguments()
    start, step = imp.number(args.get("start", 0)), imp.number(args.get("step", 1))
    if result is None or not at_home(imp, node) or result.dtype not in CASTS:
        return None
    if isinstance(start, sympy.Expr) and not start.is_integer:
        return None
    if not isinstance(step, (int, float)) or start is None:
        return None
    if result.dtype not in FLOATS and (isinstance(start, float) or isinstance(step, float)):
        return None
    return imp.add(Iota(result.shape[0], start, step, result.dtype), [])


_ONES = ("ones", "ones_like", "new_ones")
_ZEROS = ("zeros", "zeros_like", "new_zeros", "empty", "empty_like", "new_empty")  # or anything


@rule(
    "full.default",
    "full_like.default",
    "new_full.default",
    "scalar_tensor.default",
    "fill.Scalar",
    "empty.memory_format",
    *(f"{name}.default" for name in (*_ONES, *_ZEROS) if name != "empty"),
)
def _full(imp: Importer, node: fx.Node) -> Result:
    result, args, name = imp.result_type(), imp.arguments(), overload(node)
    if result is None or not at_home(imp, node) or result.dtype not in CASTS:
        return None
    given = {**dict.fromkeys(_ONES, 1), **dict.fromkeys(_ZEROS, 0)}.get(name)
    if given is None:
        given = args.get("fill_value", args.get("value", args.get("s")))
    value = imp.number(given)
    if isinstance(value, sympy.Expr) and not value.is_integer:
        return None
    if value is None:
        return None
    if not isinstance(value, sympy.Expr) and result.dtype in FLOATS:
        value = float(value)
    return imp.add(Full(value, result.shape, result.dtype), [])


@rule("tril.default", "triu.default")
def _triangle(imp: Importer, node: fx.Node) -> Result:
    """where(column - row <= diagonal, x, 0), or >= for the upper triangle."""
    x, args = imp.tensor(node.args[0]), imp.arguments()
    diagonal = imp.number(args["diagonal"])
    if x is None or not isinstance(diagonal, int) or x[1].rank < 2 or not at_home(imp, node):
        return None
    height, width = x[1].shape[-2:]
    rows = reshaped(imp, typed(imp, imp.add(Iota(height), [])), (height, 1))
    columns = typed(imp, imp.add(Iota(width), []))
    test = "le" if overload(node) == "tril" else "ge"
    inside = f"{test}(sub(x1, x2), {float(diagonal)!r})"
    operands: list[Any] = [x[0], columns[0], rows[0]]
    return pointwise(imp, f"where({inside}, x0, 0.0)", operands, plain=(1, 2))
