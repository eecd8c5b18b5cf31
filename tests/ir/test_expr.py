"""Scalar expressions: text, substitution, and what reads what."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_compiler.errors import GraphSyntaxError
from sparse_compiler.ir.expr import (
    Arg,
    Call,
    Const,
    addends_of,
    args_of,
    count_calls,
    fold,
    functions_of,
    parse_expr,
    substitute,
    without_addend,
)

LEAVES = st.builds(Arg, st.integers(0, 12)) | st.builds(Const, st.floats(allow_nan=False))
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda c: st.builds(
        Call,
        st.sampled_from(["add", "gelu", "clamp"]),
        st.lists(c, min_size=1, max_size=3).map(tuple),
    ),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None)
@given(EXPRESSIONS)
def test_text(expr):
    assert parse_expr(str(expr)) == expr


@settings(max_examples=80, deadline=None)
@given(EXPRESSIONS, st.data())
def test_substitution_is_evaluation_in_two_steps(expr, data):
    inner = data.draw(st.lists(EXPRESSIONS, min_size=13, max_size=13))

    def describe(e, leaves):
        return fold(
            e,
            lambda fn, args: (fn, *args),
            lambda leaf: leaves[leaf.index] if isinstance(leaf, Arg) else leaf.value,
        )

    outer = [describe(e, range(13)) for e in inner]
    assert describe(substitute(expr, inner), range(13)) == describe(expr, outer)
    assert args_of(substitute(expr, inner)) == frozenset().union(
        *(args_of(inner[i]) for i in args_of(expr))
    )


def test_what_an_expression_uses():
    expr = parse_expr("add(gelu(x3), mul(x0, -1.5))")
    assert args_of(expr) == {0, 3}
    assert functions_of(expr) == {"add", "gelu", "mul"}
    assert count_calls(expr) == 3
    assert count_calls(parse_expr("x0")) == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("relu(add(x2, add(x0, x3)))", {2, 3}),
        ("add(mul(x1, 2.0), x0)", set()),
        ("add(mul(x0, 2.0), x1)", set()),
        ("add(add(x0, x1), mul(x1, x2))", set()),  # x1 is read again
        ("add(x0, mul(x0, x1))", set()),  # so is x0
        ("add(x1, relu(add(x0, x2)))", {2}),
        ("mul(add(x0, x1), gelu(add(x0, x1)))", set()),
        ("add(x0, add(x1, x1))", set()),
        ("x0", set()),
    ],
)
def test_what_is_added_before_anything_else(text, found):
    expr = parse_expr(text)
    assert addends_of(expr, 0) == found
    for index in found:
        without = without_addend(expr, index)
        assert args_of(without) == args_of(expr) - {index}
        leaves = [1.5, 2.25, -3.0, 0.5]
        given = [0.0 if i == index else leaf for i, leaf in enumerate(leaves)]
        given[0] += leaves[index]
        assert evaluated(without, given) == evaluated(expr, leaves)


def evaluated(expr, leaves):
    """With the functions of the cases above."""
    functions = {"add": lambda a, b: a + b, "relu": lambda a: max(a, 0.0)}
    return fold(
        expr,
        lambda fn, args: functions[fn](*args),
        lambda leaf: leaves[leaf.index] if isinstance(leaf, Arg) else leaf.value,
    )


@pytest.mark.parametrize("text", ["", "y", "x", "x0 + x1", "f(x0", "'a'", "f(a=1)", "true", "-x0"])
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(GraphSyntaxError):
        parse_expr(text)
