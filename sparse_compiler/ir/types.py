"""Types of the graph: dtypes, symbolic dimensions, layouts, storage formats.

A dimension is an int or a sympy expression over named symbols (torch's own symbolic shapes).
A layout is an order of the logical dimensions with a bar: left of it the planes, outermost
first, right of it what lies contiguous inside a plane. `{2|0,1}` on `[B, S, C]` stores C planes
of B*S floats each; `{|0,1,2}` is native row-major. A type without a layout lives in a torch tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import sympy
import torch

from ..errors import InputError, UnsupportedError

Dim: TypeAlias = int | sympy.Expr

_TORCH_DTYPES: dict[str, torch.dtype] = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i64": torch.int64,
    "i32": torch.int32,
    "i16": torch.int16,
    "i8": torch.int8,
    "u8": torch.uint8,
    "bool": torch.bool,
}
ELEMENTS = frozenset(("f64", "f32", "i64", "i32", "i16", "i8", "u8", "bool"))
"""Dtypes that native row-major buffers hold and kernels compute in."""
HALVES = frozenset(("f16", "bf16"))
"""Dtypes that native row-major buffers hold, to be moved or converted."""
_NAMES = {dtype: name for name, dtype in _TORCH_DTYPES.items()}


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.float32` -> "f32"; dtypes without a short name keep torch's, "complex64"."""
    return _NAMES.get(dtype, str(dtype).removeprefix("torch."))


def torch_dtype(name: str) -> torch.dtype:
    """The inverse of `dtype_name`."""
    found = _TORCH_DTYPES.get(name, getattr(torch, name, None))
    if not isinstance(found, torch.dtype):
        raise UnsupportedError(f"unknown dtype {name!r}", fix=f"one of {', '.join(_TORCH_DTYPES)}")
    return found


def symbol(name: str) -> sympy.Symbol:
    """The symbol of a dimension. Equal names are equal symbols everywhere in a graph."""
    return sympy.Symbol(name, integer=True, nonnegative=True)


def as_dim(value: int | sympy.Expr) -> Dim:
    """Plain int where the expression is a number, with our own symbols elsewhere."""
    if isinstance(value, int):
        return value
    if value.is_Integer:
        return int(value)
    renamed = {s: symbol(s.name) for s in value.free_symbols}
    return value.xreplace(renamed)


def evaluate(dim: Dim, symbols: Mapping[str, int]) -> int:
    """The number a dimension stands for under `symbols` (name -> value).

    Raises `InputError` on a symbol that has none.
    """
    if isinstance(dim, int):
        return dim
    unknown = sorted(s.name for s in dim.free_symbols if s.name not in symbols)
    if unknown:
        raise InputError(
            f"dimension {unknown[0]} has no value",
            why=f"no shape among the inputs determines it; {dim} needs it",
            fix="make a dimension of an input exactly this symbol",
        )
    return int(dim.xreplace({s: sympy.Integer(symbols[s.name]) for s in dim.free_symbols}))


def product(dims: Iterable[Dim]) -> Dim:
    """The product of dimensions; 1 for none."""
    result: Dim = 1
    for dim in dims:
        result = result * dim
    return as_dim(result)


def symbols_of(dims: Iterable[Dim]) -> set[str]:
    """Names of all symbols in `dims`."""
    return {s.name for d in dims if not isinstance(d, int) for s in d.free_symbols}


@dataclass(frozen=True)
class Layout:
    """order: every logical dimension once, outermost first; planes: how many stand left of |."""

    order: tuple[int, ...]
    planes: int

    @classmethod
    def rows(cls, rank: int) -> Layout:
        """Row-major, without planes: `{|0,1,2}`."""
        return cls(tuple(range(rank)), 0)

    def __str__(self) -> str:
        outer = ",".join(map(str, self.order[: self.planes]))
        inner = ",".join(map(str, self.order[self.planes :]))
        return f"{outer}|{inner}"

    @property
    def outer(self) -> tuple[int, ...]:
        """Logical dimensions that count planes, outermost first."""
        return self.order[: self.planes]

    @property
    def inner(self) -> tuple[int, ...]:
        """Logical dimensions inside a plane (the columns), outermost first."""
        return self.order[self.planes :]


@dataclass(frozen=True)
class TensorType:
    """dtype: short name, "f32"; shape: logical; layout: None is row-major; format: of a weight."""

    dtype: str
    shape: tuple[Dim, ...]
    layout: Layout | None = None
    format: str = "dense"

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def numel(self) -> Dim:
        return product(self.shape)

    def laid_out(self, layout: Layout | None) -> TensorType:
        """The same logical tensor in another layout."""
        return replace(self, layout=layout)

    @property
    def logical(self) -> TensorType:
        """The same tensor, row-major and dense: what type rules compare."""
        return TensorType(self.dtype, self.shape)


@dataclass(frozen=True)
class ScalarType:
    """A number known only at run time, for instance the result of `.item()`."""

    dtype: str
    value: Dim


@dataclass(frozen=True)
class TupleType:
    """What an op with several results gives; taken apart by `getitem`."""

    items: tuple[Type | None, ...]


Type: TypeAlias = TensorType | ScalarType | TupleType


def result_layout(tensors: Iterable[TensorType], rank: int, planar: Layout | None) -> Layout | None:
    """Layout of an op's result of rank `rank`: none, row-major or `planar`, as its inputs are."""
    layouts = [t.layout for t in tensors if t.layout is not None]
    if not layouts:
        return None
    return Layout.rows(rank) if any(layout.planes == 0 for layout in layouts) else planar


def symbols_in(type_: Type | None) -> set[str]:
    """Names of all symbols in a type."""
    if isinstance(type_, TensorType):
        return symbols_of(type_.shape)
    if isinstance(type_, ScalarType):
        return symbols_of([type_.value])
    if isinstance(type_, TupleType):
        return {name for item in type_.items for name in symbols_in(item)}
    return set()


def tensor_type(tensor: torch.Tensor) -> TensorType:
    """The type of a real or fake tensor; symbolic sizes become sympy expressions."""
    return TensorType(dtype_name(tensor.dtype), tuple(dim_of(s) for s in tensor.shape))


def dim_of(size: int | torch.SymInt) -> Dim:
    """A size as torch gives it -> a dimension."""
    return as_dim(size.node.expr) if isinstance(size, torch.SymInt) else int(size)
