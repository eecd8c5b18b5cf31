"""Scalar functions: each against torch, and against mathematics where that is another source."""

import math

import pytest
import torch
import torch.nn.functional as F

from sparse_compiler.errors import GraphSyntaxError
from sparse_compiler.ir.expr import parse_expr
from sparse_compiler.ops.scalar import SCALAR_FUNCTIONS, check, evaluate

X = torch.tensor([-30.0, -4.0, -3.0, -1.5, -0.25, -0.0, 0.0, 0.5, 1.0, 2.0, 3.0, 6.5, 25.0])
X = X.double()
Y = X.flip(0)


def each(function):
    return lambda *args: torch.tensor(
        [function(*map(float, xs)) for xs in zip(*args, strict=True)], dtype=torch.float64
    )


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def softplus(x):
    return x if x > 20 else math.log1p(math.exp(x))


# name -> (expression, the same by Python's own mathematics); on positive numbers where marked
MATHEMATICS = {
    "add": ("add(x0, x1)", lambda a, b: a + b),
    "sub": ("sub(x0, x1)", lambda a, b: a - b),
    "mul": ("mul(x0, x1)", lambda a, b: a * b),
    "div": ("div(x0, add(abs(x1), 1.0))", lambda a, b: a / (abs(b) + 1)),
    "maximum": ("maximum(x0, x1)", max),
    "minimum": ("minimum(x0, x1)", min),
    "pow": ("pow(x0, 3.0)", lambda a, b: a**3),
    "neg": ("neg(x0)", lambda a, b: -a),
    "abs": ("abs(x0)", lambda a, b: abs(a)),
    "relu": ("relu(x0)", lambda a, b: max(a, 0.0)),
    "gelu": ("gelu(x0)", lambda a, b: a / 2 * (1 + math.erf(a / math.sqrt(2)))),
    "gelu_tanh": (
        "gelu_tanh(x0)",
        lambda a, b: a / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3))),
    ),
    "silu": ("silu(x0)", lambda a, b: a * sigmoid(a)),
    "sigmoid": ("sigmoid(x0)", lambda a, b: sigmoid(a)),
    "tanh": ("tanh(x0)", lambda a, b: math.tanh(a)),
    "exp": ("exp(x0)", lambda a, b: math.exp(a)),
    "log": ("log(add(abs(x0), 1.0))", lambda a, b: math.log(abs(a) + 1)),
    "erf": ("erf(x0)", lambda a, b: math.erf(a)),
    "sqrt": ("sqrt(abs(x0))", lambda a, b: math.sqrt(abs(a))),
    "rsqrt": ("rsqrt(add(abs(x0), 1.0))", lambda a, b: 1 / math.sqrt(abs(a) + 1)),
    "reciprocal": ("reciprocal(add(abs(x0), 1.0))", lambda a, b: 1 / (abs(a) + 1)),
    "clamp": ("clamp(x0, -1.0, 6.0)", lambda a, b: min(max(a, -1.0), 6.0)),
    "leaky_relu": ("leaky_relu(x0, 0.1)", lambda a, b: a if a > 0 else 0.1 * a),
    "elu": ("elu(x0, 0.5)", lambda a, b: a if a > 0 else 0.5 * math.expm1(a)),
    "hardswish": ("hardswish(x0)", lambda a, b: a * min(max(a + 3, 0), 6) / 6),
    "hardsigmoid": ("hardsigmoid(x0)", lambda a, b: min(max(a + 3, 0), 6) / 6),
    "mish": ("mish(x0)", lambda a, b: a * math.tanh(softplus(a))),
    "softplus": ("softplus(x0)", lambda a, b: softplus(a)),
}


def test_every_function_is_tested():
    assert set(SCALAR_FUNCTIONS) == set(MATHEMATICS), "add the new function to MATHEMATICS"


@pytest.mark.parametrize("name", sorted(MATHEMATICS))
def test_reference_by_mathematics(name):
    text, function = MATHEMATICS[name]
    assert name in text
    expr = parse_expr(text)
    check(expr, 2)
    found = evaluate(expr, (X, Y))
    assert torch.allclose(found, each(function)(X, Y), rtol=1e-12, atol=1e-300), name


@pytest.mark.parametrize("name", sorted(MATHEMATICS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_reference_keeps_dtype_and_propagates_nan(name, dtype):
    text, _ = MATHEMATICS[name]
    x = torch.full((2, 3), math.nan, dtype=dtype)
    y = torch.ones(3, dtype=dtype)
    found = evaluate(parse_expr(text), (x, y))
    assert found.dtype == dtype
    assert found.shape == (2, 3)
    assert found.isnan().all()


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "maximum", "minimum", "pow"])
def test_constants_may_stand_on_either_side(name):
    function = {"maximum": torch.maximum, "minimum": torch.minimum}.get(name, getattr(torch, name))
    x, c = torch.rand(5) + 0.5, torch.tensor(2.5)
    right = evaluate(parse_expr(f"{name}(x0, 2.5)"), (x,))
    left = evaluate(parse_expr(f"{name}(2.5, x0)"), (x,))
    assert torch.allclose(right, function(x, c.expand(5)))
    assert torch.allclose(left, function(c.expand(5), x))


def test_evaluation_nests_and_broadcasts():
    x, y = torch.randn(4, 3), torch.randn(3)
    found = evaluate(parse_expr("add(gelu(mul(x0, x1)), clamp(x1, -0.5, inf))"), (x, y))
    assert torch.equal(found, F.gelu(x * y) + y.clamp(min=-0.5))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("zzz(x0)", "named 'zzz'"),
        ("add(x0)", "add takes 2 arguments"),
        ("gelu(relu(x0, x0))", "relu takes 1"),
        ("x2", "reads x2 of 2 inputs"),
    ],
)
def test_check(text, part):
    with pytest.raises(GraphSyntaxError, match=part):
        check(parse_expr(text), 2)
