"""Scalar expressions: what an elementwise op, or an epilogue, does to each element.

`add(gelu(x0), x1)` is an expression over inputs x0, x1; its functions are the rows of
`ops/scalar.py`. Fusion of elementwise ops is substitution, so one kernel with one hole serves all.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from ..errors import GraphSyntaxError


@dataclass(frozen=True)
class Arg:
    """Input number `index`."""

    index: int

    def __str__(self) -> str:
        return f"x{self.index}"


@dataclass(frozen=True)
class Const:
    """A number, in the precision of a Python float."""

    value: float

    def __str__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True)
class Call:
    """A scalar function applied to expressions."""

    fn: str
    args: tuple[Expr, ...]

    def __str__(self) -> str:
        return f"{self.fn}({', '.join(map(str, self.args))})"


Expr: TypeAlias = Arg | Const | Call


@lru_cache(maxsize=4096)
def parse_expr(text: str) -> Expr:
    """`"add(x0, 1.0)"` -> its tree. Raises `GraphSyntaxError`."""
    try:
        return _read(ast.parse(text, mode="eval").body)
    except SyntaxError as error:
        raise GraphSyntaxError(f"cannot read the expression {text!r}", why=str(error)) from error


def _read(node: ast.expr) -> Expr:
    match node:
        case ast.Name(id=name) if name[0] == "x" and name[1:].isdigit():
            return Arg(int(name[1:]))
        case ast.Name(id="inf" | "nan" as name):
            return Const(float(name))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _read(operand)
            if isinstance(inner, Const):
                return Const(-inner.value)
        case ast.Constant(value=int(value) | float(value)):
            return Const(float(value))
        case ast.Call(func=ast.Name(id=fn), args=args, keywords=[]):
            return Call(fn, tuple(map(_read, args)))
    raise GraphSyntaxError(f"{ast.unparse(node)!r} is no scalar expression")


def args_of(expr: Expr) -> frozenset[int]:
    """Which inputs the expression reads."""
    match expr:
        case Arg(index=index):
            return frozenset((index,))
        case Call(args=args):
            return frozenset().union(*map(args_of, args))
    return frozenset()


def functions_of(expr: Expr) -> frozenset[str]:
    """Names of the scalar functions used."""
    if isinstance(expr, Call):
        return frozenset((expr.fn,)).union(*map(functions_of, expr.args))
    return frozenset()


def addends_of(expr: Expr, index: int) -> frozenset[int]:
    """The inputs that are added to input `index` before anything else happens to it: {2, 3} of
    relu(x2 + (x0 + x3)) for x0. Each of them, and `index`, is read only there."""
    reads = Counter(_reads(expr))
    while isinstance(expr, Call):
        terms = _terms(expr)
        if Arg(index) in terms:
            read_once = {t.index for t in terms if isinstance(t, Arg) and reads[t.index] == 1}
            return frozenset(read_once - {index}) if index in read_once else frozenset()
        within = [arg for arg in expr.args if index in args_of(arg)]
        if len(within) != 1:
            break
        expr = within[0]
    return frozenset()


def without_addend(expr: Expr, index: int) -> Expr:
    """The expression without input `index`, one of its addends."""
    if not isinstance(expr, Call):
        return expr
    if expr.fn == "add" and Arg(index) in expr.args:
        return expr.args[1 - expr.args.index(Arg(index))]
    return Call(expr.fn, tuple(without_addend(arg, index) for arg in expr.args))


def _terms(expr: Expr) -> tuple[Expr, ...]:
    """What a sum adds; anything else is a sum of itself."""
    if isinstance(expr, Call) and expr.fn == "add":
        return tuple(term for arg in expr.args for term in _terms(arg))
    return (expr,)


def _reads(expr: Expr) -> list[int]:
    """The inputs that the expression spells out, as often as it does."""
    match expr:
        case Arg(index=index):
            return [index]
        case Call(args=args):
            return [index for arg in args for index in _reads(arg)]
    return []


def count_calls(expr: Expr) -> int:
    """How many function applications the expression spells out."""
    return 1 + sum(map(count_calls, expr.args)) if isinstance(expr, Call) else 0


def substitute(expr: Expr, values: Sequence[Expr]) -> Expr:
    """`expr` with input i replaced by values[i]."""
    match expr:
        case Arg(index=index):
            return values[index]
        case Call(fn=fn, args=args):
            return Call(fn, tuple(substitute(a, values) for a in args))
    return expr


def fold(
    expr: Expr, call: Callable[[str, list[Any]], Any], leaf: Callable[[Arg | Const], Any]
) -> Any:
    """Evaluates or prints an expression bottom up."""
    if isinstance(expr, Call):
        return call(expr.fn, [fold(a, call, leaf) for a in expr.args])
    return leaf(expr)
