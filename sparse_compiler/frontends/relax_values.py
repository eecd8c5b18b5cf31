"""What a Relax expression may be besides a tensor: numbers and sizes; and dtypes by both names."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import sympy
import torch
import tvm
from torch.utils._sympy.functions import FloorDiv, Mod
from tvm import tirx

from ..errors import UnsupportedError
from ..ir.graph import Range
from ..ir.types import Dim

DTYPES = {
    "float64": "f64",
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "int64": "i64",
    "int32": "i32",
    "int16": "i16",
    "int8": "i8",
    "uint8": "u8",
    "bool": "bool",
}


@dataclass(frozen=True)
class Number:
    """A value of one element that is known: a constant of rank 0, or a size."""

    value: int | float | bool | sympy.Expr
    dtype: str


@dataclass(frozen=True)
class Sizes:
    """A shape. tensor: as a vector of i64, which `shape_to_tensor` makes of one."""

    dims: tuple[Dim, ...]
    tensor: bool = False


Value: TypeAlias = "str | Number | Sizes | tuple[Value, ...]"
"""What a Relax variable became: the name of a graph value, or what needs no node."""


def is_size(value: Any) -> bool:
    """True for a variable that is a size: TVM has one class for these and for tensors'."""
    return isinstance(value, tirx.Var) and isinstance(value.ty, tvm.ir.PrimType)


def dtype_of(type_: Any) -> str:
    """`f32` of a Relax tensor type. Raises `UnsupportedError` for a dtype that torch lacks."""
    name = str(type_.dtype).removeprefix("T.")
    found = DTYPES.get(name, name)
    if not isinstance(getattr(torch, name, None), torch.dtype):
        raise UnsupportedError(f"tensors of {name} have no dtype in torch")
    return found


def _floor_div(a: Dim, b: Dim) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    return FloorDiv(a, b)


def _floor_mod(a: Dim, b: Dim) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    return Mod(a, b)


ARITHMETIC: dict[Any, Callable[[Any, Any], Any]] = {
    tirx.Add: lambda a, b: a + b,
    tirx.Sub: lambda a, b: a - b,
    tirx.Mul: lambda a, b: a * b,
    tirx.FloorDiv: _floor_div,
    tirx.FloorMod: _floor_mod,
    tirx.Max: lambda a, b: max(a, b) if _numbers(a, b) else sympy.Max(a, b),
    tirx.Min: lambda a, b: min(a, b) if _numbers(a, b) else sympy.Min(a, b),
}


def _numbers(*dims: Dim) -> bool:
    return all(isinstance(d, int) for d in dims)


def range_of(low: Any, high: Any) -> Range:
    """Bounds of a symbol as TVM's function attributes give them."""
    return Range(int(low or 0), None if high is None or math.isinf(high) else int(high))
