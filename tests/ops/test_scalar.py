"""Scalar functions: each against torch, and against mathematics where that is another source."""

import math

import pytest
import torch
import torch.nn.functional as F

from sparse_compiler.errors import GraphSyntaxError
from sparse_compiler.ir.expr import parse_expr
from sparse_compiler.ir.types import dtype_name, torch_dtype
from sparse_compiler.ops.scalar import CASTS, SCALAR_FUNCTIONS, check, dtype_of, evaluate

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
    "floor_div": ("floor_div(x0, add(x1, 0.75))", lambda a, b: a // (b + 0.75)),
    "remainder": ("remainder(x0, add(x1, 0.75))", lambda a, b: a % (b + 0.75)),
    "fmod": ("fmod(x0, add(x1, 0.75))", lambda a, b: math.fmod(a, b + 0.75)),
    "sign": ("sign(x0)", lambda a, b: (a > 0) - (a < 0)),
    "floor": ("floor(x0)", lambda a, b: math.floor(a)),
    "ceil": ("ceil(x0)", lambda a, b: math.ceil(a)),
    "round": ("round(x0)", lambda a, b: round(a)),
    "trunc": ("trunc(x0)", lambda a, b: math.trunc(a)),
    "exp2": ("exp2(x0)", lambda a, b: 2.0**a),
    "expm1": ("expm1(x0)", lambda a, b: math.expm1(a)),
    "log2": ("log2(add(abs(x0), 1.0))", lambda a, b: math.log2(abs(a) + 1)),
    "log1p": ("log1p(abs(x0))", lambda a, b: math.log1p(abs(a))),
    "sin": ("sin(x0)", lambda a, b: math.sin(a)),
    "cos": ("cos(x0)", lambda a, b: math.cos(a)),
    "where": ("where(x0, x0, x1)", lambda a, b: a if a else b),
    "f64": ("f64(x0)", lambda a, b: a),
}
TESTS = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "logical_and": lambda a, b: bool(a) and bool(b),
    "logical_or": lambda a, b: bool(a) or bool(b),
    "logical_xor": lambda a, b: bool(a) != bool(b),
    "logical_not": lambda a: not a,
    "isnan": lambda a: math.isnan(a),
    "isinf": lambda a: math.isinf(a),
}
BITS = {
    "bitwise_and": lambda a, b: a & b,
    "bitwise_or": lambda a, b: a | b,
    "bitwise_xor": lambda a, b: a ^ b,
    "bitwise_not": lambda a: ~a,
    "shift_left": lambda a, b: a << b,
    "shift_right": lambda a, b: a >> b,
}
INTEGERS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floor_div": lambda a, b: a // b,
    "remainder": lambda a, b: a % b,
    "fmod": lambda a, b: int(math.fmod(a, b)),
    "maximum": max,
    "minimum": min,
    "neg": lambda a: -a,
    "abs": abs,
    "sign": lambda a: (a > 0) - (a < 0),
    "relu": lambda a: max(a, 0),
    "floor": lambda a: a,
}


def test_every_function_is_tested():
    tested = {*MATHEMATICS, *TESTS, *BITS, *CASTS}
    assert set(SCALAR_FUNCTIONS) == tested, "add the new function to MATHEMATICS or its like"


A = [-9, -7, -2, 0, 3, 8, 5, 0, 100]
B = [4, -3, 7, 2, 3, -8, 2, 1, -9]


@pytest.mark.parametrize("name", sorted(BITS | INTEGERS))
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_integers_by_pythons(name, dtype):
    function = (BITS | INTEGERS)[name]
    arity = SCALAR_FUNCTIONS[name].arity
    columns = [torch.tensor(A, dtype=dtype), torch.tensor(B, dtype=dtype)][:arity]
    if "shift" in name:
        columns[1] = columns[1] % 8
    text = f"{name}({', '.join(f'x{i}' for i in range(arity))})"
    found = evaluate(parse_expr(text), tuple(columns))
    assert found.dtype == dtype
    rows = zip(*(c.tolist() for c in columns), strict=True)
    assert found.tolist() == [function(*row) for row in rows]


@pytest.mark.parametrize("name", sorted(TESTS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool])
def test_tests_by_pythons(name, dtype):
    arity = SCALAR_FUNCTIONS[name].arity
    special = [0.0, 1.0, -2.0, math.nan, math.inf]
    pairs = torch.tensor([(a, b) for a in special for b in special])
    pairs = pairs if dtype.is_floating_point else pairs.nan_to_num(3.0, 4.0)
    columns = [pairs[:, i].to(dtype) for i in range(arity)]
    text = f"{name}({', '.join(f'x{i}' for i in range(arity))})"
    found = evaluate(parse_expr(text), tuple(columns))
    rows = zip(*(c.tolist() for c in columns), strict=True)
    assert found.dtype == torch.bool
    assert found.tolist() == [TESTS[name](*row) for row in rows]


@pytest.mark.parametrize("name", CASTS)
def test_casts_are_torchs(name):
    x = torch.tensor([-2.75, 0.0, 0.5, 3.0, 100.25])
    found = evaluate(parse_expr(f"{name}(x0)"), (x if name != "u8" else x.abs(),))
    assert torch.equal(found, (x if name != "u8" else x.abs()).to(torch_dtype(name)))


@pytest.mark.parametrize("name", sorted(SCALAR_FUNCTIONS))
@pytest.mark.parametrize("dtypes", [["f32"], ["f64"], ["i64"], ["i32"], ["bool"], ["i64", "f32"]])
def test_the_dtype_rule_is_torchs(name, dtypes):
    """For each function on each dtype that torch has it for; the second of two is an f32."""
    arity = SCALAR_FUNCTIONS[name].arity
    kinds = (dtypes * 3)[: 1 if name in ("leaky_relu", "elu", "clamp") else arity]
    numbers = ["0.5", "2.0"] if name in ("leaky_relu", "elu") else ["1.0", "2.0"]
    args = [f"x{i}" for i in range(len(kinds))] + numbers[: arity - len(kinds)]
    tree = parse_expr(f"{name}({', '.join(args)})")
    tensors = tuple(torch.ones(2).to(torch_dtype(kind)) for kind in kinds)
    try:
        found = evaluate(tree, tensors)
    except (RuntimeError, NotImplementedError, TypeError):
        return  # not for these in torch
    assert dtype_of(tree, tuple(kinds)) == dtype_name(found.dtype)


@pytest.mark.parametrize(
    ("text", "dtypes", "result"),
    [
        ("add(x0, 1.0)", ["i64"], "i64"),
        ("add(x0, 1.5)", ["i32"], "f32"),
        ("add(x0, 1.0)", ["bool"], "i64"),
        ("add(x0, 1.5)", ["f64"], "f64"),
        ("where(x0, 1.0, 0.0)", ["bool"], "f32"),
        ("where(x0, x1, 0.0)", ["bool", "i32"], "i32"),
        ("mul(f32(x0), x1)", ["i64", "f32"], "f32"),
        ("add(i32(x0), x1)", ["f32", "i64"], "i64"),
        ("lt(x0, x1)", ["i64", "f64"], "bool"),
        ("add(bf16(x0), f16(x0))", ["f64"], "f32"),
    ],
)
def test_promotion(text, dtypes, result):
    assert dtype_of(parse_expr(text), tuple(dtypes)) == result
    tensors = tuple(torch.ones(3).to(torch_dtype(dtype)) for dtype in dtypes)
    assert dtype_name(evaluate(parse_expr(text), tensors).dtype) == result


def test_floats_have_no_bits():
    with pytest.raises(GraphSyntaxError, match="bitwise_and works on bits of integers"):
        dtype_of(parse_expr("bitwise_and(x0, x1)"), ("f32", "i64"))


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
    assert found.dtype == (torch.float64 if name == "f64" else dtype)
    assert found.shape == (2, 3)
    if name != "sign":  # of which torch's gives 0
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
