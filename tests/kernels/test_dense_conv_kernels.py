"""conv_winograd and conv_stem against torch, for each vector width.

Every way that tiles fill vectors and lines; dense_conv_sanitize.cpp runs random sizes under the
sanitizers.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sparse_compiler.formats.base import FORMATS
from sparse_compiler.runtime.packing import as_multiplied
from tests.kernels.native import EACH_WIDTH, Libraries
from tests.kernels.test_conv_kernels import Conv, pack, padded, planes

IMAGE = Conv(channels=9, rows=14, density=1.0)
WINOGRAD = [
    *(replace(IMAGE, size=(size, size)) for size in (1, 2, 7, 8, 14, 15, 16, 28, 31, 33, 56)),
    *(replace(IMAGE, size=size) for size in ((3, 40), (40, 3), (5, 64), (17, 12))),
    *(replace(IMAGE, size=(14, 14), batch=n, padding=n - 1) for n in (1, 2, 3)),
    *(replace(IMAGE, size=(7, 30), batch=3, rows=n) for n in (1, 12, 25)),
    replace(IMAGE, size=(14, 14), channels=70, k_tile=16, panel=2),
    replace(IMAGE, size=(56, 56), channels=3, rows=40, padding=4),
]
STEM = [
    replace(IMAGE, channels=3, stride=2, kernel=(side, side), padding=pad, size=size, batch=batch)
    for side, pad in ((7, 3), (3, 1), (3, 0), (4, 1), (1, 0), (2, 5))
    for size, batch in (((64, 64), 1), ((33, 35), 2), ((9, 94), 1))
] + [replace(IMAGE, channels=8, rows=30, stride=2, size=(12, 70), k_tile=20, panel=2)]


@pytest.fixture(scope="session")
def libraries(kernel_cache: Path) -> dict[int, ctypes.CDLL]:
    return Libraries("dense_conv_kernels.cpp", kernel_cache, packs=True)


@pytest.mark.parametrize("width", EACH_WIDTH)
def test_agrees_with_torch(libraries: dict[int, ctypes.CDLL], width: int) -> None:
    lib = libraries[width]
    for case in WINOGRAD:
        for threads in (1, 2, 3):
            run(lib, "winograd", case, width, threads)
    for case in STEM:
        for threads in (1, 2, 3):
            run(lib, "stem", case, width, threads)


def run(lib: ctypes.CDLL, kernel: str, case: Conv, width: int, threads: int) -> Tensor:
    """Compares with torch; what the kernel computed."""
    torch.manual_seed(0)
    weight, bias = case.weight(), torch.randn(case.rows)
    x, add = torch.randn(case.batch, case.channels, *case.size), torch.randn(case.rows)
    n = case.batch * math.prod(case.out)
    ldx, ldy = padded(case.batch * math.prod(case.size)), padded(n)
    products, stored = weight.flatten(1), case
    if kernel == "winograd":
        products = as_multiplied("winograd", weight).contiguous()
        assert products.shape == (16 * case.rows, case.channels)
        stored = replace(case, kernel=(1, 1), groups=16)
    blob = pack(lib, FORMATS["dense"], width, stored, products)
    add = torch.randn(case.rows, ldy)
    want = case.by_torch(x, weight, bias).transpose(0, 1).reshape(case.rows, n) + add[:, :n]
    got, source = torch.full((case.rows, ldy), 77.0), planes(x, ldx)
    sizes = (case.batch, *case.size, *case.out, *case.kernel, *(case.padding,) * 2)
    numbers = (ctypes.c_int64 * 9)(*sizes)
    pointer = [ctypes.c_void_p(t.data_ptr()) for t in (blob, source, got, bias, add)]
    getattr(lib, kernel)(
        threads, pointer[0], numbers, pointer[1], ctypes.c_int64(ldx), pointer[2],
        ctypes.c_int64(ldy), *pointer[3:],
    )  # fmt: skip
    error = (got[:, :n] - want).abs().max() / want.abs().max()
    assert error <= 2e-6, f"{error} in {kernel} of {case} with {threads} threads"
    assert (got[:, -(-n // width) * width :] == 77).all(), "columns after the last vector"
    return got[:, :n]


def test_its_rounding_errors_are_those_of_a_sum() -> None:
    """On a layer of ResNet-50, in fp32 arithmetic throughout, against the direct sum's errors."""
    torch.manual_seed(0)
    x, weight = torch.randn(1, 256, 14, 14).relu(), torch.randn(64, 256, 3, 3) * 0.05
    exact = torch.nn.functional.conv2d(x.double(), weight.double(), padding=1)
    direct = torch.nn.functional.conv2d(x, weight, padding=1)
    B = torch.tensor([[1.0, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
    A = torch.tensor([[1.0, 1, 1, 0], [0, 1, -1, -1]])
    tiles = torch.nn.functional.pad(x, (1, 1, 1, 1)).unfold(2, 4, 2).unfold(3, 4, 2)
    points = (B @ tiles @ B.T).flatten(-2)[0]  # [C, 7, 7, 16]
    products = as_multiplied("winograd", weight).unflatten(0, (16, -1))
    sums = torch.einsum("pmc,cyxp->myxp", products, points).unflatten(-1, (4, 4))
    got = (A @ sums @ A.T).permute(0, 1, 3, 2, 4).reshape(1, 64, 14, 14)
    scale = exact.abs().max()
    assert (got - exact).abs().max() / scale < 4 * (direct - exact).abs().max() / scale + 1e-7
    assert (got - exact).abs().max() / scale < 2e-6
