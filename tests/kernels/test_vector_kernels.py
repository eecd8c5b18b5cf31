"""The vector kernels (math, relayout, pointwise, norm, softmax) against float64.

Each width is one library built from vector_kernels.cpp; vector_sanitize.cpp runs odd sizes under
the address and undefined-behaviour sanitizers on buffers without slack.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.kernels.native import call, for_each, planes, row_stride

INF = math.inf


# ---- elementwise functions ----------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    name: str
    reference: Callable[[Tensor], Tensor]
    low: float = -100.0
    high: float = 100.0
    relative: float = 4e-7
    absolute: float = 1.2e-38
    scaled_by_x: float = 0.0  # an absolute error that grows with |x|
    scalars: tuple[float, float, float] = (0.0, 0.0, 0.0)
    minus_inf: float | None = None  # where the limit differs from the reference formula's value
    plus_inf: float | None = None


def mish(x: Tensor) -> Tensor:
    return x * torch.tanh(F.softplus(x))


def power(exponent: float, low: float = 0.0) -> Case:
    return Case("pow", lambda x: torch.pow(x, exponent), low, scalars=(exponent, 0, 0))


CASES = [
    Case("exp", torch.exp, -104, 89, absolute=1e-44),
    Case("exp_nonpositive", torch.exp, -10, 0, 5e-7, plus_inf=1.0, minus_inf=0.0),
    Case("exp_nonpositive", torch.exp, -200, 0, 1.7e-6, 1.3e-38, plus_inf=1.0, minus_inf=0.0),
    Case("exp2", torch.exp2, -149, 128, absolute=1e-44),
    Case("expm1", torch.expm1, -30, 89),
    Case("expm1", torch.expm1, -1, 1),
    Case("log", torch.log, 0, 1e38, absolute=0),
    Case("log", torch.log, 0, 3, absolute=0),
    Case("log2", torch.log2, 0, 1e38, 5e-7, 0),
    Case("log2", torch.log2, 0, 3, 5e-7, 0),
    Case("log1p", torch.log1p, -1, 1),
    Case("log1p", torch.log1p, 0, 1e30),
    Case("erf", torch.erf, -6, 6),
    Case("tanh", torch.tanh, -20, 20),
    Case("sigmoid", torch.sigmoid),
    Case("silu", F.silu, absolute=4e-37),
    Case("gelu", F.gelu, -20, 20, 0, 2.5e-7, 2.5e-7, plus_inf=INF, minus_inf=math.nan),
    Case("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), -20, 20, 0, 2.5e-7, 2.5e-7,
         minus_inf=math.nan),
    Case("relu", F.relu, relative=0, absolute=0),
    Case("relu6", F.relu6, relative=0, absolute=0),
    Case("hardtanh", lambda x: F.hardtanh(x, -0.5, 2.0), scalars=(-0.5, 2.0, 0), relative=0),
    Case("hardswish", F.hardswish, -10, 10),
    Case("hardsigmoid", F.hardsigmoid, -10, 10),
    Case("mish", mish, -80, 80, absolute=1e-37),
    Case("softplus", lambda x: F.softplus(x, 1.0, 20.0), scalars=(1, 20, 0)),
    Case("softplus", lambda x: F.softplus(x, 1.0, 20.0), -3, 3, scalars=(1, 20, 0)),
    Case("softplus", lambda x: F.softplus(x, 2.0, 5.0), scalars=(2, 5, 0)),
    Case("leaky_relu", lambda x: F.leaky_relu(x, 0.125), scalars=(0.125, 0, 0), relative=0),
    Case("elu", F.elu, scalars=(1, 1, 1)),
    Case("elu", lambda x: F.elu(x, 0.5), -1, 1, scalars=(0.5, 1, 1)),
    Case("sqrt", torch.sqrt, 0, 1e9, relative=6e-8),
    Case("rsqrt", torch.rsqrt, 0, 1e9, relative=1.5e-7),
    Case("reciprocal", torch.reciprocal, relative=6e-8),
    Case("abs", torch.abs, relative=0),
    Case("neg", torch.neg, relative=0),
    Case("sign", torch.sign, relative=0),
    Case("remainder", lambda x: torch.remainder(x, -2.5), scalars=(-2.5, 0, 0)),
    Case("floor_div", lambda x: torch.floor_divide(x, 2.5), scalars=(2.5, 0, 0), relative=0),
    Case("sin", torch.sin, -10, 10, relative=0, absolute=1.2e-7, plus_inf=math.nan),
    Case("sin", torch.sin, -32000, 32000, relative=0, absolute=1.2e-7, plus_inf=math.nan),
    Case("sin", torch.sin, -1e6, 1e6, relative=0, absolute=1.2e-7, plus_inf=math.nan),
    Case("cos", torch.cos, -10, 10, relative=0, absolute=1.2e-7, plus_inf=math.nan),
    Case("cos", torch.cos, -32000, 32000, relative=0, absolute=1.2e-7, plus_inf=math.nan),
    Case("floor", torch.floor, relative=0),
    Case("ceil", torch.ceil, relative=0),
    Case("trunc", torch.trunc, relative=0),
    Case("round", torch.round, relative=0),
    power(2.0, -100), power(3.0, -100), power(7.0, -100), power(20.0, -50), power(0.0, -100),
    power(-1.0, -100), power(-2.0, -100), power(0.5), power(-0.5), power(1.5), power(0.25),
    power(-2.75),
    Case("clamp", lambda x: torch.clamp(x, -3.0, 7.0), scalars=(-3, 7, 0), relative=0),
    Case("maximum", lambda x: torch.clamp_min(x, 2.0), scalars=(2, 0, 0), relative=0),
    Case("maximum_left", lambda x: torch.clamp_min(x, 2.0), scalars=(2, 0, 0), relative=0),
    Case("minimum", lambda x: torch.clamp_max(x, 2.0), scalars=(2, 0, 0), relative=0),
    Case("minimum_left", lambda x: torch.clamp_max(x, 2.0), scalars=(2, 0, 0), relative=0),
]  # fmt: skip


def apply_map(
    lib: ctypes.CDLL, name: str, x: Tensor, scalars: tuple[float, float, float]
) -> Tensor:
    source = planes(x)
    out = torch.zeros_like(source)
    rows, ld = source.shape
    function = getattr(lib, f"map_{name}")
    call(function, source, out, rows, x.shape[1], ld, *map(float, scalars))
    return out[:, : x.shape[1]]


def worst(got: Tensor, want: Tensor, x: Tensor, case: Case) -> float:
    """The largest error as a multiple of the case's tolerance."""
    absolute = torch.maximum(case.scaled_by_x * x.abs(), torch.tensor(case.absolute))
    tolerance = case.relative * want.abs() + absolute
    error = (got.double() - want).abs()
    return float(torch.where(error == 0, 0.0, error / tolerance.clamp_min(1e-300)).max())


@for_each("case", CASES)
def test_function_against_float64(lib: ctypes.CDLL, case: Case) -> None:
    spread = torch.linspace(0, 1, 20 * 499, dtype=torch.float64)
    x = (case.low + (case.high - case.low) * spread).float()
    small = torch.logspace(-30, 2, 9 * 499, dtype=torch.float64).float()
    both = torch.cat([small, -small])
    x = torch.cat([x, both[(both >= case.low) & (both <= case.high)], torch.zeros(1)])
    x = F.pad(x, (0, -len(x) % 13), value=case.high).view(13, -1)  # odd row lengths on purpose
    got = apply_map(lib, case.name, x, case.scalars)
    want = case.reference(x.double())
    huge = want.abs() > 3.4028e38  # float32 overflows
    assert torch.equal(got[huge], want[huge].float())
    assert torch.equal(got.isnan(), want.isnan())
    fine = ~huge & ~want.isnan()
    factor = worst(got[fine], want[fine], x[fine].double(), case)
    assert factor <= 1, f"{case.name}: error is {factor:.2f} times the stated one"


@for_each("case", CASES)
def test_function_at_nan_and_infinities(lib: ctypes.CDLL, case: Case) -> None:
    x = torch.tensor([[math.nan, -INF, INF, -0.0, 0.0, 1.0]])
    if case.name == "exp_nonpositive":
        x[0, 2] = 0.0
    got = apply_map(lib, case.name, x, case.scalars)
    want = case.reference(x.double()).float()
    want[0, 1] = want[0, 1] if case.minus_inf is None else case.minus_inf
    want[0, 2] = want[0, 2] if case.plus_inf is None else case.plus_inf
    torch.testing.assert_close(got, want, equal_nan=True, rtol=3e-7, atol=2e-7)
    zeros = torch.signbit(got) == torch.signbit(want)
    assert bool(zeros[0, 3:][want[0, 3:] == 0].all()), "the sign of zero"


def test_comparison_is_a_float(lib: ctypes.CDLL) -> None:
    x = torch.tensor([[-1.0, 2.0, 3.0, math.nan]])
    assert apply_map(lib, "below", x, (2.5, 0, 0)).tolist() == [[1, 1, 0, 0]]


def test_pointwise_covers_every_shape(lib: ctypes.CDLL) -> None:
    for rows, n in ((1, 1), (1, 7), (3, 16), (5, 17), (2, 49), (1, 197), (40, 33)):
        x = torch.randn(rows, n)
        assert torch.equal(apply_map(lib, "neg", x, (0, 0, 0)), -x), (rows, n)


# ---- relayout -----------------------------------------------------------------------------------


class Strided(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_int64 * 3),
        ("stride", ctypes.c_int64 * 3),
        ("column_stride", ctypes.c_int64),
    )


def strided(size: tuple[int, ...], stride: tuple[int, ...], column: int) -> Strided:
    return Strided((ctypes.c_int64 * 3)(*size), (ctypes.c_int64 * 3)(*stride), column)


@for_each("n", [1, 7, 16, 17, 49, 197])
@for_each("channels", [1, 5, 16, 80, 131])
def test_rows_and_planes(lib: ctypes.CDLL, n: int, channels: int) -> None:
    x = torch.randn(n, channels + 3)[:, :channels]
    out = torch.full((channels, row_stride(n)), 7.0)
    call(lib.rows_to_planes, x, x.stride(0), n, channels, out, out.shape[1])
    assert torch.equal(out[:, :n], x.T)
    assert bool((out[:, n:] == 7).all()), "columns of a neighbour were written"
    back = torch.full((n, channels + 2), 7.0)
    call(lib.planes_to_rows, out, out.shape[1], n, channels, back, back.shape[1])
    assert torch.equal(back[:, :channels], x)
    assert bool((back[:, channels:] == 7).all())


@for_each("order", [(0, 1, 2), (0, 2, 1), (2, 0, 1), (1, 2, 0)])
@for_each("n", [1, 17, 49])
def test_strided_tensors(lib: ctypes.CDLL, order: tuple[int, ...], n: int) -> None:
    # [3, 2, 20, n] logically, stored in several orders: heads, masks, transposed features
    size = (3, 2, 20)
    for column_place in range(4):
        dims = [*order[:column_place], 3, *order[column_place:]]
        memory = torch.randn([(*size, n)[d] for d in dims])
        x = memory.permute([dims.index(d) for d in range(4)])
        s = strided(size, x.stride()[:3], x.stride(3))
        out = torch.full((120, row_stride(n)), 7.0)
        call(lib.strided_to_planes, memory, s, n, out, out.shape[1])
        assert torch.equal(out[:, :n], x.reshape(120, n)), dims
        assert bool((out[:, n:] == 7).all())
        back = torch.zeros_like(memory)
        call(lib.planes_to_strided, out, out.shape[1], n, s, back)
        assert torch.equal(back, memory), dims


def test_bool_mask_becomes_additive(lib: ctypes.CDLL) -> None:
    visible = torch.rand(2, 1, 9, 19) > 0.5  # [B, 1, queries, keys] -> rows (b, head, key)
    s = strided((2, 4, 19), (visible.stride(0), 0, visible.stride(3)), visible.stride(2))
    out = torch.zeros(2 * 4 * 19, row_stride(9))
    call(lib.bool_to_planes, visible, s, 9, out, out.shape[1])
    want = torch.zeros(2, 1, 9, 19).masked_fill(~visible, -INF).transpose(2, 3).expand(2, 4, 19, 9)
    assert torch.equal(out[:, :9].view(2, 4, 19, 9), want)


# ---- norms and softmax --------------------------------------------------------------------------


@for_each("rms", [0, 1])
@for_each("keep", ["nothing", "sum", "sum is y", "y is x"])
@for_each("channels,n", [(1, 5), (7, 16), (64, 17), (768, 49), (100, 197)])
def test_norms(lib: ctypes.CDLL, rms: int, keep: str, channels: int, n: int) -> None:
    x, residual = torch.randn(channels, n) * 3 + 50, torch.randn(channels, n)
    gamma, beta = torch.randn(channels), torch.randn(channels)
    source = planes(x)
    out = source if keep == "y is x" else torch.zeros_like(source)
    kept = {"sum": torch.zeros_like(source), "sum is y": out}.get(keep)
    ld = source.shape[1]
    eps = 1e-5
    call(lib.norm, rms, channels, n, eps, source, planes(residual), ld, gamma, beta, kept, out)
    total = (x + residual).double()  # the sum is rounded once, as in an eager model
    center = total if rms else total - total.mean(0)
    want = center / (center.square().mean(0) + eps).sqrt() * gamma[:, None] + beta[:, None]
    if rms:
        floor = F.rms_norm(total.float().T, (channels,), gamma, eps).T + beta[:, None]
    else:
        floor = F.layer_norm(total.float().T, (channels,), gamma, beta, eps).T
    error = float((out[:, :n] - want).abs().max())
    assert error <= 2 * float((floor - want).abs().max()) + 1e-6
    if keep == "sum":
        assert kept is not None
        assert torch.equal(kept[:, :n], x + residual)


@for_each("log", [0, 1])
@for_each("rows,n", [(1, 1), (5, 7), (49, 16), (197, 17), (64, 49), (10, 197)])
def test_softmax(lib: ctypes.CDLL, log: int, rows: int, n: int) -> None:
    x = torch.randn(rows, n) * 10
    if rows > 1:
        x[0, 0] = -INF
        x[1, n // 2] = math.nan
        x[:, n - 1] = -INF
    source = planes(x)
    out = torch.full_like(source, 7.0)
    call(lib.softmax, log, rows, n, source, source.shape[1], out)
    want = torch.log_softmax(x.double(), 0) if log else torch.softmax(x.double(), 0)
    absolute = 4e-6 if log else 5e-7  # log-softmax rounds its input, of up to 40, twice
    torch.testing.assert_close(out[:, :n].double(), want, equal_nan=True, rtol=1e-6, atol=absolute)
    assert bool((out[:, n:] == 7).all()), "columns of a neighbour were written"
