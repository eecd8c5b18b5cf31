"""Builds C++ test sources against the kernels and calls them on tensors."""

from __future__ import annotations

import ctypes
import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).parent
HEADERS = HERE.parents[1] / "codegen" / "cpu"
FLAGS = [
    "-march=native", "-std=c++17", "-ffp-contract=fast", "-fno-math-errno",
    "-fno-trapping-math", "-fopenmp", "-Wall", "-Wextra", "-Wno-psabi", "-Werror",
]  # fmt: skip
WIDTHS = (4, 8, 16)
THREADS = 2


def start_build(source: str, out: Path, width: int, *extra: str) -> subprocess.Popen[str]:
    command = ["g++", *FLAGS, f"-DSC_WIDTH={width}", f"-I{HEADERS}", *extra, str(HERE / source)]
    return subprocess.Popen([*command, "-o", str(out)], stderr=subprocess.PIPE, text=True)


def finish_build(build: subprocess.Popen[str]) -> None:
    _, errors = build.communicate()
    assert build.returncode == 0, errors


def call(function: Callable[..., None], *args: object) -> None:
    """Tensors pass as pointers, ints as int64, floats as float; threads come first, as an int."""

    def convert(arg: object) -> object:
        if isinstance(arg, Tensor):
            return ctypes.c_void_p(arg.data_ptr())
        if isinstance(arg, ctypes.Structure):
            return ctypes.byref(arg)
        if isinstance(arg, float):
            return ctypes.c_float(arg)
        return ctypes.c_int64(arg) if isinstance(arg, int) else arg

    function(ctypes.c_int(THREADS), *map(convert, args))


def row_stride(n: int) -> int:
    return -(-n // 16) * 16 + 16


def planes(x: Tensor) -> Tensor:
    """[rows, n] as the columns 0..n-1 of planes whose tails hold NaN: they must reach nothing."""
    out = torch.full((x.shape[0], row_stride(x.shape[1])), math.nan)
    out[:, : x.shape[1]] = x
    return out
