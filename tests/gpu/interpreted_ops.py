"""Every rule of the GPU on random uses, by triton's interpreter, against the reference.

`test_programs.py` runs it in a process of its own: `TRITON_INTERPRET` is for a whole process.
GPU_CASES: random cases of each strategy.
"""

import os

import pytest
import torch

from sparse_compiler.codegen.gpu.calls import unprintable
from sparse_compiler.codegen.lower import lower
from sparse_compiler.formats.base import FORMATS
from sparse_compiler.ir.expr import parse_expr
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.scalar import CASTS, SCALAR_FUNCTIONS, dtype_of
from tests.codegen.native_modes import modes, use
from tests.gpu import interpreter
from tests.gpu.gpu_uses import BLOCKS, FAMILIES, gpu_uses, uses_in
from tests.ops.cases import Case

interpreter.mend()
COUNT = int(os.environ.get("GPU_CASES", "2"))
DTYPES = sorted(interpreter.TOLERANCES)


def check(uses, dtype: str) -> None:
    assert uses
    found = [problem for item in uses for problem in interpreter.problems(item, dtype)]
    assert not found, found[0]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_op(name: str, dtype: str) -> None:
    check(gpu_uses(name, COUNT), dtype)


@pytest.mark.parametrize("format_", [*FORMATS, *BLOCKS])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_format(format_: str, dtype: str) -> None:
    check(uses_in(format_, COUNT), dtype)


# --- scalar functions -----------------------------------------------------------------------------

NUMBERS = torch.tensor([-30.0, -4.0, -3.0, -1.5, -0.25, -0.0, 0.0, 0.01, 0.5, 1.0, 2.5, 6.5, 25.0])
WHOLE_CONSTANTS = {"pow": "2.0", "shift_left": "3.0", "shift_right": "1.0"}
POSITIVE = {"log", "log2", "log1p", "sqrt", "rsqrt", "reciprocal"}


def expression(name: str) -> str:
    """A use of a function: constants where the front ends give some."""
    arity = SCALAR_FUNCTIONS[name].arity
    given = {"leaky_relu": ["x0", "0.1"], "elu": ["x0", "0.5"], "clamp": ["x0", "-1.0", "6.0"]}
    args = given.get(name, [f"x{i}" for i in range(arity)])
    return f"{name}({', '.join(args)})"


def on_tensors(text: str, inputs) -> None:
    case = Case(Pointwise(text), tuple(inputs))
    rows = [m for m in modes(case) if not any(m.constant)][-1]
    made = use(case, rows, symbolic=False)
    assert made is not None
    check([made], "fp32")


@pytest.mark.parametrize("name", sorted(set(SCALAR_FUNCTIONS) - {"f64"}))
def test_a_function_of_floats(name: str) -> None:
    arity = SCALAR_FUNCTIONS[name].arity
    if SCALAR_FUNCTIONS[name].result == "integer":
        pytest.skip("on bits of integers")
    x = NUMBERS.abs() + 0.01 if name in POSITIVE else NUMBERS.clamp(-10, 10)
    if name == "u8":
        x = x.abs()
    others = [x.roll(3) + 0.75, x.roll(5)]
    on_tensors(expression(name), [x, *others][: 1 if "0." in expression(name) else arity])


@pytest.mark.parametrize("name", sorted(set(SCALAR_FUNCTIONS) - {*CASTS, "where"}))
def test_a_function_of_integers(name: str) -> None:
    arity, x = SCALAR_FUNCTIONS[name].arity, torch.tensor([-9, -7, -2, 1, 3, 8, 5, 2, 100])
    try:
        dtype_of(parse_expr(expression(name)), ("i64",) * arity)
        Pointwise(expression(name)).reference(*[x.abs()] * arity)
    except (RuntimeError, NotImplementedError):
        pytest.skip("torch has none of integers")
    other = x.abs() % 5 + 1 if "shift" in name else torch.tensor([4, -3, 7, 2, 3, -8, 2, 1, -9])
    if name == "pow":
        on_tensors("pow(x0, 3.0)", [x])
        return
    x = x.abs() if name in POSITIVE else x
    on_tensors(expression(name), [x, other][: 1 if "0." in expression(name) else arity])


@pytest.mark.parametrize("power", ["0.0", "1.0", "0.5", "-0.5", "-1.0", "2.2", "5.0", "6.0", "x1"])
def test_a_power(power: str) -> None:
    x = NUMBERS.clamp(-10, 10)
    x = x.abs() + 0.01 if power in ("0.5", "-0.5", "2.2") else x
    inputs = [x, torch.full_like(x, 3.0)] if power == "x1" else [x]
    on_tensors(f"pow(x0, {power})", inputs)
    on_tensors("pow(2.0, x0)", [x])


def test_what_has_no_code_is_told() -> None:
    case = Case(Pointwise("pow(x0, x1)"), (torch.tensor([2]), torch.tensor([3])))
    made = use(case, [m for m in modes(case) if not any(m.constant)][-1], symbolic=False)
    (segment,) = lower(made.graph).segments
    (refused,) = unprintable(segment).values()
    assert "the GPU has no code for pow of i64" in refused.why
