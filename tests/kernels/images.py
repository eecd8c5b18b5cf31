"""Shapes of the kernels on images as C has them, images as planes, and the check of a result."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.kernels.native import EACH_WIDTH, Libraries, row_stride

DIMS = ctypes.c_int64 * 3


@pytest.fixture(scope="session")
def image_libraries(kernel_cache: Path) -> dict[int, ctypes.CDLL]:
    """image_kernels.cpp for each vector width."""
    return Libraries("image_kernels.cpp", kernel_cache)


@pytest.fixture(params=EACH_WIDTH, ids=lambda w: f"W{w}")
def lib(request: pytest.FixtureRequest, image_libraries: dict[int, ctypes.CDLL]) -> ctypes.CDLL:
    return image_libraries[request.param]


class Window(ctypes.Structure):
    _fields_ = (
        ("samples", ctypes.c_int64), ("size", DIMS), ("out", DIMS), ("kernel", DIMS),
        ("stride", DIMS), ("dilation", DIMS), ("pad", DIMS), ("transposed", ctypes.c_bool),
    )  # fmt: skip


class Adaptive(ctypes.Structure):
    _fields_ = (("samples", ctypes.c_int64), ("size", DIMS), ("out", DIMS))


class Resample(ctypes.Structure):
    _fields_ = (
        ("samples", ctypes.c_int64), ("size", DIMS), ("out", DIMS), ("scale", ctypes.c_double * 3),
    )  # fmt: skip


def leading(dims: Sequence[int], fill: int = 1) -> ctypes.Array[ctypes.c_int64]:
    """Three dims, the absent ones first."""
    return DIMS(*[fill] * (3 - len(dims)), *dims)


def rows(image: Tensor) -> Tensor:
    """[B, C, *sizes] as C rows of B * sizes columns."""
    return image.transpose(0, 1).reshape(image.shape[1], -1)


def images_of(plane: Tensor, like: Tensor) -> Tensor:
    """The inverse of `rows`, for a result of the shape of `like`."""
    n = like[:, 0].numel()
    return plane[:, :n].view(like.shape[1], like.shape[0], *like.shape[2:]).transpose(0, 1)


def run(function: object, threads: int, *args: object) -> int:
    """As `native.call`, with the number of threads given; what the function returns, if it does."""

    def convert(arg: object) -> object:
        if isinstance(arg, Tensor):
            return ctypes.c_void_p(arg.data_ptr())
        if isinstance(arg, ctypes.Structure):
            return ctypes.byref(arg)
        if isinstance(arg, float):
            return ctypes.c_float(arg)
        return ctypes.c_int64(arg) if isinstance(arg, int) else arg

    return int(function(ctypes.c_int(threads), *map(convert, args)))  # type: ignore[operator]


def result_like(want: Tensor) -> Tensor:
    """Planes for a result, with a mark in each tail column that a kernel may not write."""
    n = want[:, 0].numel()
    return torch.full((want.shape[1], row_stride(n)), 7.0)


def width_of(lib: ctypes.CDLL) -> int:
    return ctypes.c_int.in_dll(lib, "vector_width").value


def check(got: Tensor, want: Tensor, width: int, tolerance: float = 1e-5) -> None:
    n = want[:, 0].numel()
    written = -(-n // width) * width
    assert bool((got[:, written:] == 7).all()), "columns beyond the last vector were written"
    torch.testing.assert_close(
        images_of(got, want), want, rtol=tolerance, atol=tolerance, equal_nan=True
    )
