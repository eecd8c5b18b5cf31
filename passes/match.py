"""Patterns for rewrite rules: scalar expressions in which a function may stand for a whole op.

`mul(x0, rsqrt(add(mean(mul(x0, x0)), x1)))` fits however the arithmetic is spread over nodes and
however sums and products are turned round. x0, x1, ... stand for values, or for numbers. `mean`
here is no scalar function but one of the pattern's `whole` ops: a rule says which nodes it fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from sparse_compiler.ir.expr import Arg, Call, Const, Expr, parse_expr
from sparse_compiler.ir.graph import Node
from sparse_compiler.ops.pointwise import Pointwise

Found: TypeAlias = "dict[int, str | float]"
"""What each x of a pattern stands for: the name of a value, or a number."""

WholeOp: TypeAlias = Callable[[Node], "str | None"]
"""The input of a node that is the op in question, None for other nodes."""

_COMMUTATIVE = frozenset(("add", "mul", "maximum", "minimum"))


@dataclass(frozen=True)
class _Term:
    """A piece of the graph: an expression whose x0, x1, ... are the values `names`."""

    expr: Expr
    names: tuple[str, ...]


@dataclass(frozen=True)
class Pattern:
    """text: the expression; whole: functions in it that stand for ops; tolerance: on constants."""

    text: str
    whole: Mapping[str, WholeOp] = field(default_factory=dict)
    tolerance: float = 1e-6

    def match(self, producers: Mapping[str, Node], name: str) -> Found | None:
        """What the pattern's inputs stand for where it ends in the value `name`, or None."""
        term = _Term(Arg(0), (name,))
        return next(self._matches(parse_expr(self.text), term, {}, producers), None)

    def _matches(
        self, pattern: Expr, term: _Term, found: Found, producers: Mapping[str, Node]
    ) -> Iterator[Found]:
        if isinstance(pattern, Arg):
            yield from self._bound(pattern.index, term, found)
            return
        if isinstance(pattern, Call) and pattern.fn in self.whole:
            node = _producer(term, producers)
            source = self.whole[pattern.fn](node) if node is not None else None
            if source is not None:
                inner = _Term(Arg(0), (source,))
                yield from self._matches(pattern.args[0], inner, found, producers)
            return
        term = _unfolded(term, producers)
        if isinstance(pattern, Const):
            if isinstance(term.expr, Const) and self._close(term.expr.value, pattern.value):
                yield found
            return
        if isinstance(term.expr, Call) and term.expr.fn == pattern.fn:
            orders = [term.expr.args]
            if pattern.fn in _COMMUTATIVE:
                orders.append(term.expr.args[::-1])
            for args in orders:
                parts = tuple(_Term(arg, term.names) for arg in args)
                yield from self._all(pattern.args, parts, found, producers)

    def _all(
        self,
        patterns: tuple[Expr, ...],
        terms: tuple[_Term, ...],
        found: Found,
        producers: Mapping[str, Node],
    ) -> Iterator[Found]:
        if not patterns:
            yield found
            return
        for first in self._matches(patterns[0], terms[0], found, producers):
            yield from self._all(patterns[1:], terms[1:], first, producers)

    def _bound(self, index: int, term: _Term, found: Found) -> Iterator[Found]:
        """x`index` stands for the term, if that has a name or is a number, and always the same."""
        value: str | float
        match term.expr:
            case Arg(index=place):
                value = term.names[place]
            case Const(value=number):
                value = number
            case _:
                return
        if found.get(index, value) == value:
            yield {**found, index: value}

    def _close(self, got: float, wanted: float) -> bool:
        if math.isinf(wanted):
            return got == wanted
        return abs(got - wanted) <= self.tolerance * abs(wanted)


def _producer(term: _Term, producers: Mapping[str, Node]) -> Node | None:
    return producers.get(term.names[term.expr.index]) if isinstance(term.expr, Arg) else None


def _unfolded(term: _Term, producers: Mapping[str, Node]) -> _Term:
    """A value that an elementwise op makes, as that op's expression."""
    node = _producer(term, producers)
    while node is not None and isinstance(node.op, Pointwise):
        term = _Term(node.op.tree, node.inputs)
        node = _producer(term, producers)
    return term
