"""Relax's elementwise operators, as expressions of `pointwise`."""

from __future__ import annotations

from typing import Any

from ..ops.scalar import CASTS
from .relax_importer import Number, RelaxImporter, Value
from .relax_rules import FLOATS, operator, pointwise, rule

_UNARY = {
    "nn.relu": "relu(x0)",
    "nn.gelu": "gelu(x0)",
    "nn.gelu_tanh": "gelu_tanh(x0)",
    "nn.silu": "silu(x0)",
    "nn.selu": "mul(elu(x0, 1.6732632423543772), 1.0507009873554805)",
    "sigmoid": "sigmoid(x0)",
    "tanh": "tanh(x0)",
    "exp": "exp(x0)",
    "log": "log(x0)",
    "erf": "erf(x0)",
    "sin": "sin(x0)",
    "cos": "cos(x0)",
    "sqrt": "sqrt(x0)",
    "rsqrt": "rsqrt(x0)",
    "square": "mul(x0, x0)",
    "negative": "neg(x0)",
    "abs": "abs(x0)",
    "sign": "sign(x0)",
    "floor": "floor(x0)",
    "ceil": "ceil(x0)",
    "round": "round(x0)",
    "trunc": "trunc(x0)",
    "bitwise_not": "bitwise_not(x0)",
    "logical_not": "logical_not(x0)",
    "isnan": "isnan(x0)",
    "isinf": "isinf(x0)",
    "isfinite": "logical_not(logical_or(isnan(x0), isinf(x0)))",
}
_BINARY = {
    "add": "add(x0, x1)",
    "subtract": "sub(x0, x1)",
    "multiply": "mul(x0, x1)",
    "maximum": "maximum(x0, x1)",
    "minimum": "minimum(x0, x1)",
    "power": "pow(x0, x1)",
    "floor_divide": "floor_div(x0, x1)",
    "floor_mod": "remainder(x0, x1)",
    "mod": "fmod(x0, x1)",
    "equal": "eq(x0, x1)",
    "not_equal": "ne(x0, x1)",
    "less": "lt(x0, x1)",
    "less_equal": "le(x0, x1)",
    "greater": "gt(x0, x1)",
    "greater_equal": "ge(x0, x1)",
    "logical_and": "logical_and(x0, x1)",
    "logical_or": "logical_or(x0, x1)",
    "logical_xor": "logical_xor(x0, x1)",
    "bitwise_and": "bitwise_and(x0, x1)",
    "bitwise_or": "bitwise_or(x0, x1)",
    "bitwise_xor": "bitwise_xor(x0, x1)",
    "left_shift": "shift_left(x0, x1)",
    "right_shift": "shift_right(x0, x1)",
}


@rule(*_UNARY)
def _unary(imp: RelaxImporter, call: Any) -> Value | None:
    return pointwise(imp, _UNARY[operator(call)], [call.args[0]])


@rule(*_BINARY)
def _binary(imp: RelaxImporter, call: Any) -> Value | None:
    numbers = [imp.value(arg) for arg in call.args]
    if all(isinstance(n, Number) for n in numbers):
        found = _of_sizes(operator(call), *numbers)
        if found is not None:
            return found
    return pointwise(imp, _BINARY[operator(call)], call.args)


def _of_sizes(name: str, a: Any, b: Any) -> Number | None:
    """Arithmetic on sizes stays an expression."""
    functions = {"add": a.value + b.value, "subtract": a.value - b.value}
    functions["multiply"] = a.value * b.value
    whole = a.dtype == b.dtype == "i64" and not isinstance(a.value, bool)
    return Number(functions[name], "i64") if whole and name in functions else None


@rule("divide")
def _divide(imp: RelaxImporter, call: Any) -> Value | None:
    result = imp.result_type()
    if result is None or result.dtype not in FLOATS:  # of whole numbers TVM's rounds to zero
        return None
    return pointwise(imp, "div(x0, x1)", call.args)


@rule("log_add_exp")
def _log_add_exp(imp: RelaxImporter, call: Any) -> Value | None:
    greater = "maximum(x0, x1)"
    return pointwise(imp, f"add({greater}, log1p(exp(neg(abs(sub(x0, x1))))))", call.args)


@rule("where")
def _where(imp: RelaxImporter, call: Any) -> Value | None:
    return pointwise(imp, "where(x0, x1, x2)", call.args)


@rule("clip")
def _clip(imp: RelaxImporter, call: Any) -> Value | None:
    result, (low, high) = imp.result_type(), (imp.number(arg) for arg in call.args[1:])
    if result is None or result.dtype not in FLOATS:
        return None
    if not all(isinstance(n, (int, float)) for n in (low, high)):
        return None
    return pointwise(imp, f"clamp(x0, {float(low)!r}, {float(high)!r})", [call.args[0]])


@rule("nn.leakyrelu")
def _leaky_relu(imp: RelaxImporter, call: Any) -> Value | None:
    return pointwise(imp, f"leaky_relu(x0, {float(call.attrs.alpha)!r})", [call.args[0]])


@rule("nn.softplus")
def _softplus(imp: RelaxImporter, call: Any) -> Value | None:
    if call.attrs.beta != 1.0 or call.attrs.threshold < 20.0:
        return None
    return pointwise(imp, "softplus(x0)", [call.args[0]])


@rule("astype")
def _astype(imp: RelaxImporter, call: Any) -> Value | None:
    result, value = imp.result_type(), imp.value(call.args[0])
    if result is None or result.dtype not in CASTS:
        return None
    x = imp.tensor(value) if isinstance(value, str) else None
    if x is not None and x[1].dtype == result.dtype:
        return x[0]
    if x is not None and result.dtype == "bool":
        return pointwise(imp, "ne(x0, 0.0)", [value])
    if isinstance(value, Number) and value.dtype not in FLOATS and result.dtype not in FLOATS:
        return Number(value.value, result.dtype) if result.dtype in ("i64", "i32") else None
    operand = value if isinstance(value, (str, Number)) else call.args[0]
    return pointwise(imp, f"{result.dtype}(x0)", [operand])
