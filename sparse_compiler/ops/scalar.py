"""The scalar functions that elementwise ops and epilogues are made of, as one table.

A row gives the number of arguments, the torch reference and the dtype of the result. A target gives
its own code per name. References follow torch: NaN propagates through relu, clamp and maximum.
Arguments of different dtypes are promoted as torch promotes tensors; `f32(x)` and the like cast. A
constant is whole where it stands beside integers only and has no fraction, and a float elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import GraphSyntaxError
from ..ir.expr import Arg, Call, Const, Expr, args_of, fold
from ..ir.types import ELEMENTS, HALVES, dtype_name, torch_dtype


@dataclass(frozen=True)
class ScalarFunction:
    """arity: number of arguments, constants included; reference: on tensors and floats.

    result: "same": the common dtype of the arguments; "float": likewise, of integers f32;
    "integer": likewise, floats are refused; else a dtype. first: where the arguments that share a
    dtype begin.
    """

    arity: int
    reference: Callable[..., Any]
    result: str = "same"
    first: int = 0


def _float(arity: int, reference: Callable[..., Any]) -> ScalarFunction:
    return ScalarFunction(arity, reference, "float")


def _test(arity: int, reference: Callable[..., Any]) -> ScalarFunction:
    return ScalarFunction(arity, reference, "bool")


def _integer(arity: int, reference: Callable[..., Any]) -> ScalarFunction:
    return ScalarFunction(arity, reference, "integer")


def _cast(dtype: str) -> ScalarFunction:
    return ScalarFunction(1, lambda a: _tensor(a).to(torch_dtype(dtype)), dtype)


CASTS = ("f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "bool")

SCALAR_FUNCTIONS: dict[str, ScalarFunction] = {
    # arithmetic
    "add": ScalarFunction(2, lambda a, b: a + b),
    "sub": ScalarFunction(2, lambda a, b: a - b),
    "mul": ScalarFunction(2, lambda a, b: a * b),
    "div": _float(2, lambda a, b: a / b),
    "floor_div": ScalarFunction(2, lambda a, b: torch.floor_divide(*_both(a, b))),
    "remainder": ScalarFunction(2, lambda a, b: torch.remainder(a, b)),  # the sign of b
    "fmod": ScalarFunction(2, lambda a, b: torch.fmod(*_both(a, b))),  # the sign of a
    "maximum": ScalarFunction(2, lambda a, b: torch.maximum(*_both(a, b))),
    "minimum": ScalarFunction(2, lambda a, b: torch.minimum(*_both(a, b))),
    "pow": ScalarFunction(2, lambda a, b: torch.pow(a, b)),
    "neg": ScalarFunction(1, lambda a: -a),
    "abs": ScalarFunction(1, lambda a: torch.abs(a)),
    "sign": ScalarFunction(1, lambda a: torch.sign(a)),
    "clamp": ScalarFunction(3, lambda a, low, high: torch.clamp(a, low, high)),
    "floor": ScalarFunction(1, lambda a: torch.floor(a)),
    "ceil": ScalarFunction(1, lambda a: torch.ceil(a)),
    "round": ScalarFunction(1, lambda a: torch.round(a)),  # halves to even
    "trunc": ScalarFunction(1, lambda a: torch.trunc(a)),
    # activations
    "relu": ScalarFunction(1, lambda a: F.relu(a)),
    "gelu": _float(1, lambda a: F.gelu(a)),
    "gelu_tanh": _float(1, lambda a: F.gelu(a, approximate="tanh")),
    "silu": _float(1, lambda a: F.silu(a)),
    "sigmoid": _float(1, lambda a: torch.sigmoid(a)),
    "tanh": _float(1, lambda a: torch.tanh(a)),
    "leaky_relu": _float(2, lambda a, slope: F.leaky_relu(a, slope)),
    "elu": _float(2, lambda a, alpha: F.elu(a, alpha)),
    "hardswish": _float(1, lambda a: F.hardswish(a)),
    "hardsigmoid": _float(1, lambda a: F.hardsigmoid(a)),
    "mish": _float(1, lambda a: F.mish(a)),
    "softplus": _float(1, lambda a: F.softplus(a)),
    # transcendental
    "exp": _float(1, lambda a: torch.exp(a)),
    "exp2": _float(1, lambda a: torch.exp2(a)),
    "expm1": _float(1, lambda a: torch.expm1(a)),
    "log": _float(1, lambda a: torch.log(a)),
    "log2": _float(1, lambda a: torch.log2(a)),
    "log1p": _float(1, lambda a: torch.log1p(a)),
    "erf": _float(1, lambda a: torch.erf(a)),
    "sin": _float(1, lambda a: torch.sin(a)),
    "cos": _float(1, lambda a: torch.cos(a)),
    "sqrt": _float(1, lambda a: torch.sqrt(a)),
    "rsqrt": _float(1, lambda a: torch.rsqrt(a)),
    "reciprocal": _float(1, lambda a: torch.reciprocal(a)),
    # tests, and what is made of them
    "eq": _test(2, lambda a, b: a == b),
    "ne": _test(2, lambda a, b: a != b),
    "lt": _test(2, lambda a, b: a < b),
    "le": _test(2, lambda a, b: a <= b),
    "gt": _test(2, lambda a, b: a > b),
    "ge": _test(2, lambda a, b: a >= b),
    "isnan": _test(1, lambda a: torch.isnan(a)),
    "isinf": _test(1, lambda a: torch.isinf(a)),
    "logical_and": _test(2, lambda a, b: torch.logical_and(*_both(a, b))),
    "logical_or": _test(2, lambda a, b: torch.logical_or(*_both(a, b))),
    "logical_xor": _test(2, lambda a, b: torch.logical_xor(*_both(a, b))),
    "logical_not": _test(1, lambda a: torch.logical_not(a)),
    "where": ScalarFunction(3, lambda c, a, b: torch.where(c != 0, a, b), "same", 1),
    # bits of integers; of bools: logic
    "bitwise_and": _integer(2, lambda a, b: torch.bitwise_and(a, b)),
    "bitwise_or": _integer(2, lambda a, b: torch.bitwise_or(a, b)),
    "bitwise_xor": _integer(2, lambda a, b: torch.bitwise_xor(a, b)),
    "bitwise_not": _integer(1, lambda a: torch.bitwise_not(a)),
    "shift_left": _integer(2, lambda a, b: torch.bitwise_left_shift(a, b)),
    "shift_right": _integer(2, lambda a, b: torch.bitwise_right_shift(a, b)),
    **{dtype: _cast(dtype) for dtype in CASTS},
}


def _tensor(a: Any) -> Any:
    return a if isinstance(a, torch.Tensor) else torch.tensor(a)


def _both(a: Any, b: Any) -> tuple[Any, Any]:
    like = a if isinstance(a, torch.Tensor) else b
    return torch.as_tensor(a, dtype=_dtype(a, like)), torch.as_tensor(b, dtype=_dtype(b, like))


def _dtype(value: Any, like: Any) -> torch.dtype:
    """Its own of a tensor; of a number the one it has beside `like`."""
    dtype: torch.dtype = (value if isinstance(value, torch.Tensor) else like).dtype
    whole = dtype.is_floating_point or isinstance(value, (torch.Tensor, int))
    return dtype if whole else torch.float32


def check(expr: Expr, inputs: int) -> None:
    """Raises `GraphSyntaxError` on an unknown function, a wrong number of arguments or input."""

    def call(fn: str, args: list[Any]) -> None:
        if fn not in SCALAR_FUNCTIONS:
            raise GraphSyntaxError(f"no scalar function is named {fn!r}")
        if SCALAR_FUNCTIONS[fn].arity != len(args):
            raise GraphSyntaxError(f"{fn} takes {SCALAR_FUNCTIONS[fn].arity} arguments")

    fold(expr, call, lambda leaf: None)
    beyond = [i for i in sorted(args_of(expr)) if i >= inputs]
    if beyond:
        raise GraphSyntaxError(f"{expr} reads x{beyond[0]} of {inputs} inputs")


def evaluate(expr: Expr, inputs: tuple[Any, ...]) -> Any:
    """The expression on torch tensors, broadcasting as torch does."""

    def leaf(item: Arg | Const) -> Any:
        return inputs[item.index] if isinstance(item, Arg) else item.value

    return fold(expr, _apply, leaf)


def _apply(fn: str, args: list[Any]) -> Any:
    row = SCALAR_FUNCTIONS[fn]
    alike = [a for a in args[row.first :] if isinstance(a, torch.Tensor)]
    if alike and not any(a.is_floating_point() for a in alike):
        args = [int(a) if isinstance(a, float) and a.is_integer() else a for a in args]
    return row.reference(*args)


def dtype_of(expr: Expr, inputs: tuple[str, ...]) -> str:
    """The dtype of the result from those of the inputs. A constant alone is f32.

    Raises `GraphSyntaxError` on bits of a float.
    """
    return dtypes_in(expr, inputs)[expr]


def dtypes_in(expr: Expr, inputs: tuple[str, ...]) -> dict[Expr, str]:
    """The dtype of each part of an expression; for targets whose language promotes otherwise.

    A constant has the dtype that it would take alone, f32: beside others it takes theirs.
    """
    found: dict[Expr, str] = {}

    def visit(part: Expr) -> str:
        if part not in found:
            found[part] = compute(part)
        return found[part]

    def compute(part: Expr) -> str:
        match part:
            case Arg(index=index):
                return inputs[index]
            case Call(fn=fn, args=args):
                for arg in args:
                    visit(arg)
                row = SCALAR_FUNCTIONS[fn]
                common = common_dtype(args[row.first :], found)
                return _result(fn, row.result, common)
        return "f32"

    visit(expr)
    return found


def common_dtype(args: tuple[Expr, ...], dtypes: dict[Expr, str]) -> str:
    """The dtype in which a function computes on `args`. dtypes: of the parts of each."""
    typed = [torch_dtype(dtypes[a]) for a in args if not isinstance(a, Const)]
    numbers = [a.value for a in args if isinstance(a, Const)]
    if not typed:
        return "f32"
    common = typed[0]
    for other in typed[1:]:
        common = torch.promote_types(common, other)
    if numbers and not common.is_floating_point:
        if not all(number.is_integer() for number in numbers):
            return "f32"
        common = torch.int64 if common == torch.bool else common
    return dtype_name(common)


def _result(fn: str, result: str, common: str) -> str:
    floating = torch_dtype(common).is_floating_point
    match result:
        case "same":
            return common
        case "float":
            return common if floating else "f32"
        case "integer" if floating:
            raise GraphSyntaxError(f"{fn} works on bits of integers, not of {common}")
        case "integer":
            return common
    return result


def converts(part: Expr, inside: dict[Expr, str]) -> bool:
    """True for a part that is an input, or only converts one to or from half precision.

    inside: the dtype of each part, as `dtypes_in` gives it.
    """
    if not isinstance(part, Call):
        return inside[part] in HALVES
    (first, *_) = part.args
    halves = {inside[part], inside[first]} & HALVES
    return part.fn in CASTS and bool(halves) and inside[first] in ELEMENTS | HALVES


def widened(expr: Expr) -> Expr:
    """The expression with every conversion to half precision one to fp32."""
    if not isinstance(expr, Call):
        return expr
    fn = "f32" if expr.fn in HALVES else expr.fn
    return Call(fn, tuple(widened(arg) for arg in expr.args))
