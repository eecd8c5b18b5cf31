"""Scalar expressions as C++ on vectors: the CPU's row for every function of `ops/scalar.py`."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sparse_compiler.errors import CodegenError
from sparse_compiler.ir.expr import Arg, Const, Expr


@dataclass(frozen=True)
class VectorFunction:
    """code: a format with one hole per argument; numbers: argument positions that stay floats."""

    code: str
    numbers: tuple[int, ...] = ()


_SAME_NAME = [
    "neg",
    "abs",
    "relu",
    "gelu",
    "gelu_tanh",
    "silu",
    "sigmoid",
    "tanh",
    "exp",
    "log",
    "erf",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "hardswish",
    "hardsigmoid",
    "mish",
]

VECTOR_FUNCTIONS: Mapping[str, VectorFunction] = {
    **{name: VectorFunction(f"{name}({{}})") for name in _SAME_NAME},
    "add": VectorFunction("({} + {})"),
    "sub": VectorFunction("({} - {})"),
    "mul": VectorFunction("({} * {})"),
    "div": VectorFunction("({} / {})"),
    "maximum": VectorFunction("max({}, {})"),
    "minimum": VectorFunction("min({}, {})"),
    "pow": VectorFunction("pow({}, {})", (1,)),
    "clamp": VectorFunction("clamp({}, {}, {})", (1, 2)),
    "leaky_relu": VectorFunction("leaky_relu({}, {})", (1,)),
    "elu": VectorFunction("elu({}, {})", (1,)),
    "softplus": VectorFunction("softplus({}, 1.f, 20.f)"),
}


def float_literal(value: float) -> str:
    """A C++ literal of exactly the fp32 nearest to `value`."""
    if math.isnan(value):
        return '__builtin_nanf("")'
    try:
        rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        rounded = math.copysign(math.inf, value)
    if math.isinf(rounded):
        return "__builtin_inff()" if rounded > 0 else "-__builtin_inff()"
    return f"{rounded!r}f"


def vector_code(expr: Expr, argument: Callable[[int], str]) -> str:
    """C++ for `expr`; argument(i) is the code that stands for input i."""
    match expr:
        case Arg(index=index):
            return argument(index)
        case Const(value=value):
            return f"splat({float_literal(value)})"
    row = VECTOR_FUNCTIONS.get(expr.fn)
    if row is None:
        raise CodegenError(f"the CPU has no code for the function {expr.fn!r}")
    parts = []
    for i, arg in enumerate(expr.args):
        if i not in row.numbers:
            parts.append(vector_code(arg, argument))
        elif isinstance(arg, Const):
            parts.append(float_literal(arg.value))
        else:
            raise CodegenError(f"argument {i} of {expr.fn} must be a number", node=str(expr))
    return row.code.format(*parts)
