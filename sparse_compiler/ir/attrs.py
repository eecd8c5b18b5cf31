"""Attribute values of ops as text, and back.

The grammar is Python's expression grammar, so `ast` is the parser: numbers, strings, true, false,
none, inf, nan, tuples, dimensions (`s0*2 + 1`), and calls for what torch alone knows
(`dtype("f32")`). `_0`, `_1` stand for the inputs of the node.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from sympy.printing.str import StrPrinter
from torch.utils._sympy import functions as torch_sympy

from ..errors import GraphSyntaxError, UnsupportedError
from .types import Dim, as_dim, dtype_name, symbol, torch_dtype


@dataclass(frozen=True)
class Slot:
    """Stands for input number `index` inside the arguments of a `torch_call`."""

    index: int


@dataclass(frozen=True)
class Object:
    """Stands for a Python object that has no text form (a sub-graph), kept by the graph."""

    name: str


_WORDS: dict[Any, str] = {True: "true", False: "false", None: "none"}
_NAMES = {
    "true": True,
    "false": False,
    "none": None,
    "inf": math.inf,
    "nan": math.nan,
}


class _DimPrinter(StrPrinter):  # type: ignore[misc]
    """sympy's own text, with torch's functions as calls that parse back."""

    printmethod = "_print_as_call"  # nobody's: torch's own `_sympystr` prints `s0//2`

    def emptyPrinter(self, expr: Any) -> str:
        return f"{type(expr).__name__}({', '.join(map(self._print, expr.args))})"


def print_dim(dim: Dim) -> str:
    """`3072`, `s0*2`, `FloorDiv(s0, 2)`."""
    return str(dim) if isinstance(dim, int) else str(_DimPrinter().doprint(dim))


def print_attr(value: Any) -> str:
    """One attribute value as text; `parse_attr` reads it back to an equal value."""
    if value is None or isinstance(value, bool):
        return _WORDS[value]
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (int, sympy.Expr)):
        return print_dim(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # Python reads no pairs of surrogates
    if isinstance(value, (tuple, list)):
        inner = ", ".join(map(print_attr, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, Slot):
        return f"_{value.index}"
    for name, (kind, to_text, _) in _CALLS.items():
        if isinstance(value, kind):
            return f"{name}({json.dumps(to_text(value))})"
    raise UnsupportedError(
        f"an attribute of type {type(value).__name__} has no text form",
        why=f"the value is {value!r}",
        fix="report the op that takes it",
    )


def _torch_attr(kind: type, prefix: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        found = getattr(torch, text, None)
        if not isinstance(found, kind):
            raise GraphSyntaxError(f"torch has no {prefix} named {text!r}")
        return found

    return read


def _short(value: Any) -> str:
    return str(value).removeprefix("torch.")


_CALLS: dict[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {
    "dtype": (torch.dtype, dtype_name, torch_dtype),
    "device": (torch.device, str, torch.device),
    "memory_format": (
        torch.memory_format,
        _short,
        _torch_attr(torch.memory_format, "memory format"),
    ),
    "layout": (torch.layout, _short, _torch_attr(torch.layout, "layout")),
    "complex": (complex, repr, complex),
    "object": (Object, lambda o: str(o.name), Object),
}

_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: sympy.sympify(a) / b,
    ast.Pow: lambda a, b: _power(a, b),
}


def _power(base: Any, exponent: Any) -> Any:
    """Of a symbol only: a file must not make us compute 9**9**9."""
    if not isinstance(base, sympy.Expr) or not isinstance(exponent, int) or abs(exponent) > 64:
        raise GraphSyntaxError(f"{base}**{exponent} is no dimension")
    return base**exponent


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(torch_sympy, name) for name in torch_sympy.__all__},
    "Max": torch_sympy.Max,  # torch's sizes hold these, which differ from sympy's
    "Min": torch_sympy.Min,
    "Abs": sympy.Abs,
    "floor": sympy.floor,
    "ceiling": sympy.ceiling,
}


def parse_attr(text: str) -> Any:
    """The inverse of `print_attr`. Raises `GraphSyntaxError` on anything else."""
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except GraphSyntaxError:
        raise
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise GraphSyntaxError(f"cannot read the attribute {text!r}", why=str(error)) from error


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Tuple(elts=items):
            return tuple(map(_value, items))
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.Name(id=name) if name[0] == "_" and name[1:].isdigit():
            return Slot(int(name[1:]))
        case ast.Name(id=name):
            return symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            operands = _value(left), _value(right)
            if not all(isinstance(value, (int, float, sympy.Expr)) for value in operands):
                raise GraphSyntaxError(f"{ast.unparse(node)!r} is no arithmetic on numbers")
            return _number(_OPERATORS[type(op)](*operands))
        case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str(text))]) if (
            name in _CALLS
        ):
            return _CALLS[name][2](text)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _number(_FUNCTIONS[name](*map(_value, args)))
    raise GraphSyntaxError(f"{ast.unparse(node)!r} is not an attribute value")


def _number(value: Any) -> Any:
    return as_dim(value) if isinstance(value, sympy.Expr) else value


def map_attr(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """`value` with `leaf` applied to everything that is no tuple; itself when nothing changed."""
    if not isinstance(value, tuple):
        return leaf(value)
    mapped = tuple(map_attr(item, leaf) for item in value)
    return value if all(a is b for a, b in zip(mapped, value, strict=True)) else mapped
