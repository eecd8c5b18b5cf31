"""Patterns fit arithmetic however it is spread over nodes and turned round."""

import pytest

from sparse_compiler.ir.text import parse_graph
from sparse_compiler.ops.reduce import Reduce
from sparse_compiler.passes.match import Pattern

GRAPH = parse_graph(
    """
    input %x: f32[4]
    input %z: f32[4]
    %a: f32[4] = pointwise[expr="mul(x0, 0.5)"](%x)
    %b: f32[4] = pointwise[expr="add(x1, x0)"](%a, %z)
    %s: f32[1] = reduce[fn="sum", dims=(0,), keepdim=true](%b)
    %c: f32[4] = pointwise[expr="sub(exp(x0), x1)"](%b, %s)
    return %c
    """
)


def total(node):
    return node.inputs[0] if isinstance(node.op, Reduce) else None


def match(text, name, **options):
    return Pattern(text, {"total": total}, **options).match(GRAPH.producers, name)


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("add(x0, x1)", "b", {0: "z", 1: "a"}),
        ("add(mul(x0, x1), x2)", "b", {0: "x", 1: 0.5, 2: "z"}),
        ("add(x2, mul(0.5, x0))", "b", {0: "x", 2: "z"}),
        ("sub(exp(x0), total(x0))", "c", {0: "b"}),
        ("sub(exp(add(x0, x1)), total(add(x1, x0)))", "c", {0: "z", 1: "a"}),
        ("sub(x0, x1)", "c", None),  # exp(b) has no name
        ("sub(total(x0), exp(x0))", "c", None),
        ("add(mul(x0, 0.25), x1)", "b", None),
        ("add(x0, x0)", "b", None),
        ("total(x0)", "s", {0: "b"}),
        ("total(x0)", "b", None),
        ("exp(x0)", "x", None),
    ],
)
def test_matches(text, name, found):
    assert match(text, name) == found


def test_constants_within_a_tolerance():
    assert match("mul(x0, 0.5000000001)", "a") == {0: "x"}
    assert match("mul(x0, 0.5001)", "a") is None
    assert match("mul(x0, 0.5001)", "a", tolerance=1e-3) == {0: "x"}
