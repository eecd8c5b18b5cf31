"""Scalar expressions as C++: on vectors of f32 in planes, and on single elements of any dtype.

Vector code keeps what is boolean inside an expression as masks (`VI`); scalar code calls the
functions of scalar.h, named as in `ops/scalar.py`, in the dtype that torch would compute in.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sparse_compiler.errors import CodegenError
from sparse_compiler.ir.expr import Arg, Call, Const, Expr, args_of, functions_of
from sparse_compiler.ir.types import torch_dtype
from sparse_compiler.ops.scalar import CASTS, SCALAR_FUNCTIONS, common_dtype, dtypes_in


@dataclass(frozen=True)
class VectorFunction:
    """Code on vectors: a format with one hole per argument.

    code: of floats, empty where the function has no meaning there. masks: where all arguments are
    boolean. numbers: argument positions that stay floats if all of them are constants. conditions:
    argument positions that are masks beside floats.
    """

    code: str
    masks: str = ""
    numbers: tuple[int, ...] = ()
    conditions: tuple[int, ...] = ()


_SAME_NAME = [
    "neg",
    "abs",
    "sign",
    "floor",
    "ceil",
    "round",
    "trunc",
    "relu",
    "gelu",
    "gelu_tanh",
    "silu",
    "sigmoid",
    "tanh",
    "hardswish",
    "hardsigmoid",
    "mish",
    "exp",
    "exp2",
    "expm1",
    "log",
    "log2",
    "log1p",
    "erf",
    "sin",
    "cos",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "isnan",
    "isinf",
]

VECTOR_FUNCTIONS: Mapping[str, VectorFunction] = {
    **{name: VectorFunction(f"{name}({{}})") for name in _SAME_NAME},
    "add": VectorFunction("({} + {})", "({} | {})"),
    "sub": VectorFunction("({} - {})"),
    "mul": VectorFunction("({} * {})", "({} & {})"),
    "div": VectorFunction("({} / {})"),
    "floor_div": VectorFunction("floor_div({}, {})"),
    "remainder": VectorFunction("remainder({}, {})"),
    "fmod": VectorFunction("fmod({}, {})"),
    "maximum": VectorFunction("max({}, {})", "({} | {})"),
    "minimum": VectorFunction("min({}, {})", "({} & {})"),
    "pow": VectorFunction("pow({}, {})", numbers=(1,)),
    "clamp": VectorFunction("clamp({}, {}, {})", numbers=(1, 2)),
    "leaky_relu": VectorFunction("leaky_relu({}, {})", numbers=(1,)),
    "elu": VectorFunction("elu({}, {})", numbers=(1,)),
    "softplus": VectorFunction("softplus({}, 1.f, 20.f)"),
    "eq": VectorFunction("({} == {})", "~({} ^ {})"),
    "ne": VectorFunction("({} != {})", "({} ^ {})"),
    "lt": VectorFunction("({} < {})", "(~{} & {})"),
    "le": VectorFunction("({} <= {})", "(~{} | {})"),
    "gt": VectorFunction("({} > {})", "({} & ~{})"),
    "ge": VectorFunction("({} >= {})", "({} | ~{})"),
    "logical_and": VectorFunction("({} & {})", "({} & {})", conditions=(0, 1)),
    "logical_or": VectorFunction("({} | {})", "({} | {})", conditions=(0, 1)),
    "logical_xor": VectorFunction("({} ^ {})", "({} ^ {})", conditions=(0, 1)),
    "logical_not": VectorFunction("(~{})", "(~{})", conditions=(0,)),
    "where": VectorFunction("select({}, {}, {})", "select({}, {}, {})", conditions=(0,)),
    "bitwise_and": VectorFunction("", "({} & {})"),
    "bitwise_or": VectorFunction("", "({} | {})"),
    "bitwise_xor": VectorFunction("", "({} ^ {})"),
    "bitwise_not": VectorFunction("", "(~{})"),
    "f32": VectorFunction("{}"),
    "bool": VectorFunction("{}", "{}", conditions=(0,)),
}

C_TYPES: Mapping[str, str] = {
    "f64": "double",
    "f32": "float",
    "i64": "int64_t",
    "i32": "int32_t",
    "i16": "int16_t",
    "i8": "int8_t",
    "u8": "uint8_t",
    "bool": "bool",
    "f16": "F16",
    "bf16": "Bf16",
}


def c_type(dtype: str) -> str:
    """The C++ type of an element. Raises `CodegenError` for complex numbers and the like."""
    if dtype not in C_TYPES:
        raise CodegenError(
            f"the CPU has no kernels for elements of {dtype}", fix=f"one of {', '.join(C_TYPES)}"
        )
    return C_TYPES[dtype]


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


def literal(value: float, dtype: str) -> str:
    """A C++ literal of `value` in `dtype`: the nearest one of a float, exactly of an integer."""
    if dtype == "f32" or not math.isfinite(value):
        return float_literal(value)
    if dtype == "f64":
        return repr(value)
    return f"{c_type(dtype)}({int(value)})"


def _dtypes(expr: Expr, inputs: tuple[str, ...]) -> dict[Expr, str]:
    unknown = functions_of(expr) - set(SCALAR_FUNCTIONS)
    if unknown:
        raise CodegenError(f"the CPU has no code for the function {min(unknown)!r}", node=str(expr))
    return dtypes_in(expr, inputs)


# --- vectors ----------------------------------------------------------------------------------


def vector_code(expr: Expr, argument: Callable[[int], str]) -> str:
    """C++ for `expr` on vectors of f32; argument(i) is the code that stands for input i.

    A boolean result comes as ones and zeros. Raises `CodegenError` where a part is neither f32 nor
    boolean, or a function has no vector code.
    """
    dtypes = _dtypes(expr, ("f32",) * (max(args_of(expr), default=-1) + 1))
    return _Vectors(dtypes, argument).floats(expr)


@dataclass(frozen=True)
class _Vectors:
    dtypes: dict[Expr, str]
    argument: Callable[[int], str]

    def floats(self, part: Expr) -> str:
        """A part as a vector of floats."""
        match part:
            case Arg(index=index):
                return self.argument(index)
            case Const(value=value):
                return f"splat({float_literal(value)})"
        return f"truth({self.call(part)})" if self.boolean(part) else self.call(part)

    def mask(self, part: Expr) -> str:
        """A part as a mask: true where it is not zero."""
        if isinstance(part, Call) and self.boolean(part):
            return self.call(part)
        return f"({self.floats(part)} != splat(0.f))"

    def boolean(self, part: Expr) -> bool:
        return self.dtypes[part] == "bool"

    def call(self, call: Call) -> str:
        row = VECTOR_FUNCTIONS.get(call.fn, VectorFunction(""))
        alike = call.args[SCALAR_FUNCTIONS[call.fn].first :]
        common = common_dtype(alike, self.dtypes)
        logic = common == "bool" and bool(row.masks)
        code = row.masks if logic else row.code
        if common not in ("f32", "bool") or not code:
            raise CodegenError(f"{call.fn} of {common} has no vector code", node=str(call))
        numbers = all(isinstance(call.args[i], Const) for i in row.numbers)
        parts = []
        for i, arg in enumerate(call.args):
            if i in row.numbers and numbers and isinstance(arg, Const):
                parts.append(float_literal(arg.value))
            elif logic or i in row.conditions:
                parts.append(self.mask(arg))
            else:
                parts.append(self.floats(arg))
        return code.format(*parts)


# --- single elements --------------------------------------------------------------------------


def element_code(expr: Expr, dtypes: tuple[str, ...], argument: Callable[[int], str]) -> str:
    """C++ for `expr` on single elements; input i has dtypes[i] and is the code argument(i).

    The value has the type of `ops.scalar.dtype_of`. Half precision is converted, not computed in.
    """
    inside = _dtypes(expr, dtypes)

    def code(part: Expr, common: str) -> str:
        match part:
            case Arg(index=index):
                return argument(index)
            case Const(value=value):
                return literal(value, common)
        return call(part)

    def call(part: Call) -> str:
        if part.fn in CASTS:
            return f"scalar::to<{c_type(part.fn)}>({code(part.args[0], 'f32')})"
        row = SCALAR_FUNCTIONS[part.fn]
        common = common_dtype(part.args[row.first :], inside)
        if row.result == "float" and not torch_dtype(common).is_floating_point:
            common = "f32"
        conditions = [f"scalar::to<bool>({code(a, 'f32')})" for a in part.args[: row.first]]
        values = [code(a, common) for a in part.args[row.first :]]
        return f"scalar::{part.fn}<{c_type(common)}>({', '.join([*conditions, *values])})"

    return code(expr, "f32")


def scalar_code(name: str, expr: Expr, dtypes: tuple[str, ...], dtype: str) -> str:
    """A C++ struct for `map` of sweep.h: `expr` of elements of `dtypes`, converted to `dtype`.

    Where all is f32 it also has the overload on vectors.
    """
    result = c_type(dtype)
    takes = ", ".join(f"{c_type(d)} x{i}" for i, d in enumerate(dtypes))
    unused = "".join(f"(void)x{i}; " for i in range(len(dtypes)) if i not in args_of(expr))
    value = element_code(expr, dtypes, lambda i: f"x{i}")
    text = (
        f"\nstruct {name} {{  // {expr}\n  SC_INLINE {result} operator()({takes}) const {{\n"
        f"    {unused}return scalar::to<{result}>({value});\n  }}\n"
    )
    if dtypes and vectorises(expr, (*dtypes, dtype)):
        takes = ", ".join(f"V x{i}" for i in range(len(dtypes)))
        value = vector_code(expr, lambda i: f"x{i}")
        text += f"  SC_INLINE V operator()({takes}) const {{\n    {unused}return {value};\n  }}\n"
    return f"{text}}};\n"


def vectorises(expr: Expr, dtypes: tuple[str, ...]) -> bool:
    """True where `vector_code` applies to elements of these dtypes."""
    if any(dtype != "f32" for dtype in dtypes):
        return False
    try:
        vector_code(expr, str)
    except CodegenError:
        return False
    return True
