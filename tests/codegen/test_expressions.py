"""The CPU's row for every scalar function: compiled, run, compared with torch's in fp64."""

import ctypes
import itertools
from pathlib import Path

import pytest
import torch

from sparse_compiler.codegen.cpu.build import Toolchain, build, load_library, native_width
from sparse_compiler.codegen.cpu.expressions import VECTOR_FUNCTIONS, float_literal, vector_code
from sparse_compiler.errors import CodegenError
from sparse_compiler.ir.expr import Arg, Call, Const, parse_expr
from sparse_compiler.ops import scalar
from sparse_compiler.options import find_compiler

SPECIAL = [0.0, -0.0, 1.0, -1.0, torch.inf, -torch.inf, torch.nan, 1e-42, 3e38, -3e38, 88.0, -104.0]
# Arguments that are numbers in the code, by function; two functions round more than 1e-6.
NUMBERS = {
    "pow": [(e,) for e in (1.0, 2.0, 3.0, 0.5, -0.5, -1.0, -3.0, 7.0, 0.3, 0.0)],
    "clamp": [(-0.5, 2.0), (-torch.inf, 1.0), (2.0, -2.0)],
    "leaky_relu": [(0.01,), (-0.5,)],
    "elu": [(1.0,), (0.3,)],
}
TOLERANCE = 2e-6


def cases() -> list[str]:
    """An expression for each function and set of numbers; two for what takes two tensors."""
    texts = []
    for name, function in scalar.SCALAR_FUNCTIONS.items():
        numbers = VECTOR_FUNCTIONS[name].numbers
        tensors = ", ".join(f"x{i}" for i in range(function.arity - len(numbers)))
        for values in NUMBERS.get(name, [()]):
            texts.append(f"{name}({', '.join([tensors, *map(repr, values)])})")
    return texts


def test_every_function_has_code() -> None:
    assert set(VECTOR_FUNCTIONS) == set(scalar.SCALAR_FUNCTIONS)
    for name, function in scalar.SCALAR_FUNCTIONS.items():
        assert VECTOR_FUNCTIONS[name].code.count("{}") == function.arity
        assert (name in NUMBERS) == bool(VECTOR_FUNCTIONS[name].numbers)


@pytest.fixture(scope="module")
def library(kernel_cache: Path) -> ctypes.CDLL:
    """All cases in one unit: f<i>(a, b, y, n)."""
    compiler = find_compiler()
    assert compiler is not None
    lines = ['#include "math.h"', "using namespace sc;"]
    for i, text in enumerate(cases()):
        code = vector_code(parse_expr(text), lambda k: "ab"[k])
        lines.append(
            f'extern "C" void f{i}(const float* pa, const float* pb, float* y, int64_t n) {{\n'
            "  for (int64_t k = 0; k < n; k += W) {\n"
            "    const V a = load(pa + k), b = load(pb + k); (void)a, (void)b;\n"
            f"    store(y + k, {code});\n  }}\n}}"
        )
    toolchain = Toolchain((compiler,), kernel_cache, native_width())
    return load_library(build("\n".join(lines), toolchain))


def operands() -> tuple[torch.Tensor, torch.Tensor]:
    """All pairs of special values, and many ordinary ones; a multiple of 16."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.tensor(list(itertools.product(SPECIAL, SPECIAL)), dtype=torch.float32)
    ordinary = torch.randn(4096 - len(pairs), 2, generator=generator) * 4
    both = torch.cat([pairs, ordinary]).T.contiguous()
    return both[0], both[1]


@pytest.mark.parametrize("index", range(len(cases())), ids=cases())
@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_code_agrees_with_the_reference(library: ctypes.CDLL, index: int) -> None:
    text = cases()[index]
    a, b = operands()
    got = torch.empty_like(a)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (a, b, got)]
    library[f"f{index}"](*pointers, ctypes.c_int64(a.numel()))
    with torch.backends.mkldnn.flags(enabled=False):  # whose gelu(inf) is NaN; torch's own is inf
        expected = scalar.evaluate(parse_expr(text), (a, b))
    exact = scalar.evaluate(parse_expr(text), (a.double(), b.double()))

    assert torch.equal(got.isnan(), expected.isnan()), a[got.isnan() != expected.isnan()]
    infinite = expected.isinf()
    assert torch.equal(got[infinite], expected[infinite])
    # a result that fp64 holds and fp32 does not may round either way
    finite = expected.isfinite() & (exact.abs() < 3.2e38)
    assert got[finite].isfinite().all()
    scale = exact[finite].abs().clamp(min=1e-37)
    if "gelu" in text:
        scale = a[finite].double().abs().clamp(min=1.0)  # its stated error is absolute
    error = (got[finite].double() - exact[finite]).abs() / scale
    assert error.max() < TOLERANCE, a[finite][error.argmax()]


@pytest.mark.parametrize(
    "value", [0.0, -0.0, 1.0, 0.1, 1e-45, 3.4e38, 1e39, -1e39, 1e-60, torch.inf, 2.0**24 + 1]
)
def test_literals_are_the_nearest_fp32(value: float) -> None:
    text = float_literal(value)
    infinity = "__builtin_inff()"
    number = float(text.replace(infinity, "inf") if infinity in text else text.rstrip("f"))
    nearest = torch.tensor(value, dtype=torch.float64).float()
    assert torch.equal(torch.tensor(number).float(), nearest)


def test_nan_is_a_literal() -> None:
    assert "nan" in float_literal(torch.nan)


def test_what_has_no_code_is_refused() -> None:
    with pytest.raises(CodegenError, match="'cosh'"):
        vector_code(Call("cosh", (Arg(0),)), str)
    with pytest.raises(CodegenError, match="argument 1 of pow must be a number"):
        vector_code(Call("pow", (Arg(0), Arg(1))), str)
    assert vector_code(Const(2.0), str) == "splat(2.0f)"
