"""Sizes as C++: integer expressions over named symbols, for a template on the number's type.

Everything is exact: a quotient is taken of a whole numerator by a whole denominator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sympy

from sparse_compiler.errors import UnsupportedError
from sparse_compiler.ir.types import Dim


def size_code(dim: Dim, names: Mapping[str, str]) -> str:
    """`s0*2 + 1` => `((T(2) * s[0]) + T(1))`. names: what stands for each symbol.

    Raises `UnsupportedError` on a function that has no C++ here, or an unknown symbol.
    """
    if isinstance(dim, int):
        return f"T({dim})"
    if dim.is_Integer:
        return f"T({int(dim)})"
    if dim.is_Symbol:
        if dim.name not in names:
            raise UnsupportedError(
                f"the size {dim.name} is not known before the model runs",
                why="no shape among the inputs determines it",
            )
        return names[dim.name]
    over, under = _fraction(dim)
    if under != 1:
        return f"floor_div({size_code(over, names)}, {size_code(under, names)})"
    if dim.is_Pow and dim.exp.is_Integer and 0 < int(dim.exp) <= 8:
        return _joined([size_code(dim.base, names)] * int(dim.exp), "*")
    write = _FORMS.get(type(dim).__name__)
    if write is None:
        raise UnsupportedError(f"the size {dim} has no form in C++")
    return write(dim, names)


def _fraction(dim: sympy.Expr) -> tuple[Any, Any]:
    """Whole numerator and denominator, where the sum or product has one."""
    if not (dim.is_Add or dim.is_Mul or dim.is_Pow):
        return dim, 1
    over, under = sympy.fraction(sympy.together(dim))
    return (dim, 1) if under == 1 else (sympy.expand(over), under)


def _joined(parts: list[str], sign: str) -> str:
    return f"({f' {sign} '.join(parts)})"


def _folded(name: str) -> Callable[[Any, Mapping[str, str]], str]:
    """A function of two, for any number of arguments."""

    def write(dim: Any, names: Mapping[str, str]) -> str:
        first, *rest = (size_code(arg, names) for arg in dim.args)
        for part in rest:
            first = f"{name}({first}, {part})"
        return first

    return write


def _floor(dim: Any, names: Mapping[str, str]) -> str:
    over, under = sympy.fraction(sympy.together(dim.args[0]))
    return f"floor_div({size_code(over, names)}, {size_code(under, names)})"


def _ceiling(dim: Any, names: Mapping[str, str]) -> str:
    over, under = sympy.fraction(sympy.together(dim.args[0]))
    return f"(-floor_div(-{size_code(over, names)}, {size_code(under, names)}))"


_FORMS: dict[str, Callable[[Any, Mapping[str, str]], str]] = {
    "Add": lambda dim, names: _joined([size_code(a, names) for a in dim.args], "+"),
    "Mul": lambda dim, names: _joined([size_code(a, names) for a in dim.args], "*"),
    "floor": _floor,
    "ceiling": _ceiling,
    "FloorDiv": _folded("floor_div"),
    "CleanDiv": _folded("floor_div"),
    "Mod": _folded("modulo"),
    "PythonMod": _folded("modulo"),
    "Max": _folded("most"),
    "Min": _folded("least"),
}
