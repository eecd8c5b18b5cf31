"""Calls of sweep_kernels.cpp on torch views: every tensor becomes a pointer and strides of 6."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.kernels.native import EACH_WIDTH, Libraries

RANK = 6
THREADS = (1, 2, 3)


@pytest.fixture(scope="session")
def sweep_libraries(kernel_cache: Path) -> dict[int, ctypes.CDLL]:
    """sweep_kernels.cpp for each vector width."""
    return Libraries("sweep_kernels.cpp", kernel_cache)


@pytest.fixture(params=EACH_WIDTH, ids=lambda w: f"W{w}")
def sweeps(request: pytest.FixtureRequest, sweep_libraries: dict[int, ctypes.CDLL]) -> ctypes.CDLL:
    return sweep_libraries[request.param]


def box(shape: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    """A box of the kernels' rank: dimensions of size 1 come last."""
    assert len(shape) <= RANK
    return (ctypes.c_int64 * RANK)(*shape, *[1] * (RANK - len(shape)))


def operand(x: Tensor, flips: Sequence[int] = ()) -> tuple[object, object]:
    """Pointer and strides of a view, backwards along the dimensions `flips`."""
    strides = [*x.stride(), *[0] * (RANK - x.dim())]
    start = 0
    for d in flips:
        start += (x.shape[d] - 1) * strides[d] * x.element_size()
        strides[d] = -strides[d]
    return ctypes.c_void_p(x.data_ptr() + start), (ctypes.c_int64 * RANK)(*strides)


def run(function: object, threads: int, *args: object) -> None:
    """Tensors pass as pointers, ints as int64; what `box` and `operand` made as it is."""

    def convert(args: Sequence[object]) -> Iterator[object]:
        for arg in args:
            if isinstance(arg, tuple):
                yield from arg
            elif isinstance(arg, Tensor):
                yield ctypes.c_void_p(arg.data_ptr())
            elif isinstance(arg, ctypes.Structure):
                yield ctypes.byref(arg)
            else:
                yield ctypes.c_int64(arg) if isinstance(arg, int) else arg

    function(ctypes.c_int(threads), *convert(args))  # type: ignore[operator]


def random(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    if dtype.is_floating_point:
        return torch.randn(shape, dtype=dtype)
    if dtype == torch.bool:
        return torch.rand(shape) < 0.5
    low = 0 if dtype == torch.uint8 else -100
    return torch.randint(low, 100, tuple(shape), dtype=dtype)


def view(shape: Sequence[int], order: Sequence[int], dtype: torch.dtype, gap: int = 0) -> Tensor:
    """Random elements of `shape`, stored with dimension order[0] outermost and gaps in the rows."""
    stored = [shape[d] for d in order]
    x = random([*stored[:-1], stored[-1] + gap], dtype)[..., : stored[-1]]
    return x.permute([order.index(d) for d in range(len(order))])
