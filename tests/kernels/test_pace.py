"""Threads that are not alike: how a team learns it, and that results do not depend on it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.kernels.images import image_libraries, rows
from tests.kernels.native import NATIVE, planes
from tests.kernels.test_conv_kernels import IMAGE, Conv, check, conv_libraries
from tests.kernels.test_dense_conv_kernels import libraries, run
from tests.kernels.test_image_kernels import Case, convolve, run_direct

__all__ = ["conv_libraries", "image_libraries", "libraries"]  # fixtures

Native = dict[int, ctypes.CDLL]
PARTS = (0.0, 0.26, 0.5, 0.9)
"""Of the first thread; 0: they are all alike."""
WIDE = replace(IMAGE, channels=24, rows=50, size=(14, 14))
FLAT = replace(WIDE, kernel=(1, 1), padding=0)
CONVS = {
    "1x1": FLAT,
    "1x1, many columns": replace(FLAT, size=(40, 40), rows=20),
    "3x3": WIDE,
    "3x3 in bands": replace(WIDE, by_columns=True, k_tile=108, panel=8),
    "3x3 of an image of 56": replace(WIDE, size=(56, 56), rows=13),
    "stride 2": replace(WIDE, stride=2),
    "groups": replace(WIDE, channels=12, rows=48, groups=3),
}
DIRECT = [
    Case((size, size), (kernel, kernel), (stride, stride), (1, 1), (kernel // 2,) * 2, channels=9)
    for size in (7, 14, 40, 100)
    for kernel in (3, 5)
    for stride in (1, 2)
]


@contextmanager
def unlike(lib: ctypes.CDLL, part: float) -> Iterator[None]:
    """Teams whose first thread is taken to do such a part of the work."""
    first = ctypes.c_float.in_dll(lib, "first_part")
    first.value = part
    try:
        yield
    finally:
        first.value = 0.0


def same_bits(lib: ctypes.CDLL, compute: Callable[[], Tensor], what: str) -> None:
    """Asserts that results are equal however the work is cut."""
    results = []
    for part in PARTS:
        with unlike(lib, part):
            results.append(compute().clone())
    for part, result in zip(PARTS[1:], results[1:], strict=True):
        equal = torch.equal(result.nan_to_num(), results[0].nan_to_num())
        assert equal, f"{what}: other numbers where the first thread does {part}"


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("format_", ["csr", "dense", "block_4x1", "nm_2_4", "bitmap", "rows"])
def test_convolutions(conv_libraries: Native, format_: str, threads: int) -> None:
    lib = conv_libraries[NATIVE]
    for name, case in CONVS.items():
        if case.by_columns and format_ != "csr":
            continue
        same_bits(lib, partial(check, lib, NATIVE, case, threads, 0, format_), name)


@pytest.mark.parametrize("kernel", ["winograd", "stem"])
def test_dense_convolutions(libraries: Native, kernel: str) -> None:
    lib = libraries[NATIVE]
    cases: Sequence[Conv] = [
        replace(
            IMAGE, size=size, channels=9, rows=rows_, density=1.0, stride=1 + (kernel == "stem")
        )
        for size in ((7, 7), (14, 14), (56, 56), (9, 70))
        for rows_ in (14, 40)
        if kernel == "winograd" or size[1] > 2 * NATIVE
    ]
    for case in cases:
        for threads in (2, 3):
            same_bits(lib, partial(run, lib, kernel, case, NATIVE, threads), kernel)


def test_depthwise(image_libraries: Native) -> None:
    lib = image_libraries[NATIVE]

    def direct(case: Case, source: Tensor, weight: Tensor, want: Tensor) -> Tensor:
        torch.manual_seed(1)
        return run_direct(lib, case, source, weight, want)

    for case in DIRECT:
        torch.manual_seed(0)
        x, weight = case.image(), torch.randn(case.channels, 1, *case.kernel)
        want = convolve(case, x, weight).float()
        same_bits(lib, partial(direct, case, planes(rows(x)), weight, want), f"{case}")


# ---- learning -----------------------------------------------------------------------------------


def learnt(
    lib: ctypes.CDLL, work: Sequence[float], ticks: Sequence[float], calls: int
) -> tuple[list[float], list[float]]:
    """Each thread's part after calls in which it did `work` in `ticks`; where the parts begin."""
    n = len(work)
    part, cut = (ctypes.c_float * n)(), (ctypes.c_double * (n + 1))()
    doubles = [(ctypes.c_double * n)(*values) for values in (work, ticks)]
    lib.learn(n, calls, *doubles, part, cut)
    return list(part), list(cut)


@pytest.fixture
def lib(libraries: Native) -> ctypes.CDLL:
    return libraries[NATIVE]


def test_a_slow_thread_gets_less(lib: ctypes.CDLL) -> None:
    part, cut = learnt(lib, [1.0, 1.0], [1e6, 2e6], 1)
    assert part == pytest.approx([2 / 3, 1 / 3], abs=1e-6)
    assert cut == pytest.approx([0, 2 / 3, 1], abs=1e-5)
    # What it did is set against the time that it took: the same speeds, once it has less to do.
    part, _ = learnt(lib, [4.0, 2.0], [1e6, 1e6], 30)
    assert part == pytest.approx([2 / 3, 1 / 3], abs=1e-6)


def test_chance_changes_nothing(lib: ctypes.CDLL) -> None:
    _, cut = learnt(lib, [1.0, 1.0, 1.0], [1e6, 1.02e6, 0.99e6], 5)
    assert cut == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-5)


def test_no_thread_is_left_without_work(lib: ctypes.CDLL) -> None:
    part, cut = learnt(lib, [1.0] * 4, [1e6, 1e6, 1e6, 1e12], 50)
    assert min(part) == pytest.approx(0.125)
    assert all(b > a for a, b in pairwise(cut))
    assert cut[-1] == 1.0


@pytest.mark.parametrize("ticks", [(1e3, 2e3), (1e6, 0.0)], ids=["too short", "no work"])
def test_what_tells_nothing_is_not_learnt(lib: ctypes.CDLL, ticks: tuple[float, float]) -> None:
    part, cut = learnt(lib, [1.0, 1.0 if ticks[1] else 0.0], ticks, 3)
    assert part == [0.0, 0.0]
    assert cut == pytest.approx([0, 0.5, 1])


def test_more_threads_than_it_remembers(lib: ctypes.CDLL) -> None:
    """They are taken to be alike; nothing is written past the end."""
    n = 65
    work = (ctypes.c_double * n)(*[1.0] * n)
    cut = (ctypes.c_double * (n + 1))()
    lib.learn(n, 0, work, work, (ctypes.c_float * n)(), cut)
    assert list(cut)[:2] == pytest.approx([0, 1 / n], abs=1e-5)
