"""Activations written out become one function, in whatever order the model multiplies."""

import pytest

from sparse_compiler.ir.text import parse_graph
from sparse_compiler.passes.base import Context
from sparse_compiler.passes.recognize_activations import RecognizeActivations
from tests.passes.checks import check_pass, check_untouched

PASS = RecognizeActivations()
CUBE = "mul(0.7978845608028654, add(x0, mul(0.044715, pow(x0, 3.0))))"


@pytest.mark.parametrize(
    ("expr", "function"),
    [
        ("mul(mul(x0, 0.5), add(erf(div(x0, 1.4142135623730951)), 1.0))", "gelu"),
        ("mul(x0, mul(add(1.0, erf(mul(x0, 0.7071067811865476))), 0.5))", "gelu"),
        ("mul(mul(x0, add(erf(div(x0, 1.4142135623730951)), 1.0)), 0.5)", "gelu"),
        (f"mul(mul(0.5, x0), add(1.0, tanh({CUBE})))", "gelu_tanh"),
        (
            "mul(mul(x0, 0.5), add(tanh(mul(mul(x0, 0.7978845608028654), "
            "add(mul(mul(x0, 0.044715), x0), 1.0))), 1.0))",
            "gelu_tanh",
        ),
        ("mul(sigmoid(x0), x0)", "silu"),
        ("mul(x0, div(clamp(add(x0, 3.0), 0.0, 6.0), 6.0))", "hardswish"),
    ],
)
def test_one_expression(expr, function):
    text = 'input %x: f32[s0, 4]\n%y: f32[s0, 4] = pointwise[expr="{}"](%x)\nreturn %y'
    check_pass(text.format(expr), PASS, text.format(f"{function}(x0)"))


def test_spread_over_nodes():
    text = """
        input %x: f32[s0, 4]
        %half: f32[s0, 4] = pointwise[expr="mul(x0, 0.5)"](%x)
        %pow: f32[s0, 4] = pointwise[expr="pow(x0, 3.0)"](%x)
        %small: f32[s0, 4] = pointwise[expr="mul(x0, 0.044715)"](%pow)
        %sum: f32[s0, 4] = pointwise[expr="add(x0, x1)"](%x, %small)
        %scaled: f32[s0, 4] = pointwise[expr="mul(x0, 0.7978845608028654)"](%sum)
        %tanh: f32[s0, 4] = pointwise[expr="tanh(x0)"](%scaled)
        %one: f32[s0, 4] = pointwise[expr="add(x0, 1.0)"](%tanh)
        %y: f32[s0, 4] = pointwise[expr="mul(x0, x1)"](%half, %one)
        return %y
        """
    after = text.replace(
        '%y: f32[s0, 4] = pointwise[expr="mul(x0, x1)"](%half, %one)',
        '%y: f32[s0, 4] = pointwise[expr="gelu_tanh(x0)"](%x)',
    )
    check_pass(text, PASS, after)


@pytest.mark.parametrize(
    "expr",
    [
        "mul(mul(x0, 0.5), add(erf(div(x0, 1.5)), 1.0))",
        "mul(mul(x0, 0.5), add(erf(div(x1, 1.4142135623730951)), 1.0))",
        "mul(mul(x0, 0.6), add(erf(div(x0, 1.4142135623730951)), 1.0))",
        "mul(x0, sigmoid(x1))",
        "mul(x0, sigmoid(mul(x0, 1.702)))",
        "mul(x0, div(clamp(add(x0, 3.0), 0.0, 5.0), 6.0))",
    ],
)
def test_must_not_fire(expr):
    second = ", %z" if "x1" in expr else ""
    check_untouched(
        f"""
        input %x: f32[s0, 4]
        input %z: f32[s0, 4]
        %y: f32[s0, 4] = pointwise[expr="{expr}"](%x{second})
        return %y
        """,
        PASS,
    )


@pytest.mark.parametrize(
    ("lines", "function"),
    [
        (("maximum(x0, 0.0)", "minimum(x0, 6.0)"), "clamp(x0, 0.0, 6.0)"),
        (("minimum(6.0, x0)", "maximum(0.0, x0)"), "clamp(x0, 0.0, 6.0)"),
        (("minimum(maximum(x0, -1.0), 1.0)",), "clamp(x0, -1.0, 1.0)"),
        (("maximum(x0, 0.0)",), "relu(x0)"),
    ],
)
def test_extremes_of_numbers(lines, function):
    nodes, name = [], "x"
    for i, line in enumerate(lines):
        nodes.append(f'%t{i}: f32[4] = pointwise[expr="{line}"](%{name})')
        name = f"t{i}"
    head = "input %x: f32[4]\n"
    before = head + "\n".join(nodes) + f"\nreturn %{name}"
    after = RecognizeActivations().run(parse_graph(before), Context())
    assert str(after.nodes[-1]) == f'%{name} = pointwise[expr="{function}"](%x)'
    check_pass(before, RecognizeActivations(), str(after))


@pytest.mark.parametrize(
    "line", ["minimum(maximum(x0, 6.0), 0.0)", "maximum(x0, 1.0)", "minimum(x0, 0.0)"]
)
def test_other_extremes_stay(line):
    text = f'input %x: f32[4]\n%y: f32[4] = pointwise[expr="{line}"](%x)\nreturn %y'
    check_untouched(text, RecognizeActivations())
