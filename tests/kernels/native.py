"""Builds C++ test sources against the kernels and calls them on tensors."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import inspect
import math
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from filelock import FileLock
from torch import Tensor

from sparse_compiler.codegen.cpu.build import kernel_version, native_width

HERE = Path(__file__).parent
HEADERS = HERE.parents[1] / "codegen" / "cpu"
FLAGS = [
    "-march=native", "-std=c++17", "-ffp-contract=fast", "-fno-math-errno",
    "-fno-trapping-math", "-fopenmp", "-Wall", "-Wextra", "-Wno-psabi", "-Werror",
]  # fmt: skip
PACKERS = HEADERS / "pack.cpp"
WIDTHS = (4, 8, 16)
NATIVE = native_width()
EACH_WIDTH = [w if w == NATIVE else pytest.param(w, marks=pytest.mark.portable) for w in WIDTHS]
"""This machine's own in the unit tests, the others by `make portable`."""
PROGRAMS = {
    "attention, norms, functions": "vector_sanitize.cpp",
    "convolution": "conv_sanitize.cpp",
    "decode": "decode_sanitize.cpp",
    "dense convolution": "dense_conv_sanitize.cpp",
    "images": "image_sanitize.cpp",
    "linear": "linear_kernels.cpp",
    "strided, gathers, scans": "sweep_sanitize.cpp",
}
"""Programs of their own: kernels against plain loops, ending with an error where they differ."""
THREADS = 2
Test: TypeAlias = Callable[..., None]


def compiler(width: int, *more: str) -> list[str]:
    """The command that compiles for a width, up to sources and output."""
    return ["g++", *FLAGS, f"-DSC_WIDTH={width}", f"-I{HEADERS}", *more]


def make(command: Sequence[str], sources: Sequence[Path], out: Path) -> Path:
    """`out`, made of the sources; the test that asks fails with what the compiler said."""
    whole = [*command, *map(str, sources), "-o", str(out)]
    done = subprocess.run(whole, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def make_once(command: Sequence[str], sources: Sequence[Path], end: str, cache: Path) -> Path:
    """As `make`, by the first worker that asks for it, into a place of the cache folder."""
    texts = [kernel_version(), *command, *(source.read_text("latin-1") for source in sources)]
    key = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    (cache / "tests").mkdir(parents=True, exist_ok=True)
    out = cache / "tests" / f"{sources[0].stem}-{key}{end}"
    with FileLock(f"{out}.lock"):
        if not out.exists():
            make(command, sources, out.with_suffix(f".part{end}")).replace(out)
    return out


def packers(command: Sequence[str], cache: Path) -> Path:
    """The packers as an object file: one for all programs that the same command builds."""
    return object_file(PACKERS, command, cache)


def object_file(source: Path, command: Sequence[str], cache: Path) -> Path:
    """`source` compiled, to be linked with what else the same command compiles."""
    return make_once([*command, "-c"], [source], ".o", cache)


class Libraries(dict[int, ctypes.CDLL]):
    """`source` as a library for each width, compiled when asked for by a session's first worker."""

    def __init__(self, source: str, cache: Path, *, packs: bool = False) -> None:
        super().__init__()
        self.source, self.cache, self.packs = HERE / source, cache, packs

    def __missing__(self, width: int) -> ctypes.CDLL:
        # below -O2, GCC fuses no multiply-adds
        command = compiler(width, "-O2", "-fPIC")
        objects = [packers(command, self.cache)] if self.packs else []
        sources = [self.source, *objects]
        path = make_once([*command, "-shared"], sources, ".so", self.cache)
        self[width] = ctypes.CDLL(str(path))
        return self[width]


def for_each(names: str, values: Iterable[Any]) -> Callable[[Test], Test]:
    """As pytest's `parametrize`, within one test: thousands of small cases cost no bookkeeping.

    The case at which an assertion fails is noted with it.
    """
    keys, cases = names.split(","), list(values)

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def run(*args: Any, **kwargs: Any) -> None:
            for case in cases:
                torch.manual_seed(0)
                chosen = dict(zip(keys, case if len(keys) > 1 else (case,), strict=True))
                try:
                    test(*args, **kwargs, **chosen)
                except AssertionError as error:
                    error.add_note(f"case: {chosen}")
                    raise

        signature = inspect.signature(test)
        left = [p for p in signature.parameters.values() if p.name not in keys]
        run.__signature__ = signature.replace(parameters=left)  # type: ignore[attr-defined]
        return run

    return decorate


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
