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

FUNCTIONS: Mapping[str, str] = {
    "add": "({0} + {1})",
    "sub": "({0} - {1})",
    "mul": "({0} * {1})",
    "div": "({0} / {1})",
    "floor_div": "tl.floor({0} / {1})",
    "remainder": "({0} - tl.floor({0} / {1}) * {1})",
    "maximum": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "minimum": "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "neg": "(-{0})",
    "abs": "tl.abs({0})",
    "sign": "tl.where({0} > 0, 1.0, tl.where({0} < 0, -1.0, {0}))",
    "clamp": "tl.where({0} < {1}, {1}, tl.where({0} > {2}, {2}, {0}))",
    "floor": "tl.floor({0})",
    "ceil": "tl.ceil({0})",
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
    "log": "tl.log({0})",
    "log2": "tl.log2({0})",
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
    "shift_left": "({0} << {1})",
    "shift_right": "({0} >> {1})",
}
"""Code of each function, a hole for each argument."""

_FLOATS_ONLY = frozenset({"floor_div", "remainder", "sign", "trunc", "floor", "ceil"})
_POWERS = {
    2.0: "({0} * {0})",
    3.0: "({0} * {0} * {0})",
    4.0: "({0} * {0} * {0} * {0})",
    0.5: "tl.sqrt({0})",
    -0.5: "tl.rsqrt({0})",
    -1.0: "(1.0 / {0})",
}

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
            return literal(part.value)
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
            return part_in(part.args[0], part.fn)
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
    if call.fn == "pow" and isinstance(call.args[1], Const):
        code = _POWERS.get(call.args[1].value)
    elif common == "bool" and call.fn in ("add", "mul", "maximum", "minimum"):
        code = "({0} | {1})" if call.fn in ("add", "maximum") else "({0} & {1})"
    else:
        code = FUNCTIONS.get(call.fn)
    whole = not torch_dtype(common).is_floating_point
    if code is None or (whole and call.fn in _FLOATS_ONLY):
        raise CodegenError(f"the GPU has no code for {call.fn} of {common}", node=str(call))
    return code


def type_of(dtype: str) -> str:
    """The type of a tile. Raises `CodegenError` for fp64 and complex numbers."""
    if dtype not in TYPES:
        raise CodegenError(
            f"the GPU has no kernels for elements of {dtype}", fix=f"one of {', '.join(TYPES)}"
        )
    return TYPES[dtype]


def literal(value: float) -> str:
    """A number as Python writes it."""
    return repr(value) if math.isfinite(value) else f"float('{value}')"
