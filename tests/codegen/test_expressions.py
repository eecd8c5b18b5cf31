"""The CPU's code for every scalar function, on vectors and elements: compiled, run, compared with
torch's: in fp64 for vectors, in the same dtype for elements."""

import ctypes
import itertools
from pathlib import Path

import pytest
import torch

from sparse_compiler.codegen.cpu.build import Toolchain, build, load_library, native_width
from sparse_compiler.codegen.cpu.expressions import (
    C_TYPES,
    VECTOR_FUNCTIONS,
    c_type,
    float_literal,
    scalar_code,
    vector_code,
)
from sparse_compiler.errors import CodegenError, GraphSyntaxError
from sparse_compiler.ir.expr import Arg, Call, Const, parse_expr
from sparse_compiler.ir.types import torch_dtype
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
COMPOUND = [
    "pow(x0, x1)",
    "clamp(x0, x1, x0)",
    "where(lt(x0, x1), x0, 1.0)",
    "where(lt(x0, 0.0), lt(x0, x1), gt(x1, 1.0))",
    "mul(lt(x0, x1), x0)",
    "add(lt(x0, x1), lt(x0, 0.0))",
    "mul(lt(x0, x1), logical_not(x0))",
    "maximum(isnan(x0), isinf(x1))",
    "minimum(isnan(x0), ne(x1, x1))",
    "bitwise_and(gt(x0, 0.0), bitwise_not(lt(x1, 1.0)))",
    "bitwise_xor(gt(x0, 0.0), bitwise_or(lt(x1, 1.0), bool(x0)))",
    *(f"{test}(lt(x0, x1), lt(x0, 0.0))" for test in ("eq", "ne", "lt", "le", "gt", "ge")),
]
INTEGERS = {"bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "shift_left", "shift_right"}


def cases() -> list[str]:
    """An expression for each function and set of numbers, and some of several functions."""
    texts = list(COMPOUND)
    for name, function in scalar.SCALAR_FUNCTIONS.items():
        row = VECTOR_FUNCTIONS.get(name)
        if row is None or not row.code:
            continue
        numbers = row.numbers
        tensors = ", ".join(f"x{i % 2}" for i in range(function.arity - len(numbers)))
        for values in NUMBERS.get(name, [()]):
            texts.append(f"{name}({', '.join([tensors, *map(repr, values)])})")
    return texts


def test_every_function_has_code() -> None:
    other_dtypes = set(scalar.CASTS) - {"f32", "bool"}
    shifts = {"shift_left", "shift_right"}
    assert set(VECTOR_FUNCTIONS) == set(scalar.SCALAR_FUNCTIONS) - other_dtypes - shifts
    for name, row in VECTOR_FUNCTIONS.items():
        for code in filter(None, (row.code, row.masks)):
            assert code.count("{}") == scalar.SCALAR_FUNCTIONS[name].arity
        assert (name in NUMBERS) == bool(row.numbers)
        assert bool(row.code) == (name not in INTEGERS)


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
        expected = scalar.evaluate(parse_expr(text), (a, b)).float()
    exact = scalar.evaluate(parse_expr(text), (a.double(), b.double())).double()

    if "mod(" in text or "remainder(" in text:  # torch's own is NaN for subnormal divisors
        normal = b.abs() > 1e-37
        got, expected, exact = got[normal], expected[normal], exact[normal]
        a = a[normal]
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
    with pytest.raises(CodegenError, match="f32 of i64 has no vector code"):
        vector_code(parse_expr("f32(abs(i64(x0)))"), str)
    with pytest.raises(CodegenError, match="elements of c64"):
        scalar_code("F", parse_expr("neg(x0)"), ("c64",), "c64")
    assert vector_code(Const(2.0), str) == "splat(2.0f)"


# --- single elements ------------------------------------------------------------------------------

ELEMENTS = 512
INTEGER_CASTS = ("i64(", "i32(", "i16(", "i8(", "u8(")
MIXED = [
    ("add(x0, x1)", ("i64", "f32")),
    ("mul(x0, 2.5)", ("i32", "i32")),
    ("mul(x0, 2.0)", ("i32", "i32")),
    ("sub(x0, x1)", ("u8", "i8")),
    ("div(x0, x1)", ("i64", "i64")),
    ("where(x0, x1, 0.0)", ("bool", "f32")),
    ("where(gt(x0, x1), x0, x1)", ("i32", "i64")),
    ("logical_and(x0, x1)", ("f32", "i64")),
    ("lt(x0, x1)", ("f32", "i64")),
    ("eq(x0, 1.0)", ("bool", "bool")),
    ("add(x0, x1)", ("bool", "bool")),
    ("f32(add(x0, 1.0))", ("bool", "bool")),
    ("floor_div(x0, 3.0)", ("i64", "i64")),
    ("remainder(x0, -3.0)", ("i64", "i64")),
    ("exp(x0)", ("i8", "i8")),
    ("pow(x0, 0.5)", ("f64", "f64")),
    ("clamp(x0, -3.0, 2.0)", ("f64", "f64")),
    ("clamp(x0, -3.0, 2.0)", ("i8", "i8")),
    ("mul(add(1.0, 2.0), x0)", ("f64", "f64")),
]


def values(dtype: str, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype == "bool":
        return torch.rand(ELEMENTS, generator=generator) < 0.5
    if dtype in ("f32", "f64"):
        x = torch.randn(ELEMENTS, generator=generator, dtype=torch_dtype(dtype)) * 4
        x[:: 7 + seed] = torch.randint(-3, 4, x[:: 7 + seed].shape, generator=generator).to(x)
        x[5 + seed], x[6], x[77 - seed] = torch.nan, torch.inf, -torch.inf
        return x
    limits = torch.iinfo(torch_dtype(dtype))
    x = torch.randint(max(limits.min, -9), 10, (ELEMENTS,), generator=generator)
    x[:8] = torch.tensor([limits.min, limits.max] * 4)
    return x.to(torch_dtype(dtype))


def operands_of(fn: str, dtypes: tuple[str, ...]) -> tuple[torch.Tensor, ...]:
    """Second operands are neither zero nor so large that a power or a shift is a matter of luck."""
    a, b = (values(dtype, seed) for seed, dtype in enumerate(dtypes))
    if fn in ("floor_div", "remainder", "fmod") and not b.is_floating_point():
        b = torch.where(b == 0, torch.ones_like(b), b)
    if fn in ("pow", "shift_left", "shift_right") and dtypes[1] in (
        "i64",
        "i32",
        "i16",
        "i8",
        "u8",
    ):
        b = b % 9
    return a, b


def element_cases() -> list[tuple[str, tuple[str, ...]]]:
    """Every function on every dtype that torch has it for."""
    found = list(MIXED)
    for name, function in scalar.SCALAR_FUNCTIONS.items():
        if name in ("f16", "bf16"):
            continue
        text = f"{name}({', '.join(f'x{i % 2}' for i in range(function.arity))})"
        if name in ("leaky_relu", "elu"):
            text = f"{name}(x0, 0.5)"
        for dtype in C_TYPES:
            try:
                scalar.dtype_of(parse_expr(text), (dtype, dtype))
                scalar.evaluate(parse_expr(text), operands_of(name, (dtype, dtype)))
            except (RuntimeError, TypeError, GraphSyntaxError):
                continue
            found.append((text, (dtype, dtype)))
    return found


ELEMENT_CASES = element_cases()


@pytest.fixture(scope="module")
def elements(kernel_cache: Path) -> ctypes.CDLL:
    """All element cases in one unit: e<i>(a, b, y)."""
    compiler = find_compiler()
    assert compiler is not None
    lines = ['#include "math.h"', "using namespace sc;"]
    for i, (text, dtypes) in enumerate(ELEMENT_CASES):
        result = scalar.dtype_of(parse_expr(text), dtypes)
        lines.append(scalar_code(f"E{i}", parse_expr(text), dtypes, result))
        a, b, y = map(c_type, (*dtypes, result))
        lines.append(
            f'extern "C" void e{i}(const {a}* a, const {b}* b, {y}* y) {{\n'
            f"  for (int i = 0; i < {ELEMENTS}; i++) y[i] = E{i}{{}}(a[i], b[i]);\n}}"
        )
    toolchain = Toolchain((compiler,), kernel_cache, native_width())
    return load_library(build("\n".join(lines), toolchain))


@pytest.mark.parametrize(
    "index", range(len(ELEMENT_CASES)), ids=[f"{t}-{d[0]}-{d[1]}" for t, d in ELEMENT_CASES]
)
def test_elements_agree_with_torch(elements: ctypes.CDLL, index: int) -> None:
    text, dtypes = ELEMENT_CASES[index]
    a, b = operands_of(text.split("(")[0], dtypes)
    with torch.backends.mkldnn.flags(enabled=False):  # as above
        expected = scalar.evaluate(parse_expr(text), (a, b))
    dtype = scalar.dtype_of(parse_expr(text), dtypes)
    got = torch.empty(ELEMENTS, dtype=torch_dtype(dtype))
    elements[f"e{index}"](*(ctypes.c_void_p(t.data_ptr()) for t in (a, b, got)))
    if text.startswith(INTEGER_CASTS) and a.is_floating_point():
        inside = (a >= 0) & (a < 100)  # what C++ does not define, torch does not either
        got, expected = got[inside], expected[inside]
    rtol = 1e-12 if dtype == "f64" else 2e-6
    torch.testing.assert_close(got, expected.to(got), rtol=rtol, atol=rtol, equal_nan=True)
