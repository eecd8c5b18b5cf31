"""Resampling, reductions along and across planes, group norm against torch.

The tails of all planes hold NaN, which must reach nothing; image_sanitize.cpp runs odd shapes under
the sanitizers on buffers without slack.
"""

from __future__ import annotations

import ctypes
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.kernels.images import (
    Resample,
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

# ---- resampling ---------------------------------------------------------------------------------

RESAMPLE = [
    ((7, 7), (14, 14)), ((16, 20), (32, 40)), ((5, 9), (5, 9)), ((5, 9), (13, 4)), ((1, 1), (3, 5)),
    ((33, 17), (99, 51)), ((10, 300), (20, 600)), ((30,), (71,)), ((40,), (80,)), ((9,), (1,)),
    ((14, 14), (7, 7)),
]  # fmt: skip
NEAREST = [*RESAMPLE, ((3, 5, 7), (6, 10, 14)), ((3, 5, 7), (4, 2, 9))]
FACTORS = [((7, 9), (2.0, 2.0)), ((13, 8), (1.7, 2.3)), ((20, 20), (0.6, 0.45)), ((31,), (2.6,))]


def resample(lib: ctypes.CDLL, name: str, x: Tensor, want: Tensor, factor: int | tuple[float, ...],
             flag: bool) -> None:  # fmt: skip
    scale = (0.0,) * 3 if isinstance(factor, int) else (0.0,) * (3 - len(factor)) + factor
    shape = Resample(
        x.shape[0], leading(x.shape[2:]), leading(want.shape[2:]), (ctypes.c_double * 3)(*scale)
    )
    source, got = planes(rows(x)), result_like(want)
    run(
        getattr(lib, name), 2, x.shape[1], shape, int(flag), source, source.shape[1], None, got,
        got.shape[1],
    )  # fmt: skip
    check(got, want, width_of(lib), 0 if name == "nearest" else 2e-5)


@for_each("size,out", NEAREST)
@for_each("mode", ["nearest", "nearest-exact"])
@for_each("samples", [1, 3])
def test_upsample_nearest(
    lib: ctypes.CDLL, size: tuple[int, ...], out: tuple[int, ...], mode: str, samples: int
) -> None:
    x = torch.randn(samples, 3, *size)
    want = F.interpolate(x, out, mode=mode)
    resample(lib, "nearest", x, want, 0, mode == "nearest-exact")


@for_each("size,out", RESAMPLE)
@for_each("align", [False, True])
@for_each("samples", [1, 3])
def test_upsample_bilinear(
    lib: ctypes.CDLL, size: tuple[int, ...], out: tuple[int, ...], align: bool, samples: int
) -> None:
    x = torch.randn(samples, 3, *size)
    mode = "bilinear" if len(size) == 2 else "linear"
    want = F.interpolate(x, out, mode=mode, align_corners=align)
    resample(lib, "bilinear", x, want, 0, align)


@for_each("size,factor", FACTORS)
@for_each("mode", ["nearest", "nearest-exact", "linear"])
def test_upsample_by_factor(
    lib: ctypes.CDLL, size: tuple[int, ...], factor: tuple[float, ...], mode: str
) -> None:
    """A factor that was given counts, not the ratio of the sizes."""
    x = torch.randn(2, 3, *size)
    if mode != "linear":
        want = F.interpolate(x, scale_factor=factor, mode=mode)
        return resample(lib, "nearest", x, want, factor, mode == "nearest-exact")
    mode = "bilinear" if len(size) == 2 else "linear"
    want = F.interpolate(x, scale_factor=factor, mode=mode, align_corners=False)
    return resample(lib, "bilinear", x, want, factor, False)


# ---- reductions ---------------------------------------------------------------------------------

FOLDS = {"sum": 0, "mean": 0, "max": 1, "min": 2}


def fold(x: Tensor, name: str, dim: int | tuple[int, ...]) -> Tensor:
    if name in ("sum", "mean"):
        return (x.double().sum(dim) if name == "sum" else x.double().mean(dim)).float()
    return x.amax(dim) if name == "max" else x.amin(dim)


@for_each("name", FOLDS)
@for_each("samples,per", [(1, 1), (1, 7), (3, 49), (20, 49), (2, 197), (1, 9000)])
@for_each("special", [False, True])
def test_reduce_columns(lib: ctypes.CDLL, name: str, samples: int, per: int, special: bool) -> None:
    x = torch.randn(samples, 5, per) + 2
    if special:
        x[0, 1, per // 2], x[-1, 2, per - 1], x[0, 3, 0] = math.nan, INF, -INF
    want = fold(x, name, 2)
    source, got = planes(rows(x)), result_like(want)
    by = float(per) if name == "mean" else 1.0
    run(
        lib.columns, 2, FOLDS[name], 5, samples, per, source, source.shape[1], by, got,
        got.shape[1],
    )  # fmt: skip
    check(got, want, width_of(lib), 2e-6)


@for_each("name", FOLDS)
@for_each("outer,count,inner", [(1, 1, 1), (2, 5, 3), (1, 768, 1), (6, 33, 1)])
@for_each("n", [1, 49, 130])
def test_reduce_rows(
    lib: ctypes.CDLL, name: str, outer: int, count: int, inner: int, n: int
) -> None:
    x = torch.randn(outer, count, inner, n) + 2
    x[0, count // 2, 0, n // 2], x[-1, 0, -1, n - 1] = math.nan, INF
    want = fold(x, name, 1).view(1, outer * inner, n)
    source, got = planes(x.view(-1, n)), result_like(want)
    by = float(count) if name == "mean" else 1.0
    run(
        lib.down, 2, FOLDS[name], outer, count, inner, n, source, source.shape[1], by, got,
        got.shape[1],
    )  # fmt: skip
    check(got, want, width_of(lib), 2e-6)


@for_each("across", [True, False])
def test_sums_are_as_exact_as_torchs(lib: ctypes.CDLL, across: bool) -> None:
    n = 100_000
    x = torch.rand(1, n) if across else torch.rand(n, 1)
    source, got = planes(x), torch.zeros(1, 16)
    ld = source.shape[1]
    if across:
        run(lib.columns, 1, 0, 1, 1, n, source, ld, 1.0, got, 16)
    else:
        run(lib.down, 1, 0, 1, n, 1, 1, source, ld, 1.0, got, 16)
    want = float(x.double().sum())
    torchs = abs(float(x.sum()) - want) / want
    assert abs(float(got[0, 0]) - want) / want <= max(4 * torchs, 1e-6)


@for_each("channels,groups", [(8, 2), (6, 6), (32, 1), (12, 4), (5, 1)])
@for_each("size", [(1, 2), (7, 7), (5, 9), (28, 28), (300,)])
@for_each("samples", [1, 3])
@for_each("threads", [1, 2])
def test_group_norm(
    lib: ctypes.CDLL, channels: int, groups: int, size: tuple[int, ...], samples: int,
    threads: int,
) -> None:  # fmt: skip
    x = torch.randn(samples, channels, *size) * 3 + 50
    gamma, beta = torch.randn(channels), torch.randn(channels)
    eps = 1e-5
    want = F.group_norm(x.double(), groups, gamma.double(), beta.double(), eps)
    floor = float((F.group_norm(x, groups, gamma, beta, eps) - want).abs().max())
    source, got = planes(rows(x)), result_like(want)
    run(
        lib.group_norm, threads, channels, groups, samples, x[0, 0].numel(), eps, source,
        source.shape[1], gamma, beta, got, got.shape[1],
    )  # fmt: skip
    error = float((images_of(got, want) - want).abs().max())
    assert error <= 2 * floor + 2e-6
    check(got, want.float(), width_of(lib), 1e-3)
