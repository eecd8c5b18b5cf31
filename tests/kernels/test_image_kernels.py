"""Depthwise convolution and pooling on planes against torch.

The tails of all planes hold NaN, which must reach nothing; image_sanitize.cpp runs odd shapes under
the sanitizers on buffers without slack.
"""

from __future__ import annotations

import ctypes
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.kernels.images import (
    Adaptive,
    Window,
    check,
    image_libraries,
    images_of,
    leading,
    lib,
    result_like,
    rows,
    run,
    width_of,
)
from tests.kernels.native import for_each, planes

__all__ = ["image_libraries", "lib"]  # fixtures

INF = math.inf


# ---- windows ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A window on [samples, channels, *size]; each property has one entry for each of its dims."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pad: tuple[int, ...]
    samples: int = 1
    channels: int = 3
    multiplier: int = 1
    threads: int = 2
    transposed: bool = False

    def window(self, out: Sequence[int]) -> Window:
        return Window(
            self.samples, leading(self.size), leading(out), leading(self.kernel),
            leading(self.stride), leading(self.dilation), leading(self.pad, 0), self.transposed,
        )  # fmt: skip

    def image(self) -> Tensor:
        return torch.randn(self.samples, self.channels, *self.size)


def square(size: int, kernel: int, stride: int = 1, **more: int) -> Case:
    return Case((size,) * 2, (kernel,) * 2, (stride,) * 2, (1, 1), (kernel // 2,) * 2, **more)


NAMED = [
    *(square(size, kernel, stride, channels=4)
      for size in (7, 14, 28, 56) for kernel in (3, 5, 7) for stride in (1, 2)),
    square(112, 3), square(112, 3, 2), square(113, 3, 2), square(1, 3), square(2, 7, 2),
    square(7, 3, samples=3), square(14, 3, 2, samples=5, threads=1), square(4, 11), square(9, 31),
    square(30, 9, 2), square(17, 4, 3),
    Case((500,), (31,), (1,), (1,), (15,)), Case((101,), (5,), (2,), (3,), (4,), samples=2),
    Case((6, 9, 11), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), samples=2),
    Case((7, 8, 9), (3, 2, 3), (2, 2, 2), (1, 2, 1), (1, 1, 0)),
    Case((8, 300), (3, 3), (1, 1), (1, 1), (1, 1)),
]  # fmt: skip


def random_case(seed: int) -> Case:
    """Any window that has an output, of 1 to 3 dims."""
    pick = random.Random(seed)
    rank = pick.choice((1, 2, 2, 2, 3))
    while True:
        size, kernel, stride, dilation, pad = (
            tuple(pick.randint(low, high) for _ in range(rank))
            for low, high in ((1, 24), (1, 7), (1, 3), (1, 3), (0, 4))
        )
        spare = [
            s + 2 * p - d * (k - 1) - 1
            for s, k, d, p in zip(size, kernel, dilation, pad, strict=True)
        ]
        if min(spare) >= 0:
            break
    return Case(
        size, kernel, stride, dilation, pad,
        samples=pick.choice((1, 1, 2, 5)), channels=pick.choice((1, 2, 3, 8)),
        multiplier=pick.choice((1, 1, 2)), threads=pick.choice((1, 2, 3)),
    )  # fmt: skip


CASES = [*NAMED, *map(random_case, range(40))]


def convolve(case: Case, x: Tensor, weight: Tensor) -> Tensor:
    convs = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
    turned = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
    function = (turned if case.transposed else convs)[len(case.size)]
    return function(
        x.double(), weight.double(), stride=case.stride, padding=case.pad,
        dilation=case.dilation, groups=case.channels,
    )  # fmt: skip


def run_depthwise(lib: ctypes.CDLL, case: Case, x: Tensor, weight: Tensor) -> None:
    want = convolve(case, x, weight)
    add = planes(torch.randn(rows(want).shape))
    got = result_like(want)
    source = planes(rows(x))
    count = case.channels * case.multiplier
    run(
        lib.depthwise, case.threads, weight, count, case.multiplier, case.window(want.shape[2:]),
        source, source.shape[1], add, got, got.shape[1],
    )  # fmt: skip
    plain = want.float()
    want = plain + images_of(add, want)
    check(got, want, width_of(lib))
    in_place = add  # the residual's own planes
    run(
        lib.depthwise, case.threads, weight, count, case.multiplier, case.window(want.shape[2:]),
        source, source.shape[1], in_place, in_place, got.shape[1],
    )  # fmt: skip
    torch.testing.assert_close(images_of(in_place, want), want, rtol=1e-5, atol=1e-5)
    run_direct(lib, case, source, weight, plain)


def run_direct(
    lib: ctypes.CDLL, case: Case, source: Tensor, weight: Tensor, want: Tensor
) -> Tensor:
    """The kernel for the usual windows: exactly those have it. What it computed."""
    add, got = planes(torch.randn(rows(want).shape)), result_like(want)
    known = run(
        lib.depthwise_direct, case.threads, weight, case.channels * case.multiplier,
        case.multiplier, case.window(want.shape[2:]), source, source.shape[1], add, got,
        got.shape[1],
    )  # fmt: skip
    if len(case.size) == 2 and not case.transposed and case.kernel[0] in (3, 5, 7):
        assert known == (case.stride in ((1, 1), (2, 2)) and case.dilation == (1, 1))
    if known:
        check(got, want + images_of(add, want), width_of(lib))
    return got


@for_each("case", CASES)
@for_each("density", [1.0, 0.3])
def test_depthwise(lib: ctypes.CDLL, case: Case, density: float) -> None:
    weight = torch.randn(case.channels * case.multiplier, 1, *case.kernel)
    weight *= torch.rand_like(weight) < density
    run_depthwise(lib, case, case.image(), weight)


@for_each("seed", range(25))
def test_transposed_depthwise(lib: ctypes.CDLL, seed: int) -> None:
    case = replace(random_case(seed), transposed=True, multiplier=1)
    weight = torch.randn(case.channels, 1, *case.kernel)
    sizes = [
        (s - 1) * t - 2 * p + d * (k - 1) + 1
        for s, t, p, d, k in zip(
            case.size, case.stride, case.pad, case.dilation, case.kernel, strict=True
        )
    ]
    if min(sizes) < 1:
        case = replace(case, pad=(0,) * len(case.size))
    run_depthwise(lib, case, case.image(), weight)


def test_depthwise_zero_taps_ignore_nan(lib: ctypes.CDLL) -> None:
    """A zero is absent where it is skipped; elsewhere NaN and infinities go through as in torch."""
    case = square(9, 3, channels=1)
    x = case.image()
    x[0, 0, 4, 4], x[0, 0, 0, 8] = math.nan, INF
    weight = torch.randn(1, 1, 3, 3)
    want = convolve(case, x, weight).float()
    got = result_like(want)
    source = planes(rows(x))
    run(
        lib.depthwise, 1, weight, 1, 1, case.window((9, 9)), source, source.shape[1], None,
        got, got.shape[1],
    )  # fmt: skip
    check(got, want, width_of(lib))


# ---- pools --------------------------------------------------------------------------------------


def pool_case(case: Case) -> Case:
    """As a pool: padding at most half of the kernel."""
    pad = tuple(min(p, k // 2) for p, k in zip(case.pad, case.kernel, strict=True))
    kernel = tuple(min(k, s) for k, s in zip(case.kernel, case.size, strict=True))
    pad = tuple(min(p, k // 2) for p, k in zip(pad, kernel, strict=True))
    dilation = tuple(
        1 if (k - 1) * d >= s else d
        for k, d, s in zip(kernel, case.dilation, case.size, strict=True)
    )
    return replace(case, pad=pad, kernel=kernel, dilation=dilation)


POOLS = [
    pool_case(case)
    for case in (
        square(112, 3, 2), square(113, 3, 2), square(56, 2, 2), square(13, 5, samples=2),
        square(20, 13), square(19, 9, channels=8, threads=1), *map(random_case, range(100, 130)),
    )
]  # fmt: skip


@for_each("case", POOLS)
@for_each("ceil", [False, True])
def test_max_pool(lib: ctypes.CDLL, case: Case, ceil: bool) -> None:
    x = case.image() - 3  # so that padding by zeros would be seen
    x.view(-1)[:: max(7, x.numel() // 5)] = math.nan
    x.view(-1)[3 :: max(11, x.numel() // 7)] = -INF
    pools = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
    want = pools[len(case.size)](x, case.kernel, case.stride, case.pad, case.dilation, ceil)
    source, got = planes(rows(x)), result_like(want)
    run(
        lib.max_pool, case.threads, case.channels, case.window(want.shape[2:]), source,
        source.shape[1], None, got, got.shape[1],
    )  # fmt: skip
    check(got, want, width_of(lib), 0)


@for_each("case", POOLS)
@for_each("ceil", [False, True])
@for_each("include_pad,divisor", [(False, 0), (True, 0), (True, 5)])
def test_avg_pool(
    lib: ctypes.CDLL, case: Case, ceil: bool, include_pad: bool, divisor: int
) -> None:
    case = replace(case, dilation=(1,) * len(case.size))
    x = case.image()
    if len(case.size) == 1:
        divisor = 0  # torch's has none
        want = F.avg_pool1d(x, case.kernel, case.stride, case.pad, ceil, include_pad)
    else:
        pool = F.avg_pool2d if len(case.size) == 2 else F.avg_pool3d
        want = pool(x, case.kernel, case.stride, case.pad, ceil, include_pad, divisor or None)
    source, got = planes(rows(x)), result_like(want)
    run(
        lib.avg_pool, case.threads, case.channels, case.window(want.shape[2:]), source,
        source.shape[1], None, got, got.shape[1], int(include_pad), divisor,
    )  # fmt: skip
    check(got, want, width_of(lib))


ADAPTIVE = [
    ((7, 7), (1, 1)), ((14, 14), (7, 7)), ((13, 9), (6, 6)), ((5, 5), (7, 7)), ((30,), (7,)),
    ((197,), (1,)), ((4, 9, 5), (2, 4, 3)), ((4, 9, 5), (1, 1, 1)), ((56, 56), (1, 1)),
    ((300, 300), (1, 1)), ((1, 1), (1, 1)), ((1, 1), (3, 3)), ((60, 3), (1, 3)),
]  # fmt: skip


@for_each("size,out", ADAPTIVE)
@for_each("samples", [1, 2, 19])
@for_each("mean", [False, True])
def test_adaptive_pool(
    lib: ctypes.CDLL, size: tuple[int, ...], out: tuple[int, ...], samples: int, mean: bool
) -> None:
    x = torch.randn(samples, 3, *size) + 1
    if samples == 2:
        x.view(-1)[5 % x.numel()] = math.nan
        x.view(-1)[-1] = -INF
    means = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
    tops = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}
    want = means[len(size)](x, out) if mean else tops[len(size)](x, out)
    shape = Adaptive(samples, leading(size), leading(out))
    source, got = planes(rows(x)), result_like(want)
    run(
        lib.adaptive_pool, 2, int(mean), 3, shape, source, source.shape[1], None, got,
        got.shape[1],
    )  # fmt: skip
    check(got, want, width_of(lib), 2e-6 if mean else 0)
