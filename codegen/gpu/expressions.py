"""Scalar expressions as Triton: a line for each part, all of it on tiles of elements.

What is f32 or half precision is computed in f32, booleans stay masks, integers keep their width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sparse_compiler.errors import CodegenError
from sparse_compiler.ir.expr import Arg, Call, Const, Expr
from sparse_compiler.ir.types import torch_dtype
from sparse_compiler.ops.scalar import CASTS, SCALAR_FUNCTIONS, common_dtype, dtypes_in

_TANH = "(2.0 / (1.0 + tl.exp(-2.0 * {0})) - 1.0)"
_CUBIC = "(0.7978845608028654 * ({0} + 0.044715 * {0} * {0} * {0}))"
_SIGMOID = "(1.0 / (1.0 + tl.exp(-{0})))"
_SOFTPLUS = "tl.where({0} > 20.0, {0}, tl.log(1.0 + tl.exp({0})))"

_REST = "{0} % {1}"  # the sign of the first
_REMAINDER = f"tl.where(({_REST} != 0) & (({_REST} < 0) != ({{1}} < 0)), {_REST} + {{1}}, {_REST})"


def _near_zero(first: int, last: int, step: str) -> str:
    """1 + step(first) (1 + step(first + 1) (...)): a series for what cancels near 0."""
    inner = "1.0"
    for n in range(last, first - 1, -1):
        inner = f"(1.0 + {step.format(n)} * {inner})"
    return inner


_EXPM1 = "({0} * " + _near_zero(2, 7, "{{0}} / {}.0") + ")"
_HALF_ANGLE = "({0} / (2.0 + {0}))"  # log(1 + x) = 2 artanh(x / (2 + x))
_SQUARE = f"{_HALF_ANGLE} * {_HALF_ANGLE}"
_LOG1P = (
    f"(2.0 * {_HALF_ANGLE} * (1.0 + {_SQUARE} * (1 / 3 + {_SQUARE} * (1 / 5 + {_SQUARE} / 7))))"
)

FUNCTIONS: Mapping[str, str] = {
    "add": "({0} + {1})",
    "sub": "({0} - {1})",
    "mul": "({0} * {1})",
    "div": "({0} / {1})",
    "floor_div": "tl.floor({0} / {1})",
    "remainder": _REMAINDER,
    "fmod": "({0} % {1})",
    "maximum": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "minimum": "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "neg": "(-{0})",
    "abs": "tl.abs({0})",
    "sign": "tl.where({0} > 0, 1.0, tl.where({0} < 0, -1.0, {0}))",
    "clamp": "tl.where({0} < {1}, {1}, tl.where({0} > {2}, {2}, {0}))",
    "floor": "tl.floor({0})",
    "ceil": "tl.ceil({0})",
    "round": "tl.where(tl.abs({0}) < 4194304.0, ({0} + 12582912.0) - 12582912.0, {0})",
    "trunc": "tl.where({0} < 0, tl.ceil({0}), tl.floor({0}))",
    "relu": "tl.where({0} < 0, 0.0, {0})",
    "gelu": "(0.5 * {0} * (1.0 + tl.erf({0} * 0.7071067811865476)))",
    "gelu_tanh": "(0.5 * {0} * (1.0 + " + _TANH.format(_CUBIC) + "))",
    "silu": "({0} / (1.0 + tl.exp(-{0})))",
    "sigmoid": _SIGMOID,
    "tanh": _TANH,
    "leaky_relu": "tl.where({0} > 0, {0}, {0} * {1})",
    "elu": "tl.where({0} > 0, {0}, {1} * (tl.exp({0}) - 1.0))",
    "hardswish": "({0} * tl.minimum(tl.maximum({0} + 3.0, 0.0), 6.0) * 0.16666666666666666)",
    "hardsigmoid": "(tl.minimum(tl.maximum({0} + 3.0, 0.0), 6.0) * 0.16666666666666666)",
    "mish": "({0} * " + _TANH.format(_SOFTPLUS) + ")",
    "softplus": _SOFTPLUS,
    "exp": "tl.exp({0})",
    "exp2": "tl.exp2({0})",
    "expm1": f"tl.where(tl.abs({{0}}) < 0.35, {_EXPM1}, tl.exp({{0}}) - 1.0)",
    "log": "tl.log({0})",
    "log2": "tl.log2({0})",
    "log1p": f"tl.where(tl.abs({{0}}) < 0.3, {_LOG1P}, tl.log(1.0 + {{0}}))",
    "erf": "tl.erf({0})",
    "sin": "tl.sin({0})",
    "cos": "tl.cos({0})",
    "sqrt": "tl.sqrt({0})",
    "rsqrt": "tl.rsqrt({0})",
    "reciprocal": "(1.0 / {0})",
    "eq": "({0} == {1})",
    "ne": "({0} != {1})",
    "lt": "({0} < {1})",
    "le": "({0} <= {1})",
    "gt": "({0} > {1})",
    "ge": "({0} >= {1})",
    "isnan": "({0} != {0})",
    "isinf": "(tl.abs({0}) == float('inf'))",
    "logical_and": "(({0} != 0) & ({1} != 0))",
    "logical_or": "(({0} != 0) | ({1} != 0))",
    "logical_xor": "(({0} != 0) ^ ({1} != 0))",
    "logical_not": "({0} == 0)",
    "where": "tl.where({0}, {1}, {2})",
    "bitwise_and": "({0} & {1})",
    "bitwise_or": "({0} | {1})",
    "bitwise_xor": "({0} ^ {1})",
    "bitwise_not": "(~{0})",
    "shift_left": "({0} << {1})",
    "shift_right": "({0} >> {1})",
}
"""Code of each function, a hole for each argument."""

WHOLE: Mapping[str, str] = {
    "floor_div": "(({0} // {1}) - tl.where((" + _REST + " != 0) & (({0} < 0) != ({1} < 0)), 1, 0))",
    "sign": "tl.where({0} > 0, 1, tl.where({0} < 0, -1, 0))",
    "relu": "tl.where({0} < 0, 0, {0})",
    **dict.fromkeys(("floor", "ceil", "round", "trunc"), "{0}"),
}
"""Of those that are others for integers."""
_POWERS = {
    0.0: "tl.where({0} == {0}, 1.0, 1.0)",
    1.0: "{0}",
    2.0: "({0} * {0})",
    3.0: "({0} * {0} * {0})",
    4.0: "({0} * {0} * {0} * {0})",
    0.5: "tl.sqrt({0})",
    -0.5: "tl.rsqrt({0})",
    -1.0: "(1.0 / {0})",
}
_WHOLE_POWERS = (1.0, 2.0, 3.0, 4.0)
_POWER = "tl.exp2({1} * tl.log2(tl.abs({0})))"
_ODD = "tl.floor({1} * 0.5) * 2.0 != {1}"
_SIGN = f"tl.where(tl.floor({{1}}) != {{1}}, float('nan'), tl.where({_ODD}, -1.0, 1.0))"
_ANY_POWER = (
    "tl.where({1} == 0, 1.0, tl.where({0} == 0, tl.where({1} > 0, 0.0, float('inf')), "
    f"{_POWER} * tl.where({{0}} < 0, {_SIGN}, 1.0)))"
)

TYPES: Mapping[str, str] = {
    "f32": "float32",
    "f16": "float32",
    "bf16": "float32",
    "i64": "int64",
    "i32": "int32",
    "i16": "int16",
    "i8": "int8",
    "u8": "uint8",
    "bool": "int1",
}
"""The type that a tile of a dtype is computed in."""
_ROUNDED = {
    "f16": ".to(tl.float16).to(tl.float32)",
    "bf16": ".to(tl.bfloat16).to(tl.float32)",
}


def code_of(expr: Expr, inputs: Sequence[str], name: str = "value") -> list[str]:
    """Lines that compute `name` from x0, x1, ..., of these dtypes and in the types of `TYPES`.

    Raises `CodegenError` where a function or a dtype has no code, fp64 above all.
    """
    dtypes = dtypes_in(expr, tuple(inputs))
    lines: list[str] = []
    done: dict[tuple[Expr, str], str] = {}

    def part_in(part: Expr, dtype: str) -> str:
        """A part converted to `dtype`."""
        if isinstance(part, Const):
            return literal(part.value, dtype)
        type_ = type_of(dtype)
        if (part, type_) not in done:
            code = own(part)
            if dtypes[part] != dtype and type_of(dtypes[part]) != type_:
                code = f"({code} != 0)" if dtype == "bool" else f"({code}).to(tl.{type_})"
            done[part, type_] = code
        return done[part, type_]

    def own(part: Expr) -> str:
        if isinstance(part, Arg):
            return f"x{part.index}"
        if isinstance(part, Const):
            return literal(part.value)
        code = call(part)
        lines.append(f"t{len(lines)} = {code}")
        return f"t{len(lines) - 1}"

    def call(part: Call) -> str:
        if part.fn in CASTS:
            return part_in(part.args[0], part.fn) + _ROUNDED.get(part.fn, "")
        row = SCALAR_FUNCTIONS[part.fn]
        common = common_dtype(part.args[row.first :], dtypes)
        if row.result == "float" and not torch_dtype(common).is_floating_point:
            common = "f32"
        values = [part_in(a, "bool") for a in part.args[: row.first]]
        values += [part_in(a, common) for a in part.args[row.first :]]
        return _function(part, common).format(*values)

    result = own(expr)
    lines.append(f"{name} = {result}")
    return lines


def _function(call: Call, common: str) -> str:
    """The code of a call's function on tiles of `common`."""
    whole = not torch_dtype(common).is_floating_point
    if call.fn == "pow":
        code = _power(call, whole=whole)
    elif common == "bool" and call.fn in ("add", "mul", "maximum", "minimum"):
        code = "({0} | {1})" if call.fn in ("add", "maximum") else "({0} & {1})"
    else:
        code = (WHOLE.get(call.fn) if whole else None) or FUNCTIONS.get(call.fn)
    if code is None:
        raise CodegenError(f"the GPU has no code for {call.fn} of {common}", node=str(call))
    return code


def _power(call: Call, *, whole: bool) -> str | None:
    """The code of a power; None for one of integers that is no product of few."""
    base, exponent = call.args
    if isinstance(exponent, Const) and exponent.value in _POWERS:
        return _POWERS[exponent.value] if not whole or exponent.value in _WHOLE_POWERS else None
    if whole:
        return None
    if isinstance(exponent, Const):
        sign = "1.0" if exponent.value % 2 == 0 else "-1.0" if exponent.value % 1 == 0 else "NAN"
        return f"({_POWER} * tl.where({{0}} < 0, {sign}, 1.0))".replace("NAN", "float('nan')")
    if isinstance(base, Const):
        return f"tl.exp2({{1}} * {math.log2(base.value)!r})" if base.value > 0 else None
    return _ANY_POWER


def type_of(dtype: str) -> str:
    """The type of a tile. Raises `CodegenError` for fp64 and complex numbers."""
    if dtype not in TYPES:
        raise CodegenError(
            f"the GPU has no kernels for elements of {dtype}", fix=f"one of {', '.join(TYPES)}"
        )
    return TYPES[dtype]


def literal(value: float, dtype: str = "f32") -> str:
    """A number as Python writes it, whole beside integers."""
    if not torch_dtype(dtype).is_floating_point and value.is_integer():
        return repr(int(value))
    return repr(value) if math.isfinite(value) else f"float('{value}')"
