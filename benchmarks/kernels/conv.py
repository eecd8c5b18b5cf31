"""Convolution kernels on planes against torch's oneDNN, layer by layer, interleaved in one run.

    python benchmarks/kernels/conv.py [--width 16|8] [--only TEXT] [--sparsity 0 0.5 0.9]

GFLOP/s count non-zero weights only; `x` is torch's faster time (plain or channels last) over ours.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_compiler.formats.bands import bands_of
from sparse_compiler.formats.base import FORMATS
from sparse_compiler.runtime.packing import Layer as LayerSizes
from sparse_compiler.runtime.packing import Matrix, Tiles

HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "codegen" / "cpu"
FLAGS = ("-O3", "-std=c++17", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
         "-fopenmp", "-fPIC", "-shared", "-Wno-psabi")  # fmt: skip
MARCH = {16: "native", 8: "x86-64-v3"}
NATIVE_RUNS, TORCH_RUNS = 12, 4


@dataclass(frozen=True)
class Layer:
    """A square image of `size`, a square kernel, padded so that size // stride comes out."""

    rows: int
    channels: int
    size: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    padding: int | None = None

    @property
    def pad(self) -> int:
        return self.kernel // 2 if self.padding is None else self.padding

    @property
    def out(self) -> int:
        return (self.size + 2 * self.pad - self.kernel) // self.stride + 1

    @property
    def columns(self) -> int:
        return self.out**2

    @property
    def taps(self) -> int:
        return self.kernel**2

    @property
    def name(self) -> str:
        stride = f" s{self.stride}" if self.stride > 1 else ""
        groups = f" g{self.groups}" if self.groups > 1 else ""
        return (
            f"{self.kernel}x{self.kernel} {self.channels}->{self.rows} {self.size}{stride}{groups}"
        )


LAYERS = (
    Layer(64, 3, 224, 7, 2),
    Layer(64, 64, 56, 3), Layer(128, 128, 28, 3), Layer(256, 256, 14, 3), Layer(512, 512, 7, 3),
    Layer(128, 128, 56, 3, 2), Layer(256, 256, 28, 3, 2), Layer(512, 512, 14, 3, 2),
    Layer(256, 64, 56), Layer(64, 256, 56), Layer(512, 128, 28), Layer(128, 512, 28),
    Layer(1024, 256, 14), Layer(256, 1024, 14), Layer(2048, 512, 7), Layer(512, 2048, 7),
    Layer(512, 256, 56, 1, 2), Layer(1024, 512, 28, 1, 2), Layer(2048, 1024, 14, 1, 2),
    Layer(32, 3, 224, 3, 2), Layer(64, 32, 112), Layer(128, 64, 56), Layer(128, 128, 56),
    Layer(256, 128, 28), Layer(256, 256, 28), Layer(512, 256, 14), Layer(512, 512, 14),
    Layer(1024, 512, 7), Layer(1024, 1024, 7), Layer(256, 256, 14, 3, 1, 32),
)  # fmt: skip


def build(width: int, folder: Path) -> ctypes.CDLL:
    out = folder / f"conv{width}.so"
    if out.exists():
        return ctypes.CDLL(str(out))
    sources = [str(HERE / "conv.cpp"), str(KERNELS / "pack.cpp")]
    arguments = [f"-march={MARCH[width]}", f"-DSC_WIDTH={width}", f"-I{KERNELS}"]
    subprocess.run(["g++", *FLAGS, *arguments, *sources, "-o", str(out)], check=True)
    return ctypes.CDLL(str(out))


def aligned(floats: int) -> Tensor:
    memory = torch.zeros(floats + 16)
    return memory[-memory.data_ptr() % 64 // 4 :][:floats]


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def pack(lib: ctypes.CDLL, width: int, format_: str, layer: Layer, weight: Tensor,
         forced: list[int]) -> tuple[Tensor, list[int]]:  # fmt: skip
    m, k = weight.shape
    stored = FORMATS[format_]
    nnz = int(weight.count_nonzero()) // layer.groups
    tiles = Tiles(0, 0, 0, *stored.parameters, 0)
    image = (layer.out, layer.out) if layer.taps == 9 and layer.stride == 1 else ()
    banded = bands_of(m, image, width, layer.groups) is not None
    shape = LayerSizes(m // layer.groups, k, nnz, layer.columns, layer.taps, width, banded)
    lib[f"sc_{stored.family}_tiles"](ctypes.byref(shape), ctypes.byref(tiles))
    for name, value in zip(("k_tile", "panel_vectors", "row_block"), forced, strict=False):
        setattr(tiles, name, value or getattr(tiles, name))
    matrix = Matrix(weight.data_ptr(), m, k, k, layer.groups)
    bytes_of = lib[f"sc_{stored.family}_bytes"]
    bytes_of.restype = ctypes.c_int64
    blob = aligned(bytes_of(ctypes.byref(matrix), ctypes.byref(tiles)) // 4)
    lib[f"sc_{stored.family}_pack"](ctypes.byref(matrix), ctypes.byref(tiles), pointer(blob))
    return blob, [tiles.k_tile, tiles.panel_vectors, tiles.row_block]


class Native:
    """One layer in one format, ready to be timed."""

    def __init__(self, lib: ctypes.CDLL, width: int, format_: str, layer: Layer, weight: Tensor,
                 forced: list[int]) -> None:  # fmt: skip
        self.lib, self.layer = lib, layer
        self.blob, self.tiles = pack(lib, width, format_, layer, weight.flatten(1), forced)
        self.ldx, self.ldy = (-(-(s**2) // 16) * 16 for s in (layer.size, layer.out))
        self.x, self.y = aligned(layer.channels * self.ldx), aligned(layer.rows * self.ldy)
        self.x.uniform_(-1, 1)
        self.bias = torch.zeros(layer.rows)
        one = (1, 1, 1)
        size, out, k, s = layer.size, layer.out, layer.kernel, layer.stride
        flat = [1, 1, size, size, 1, out, out, 1, k, k, 1, s, s, *one, 0, layer.pad, layer.pad, 0]
        self.numbers = (ctypes.c_int64 * len(flat))(*flat)
        self.times: list[float] = []

    def run(self, runs: int) -> None:
        times = (ctypes.c_double * runs)()
        self.lib.time_conv(
            torch.get_num_threads(), pointer(self.blob), self.numbers,
            pointer(self.x), ctypes.c_int64(self.ldx), pointer(self.y), ctypes.c_int64(self.ldy),
            pointer(self.bias), runs, times,
        )  # fmt: skip
        self.times += times


class Torch:
    """torch's convolution and relu on the same sizes."""

    def __init__(self, layer: Layer, weight: Tensor, memory_format: torch.memory_format) -> None:
        self.x = torch.randn(1, layer.channels, layer.size, layer.size)
        self.x = self.x.contiguous(memory_format=memory_format)
        self.weight = weight.contiguous(memory_format=memory_format)
        self.layer, self.bias = layer, torch.zeros(layer.rows)
        self.times: list[float] = []

    def run(self, runs: int) -> None:
        layer = self.layer
        for _ in range(runs):
            start = time.perf_counter()
            F.conv2d(self.x, self.weight, self.bias, layer.stride, layer.pad, 1, layer.groups)
            self.times.append((time.perf_counter() - start) * 1e9)


@torch.no_grad()
def measure(libs: dict[int, ctypes.CDLL], layer: Layer, sparsities: list[float], rounds: int,
            forced: list[int]) -> None:  # fmt: skip
    torch.manual_seed(0)
    dense = torch.randn(layer.rows, layer.channels // layer.groups, layer.kernel, layer.kernel)
    natives: dict[tuple[int, str, float], Native] = {}
    for width, lib in libs.items():
        for sparsity in sparsities:
            weight = dense * (torch.rand_like(dense) >= sparsity)
            if sparsity == 0:
                natives[width, "dense", 0.0] = Native(lib, width, "dense", layer, weight, forced)
            else:
                made = Native(lib, width, "csr", layer, weight, forced)
                natives[width, "csr", sparsity] = made
    others = [Torch(layer, dense, f) for f in (torch.contiguous_format, torch.channels_last)]
    for _ in range(rounds):
        for timed in natives.values():
            timed.run(NATIVE_RUNS)
        for timed in others:
            timed.run(TORCH_RUNS)
    base = min(min(other.times) for other in others)
    flops = 2 * dense.numel() * layer.out**2
    print(f"{layer.name:24s} torch {base / 1e3:7.1f} us {flops / base:5.0f} GF")
    for (width, format_, sparsity), native in natives.items():
        best, middle = min(native.times), sorted(native.times)[len(native.times) // 2]
        useful = flops * (1 - sparsity) / best
        print(
            f"   W{width:<2d} {format_:5s} {sparsity:4.2f}  best {best / 1e3:7.1f} median "
            f"{middle / 1e3:7.1f} us {useful:5.0f} GF  {base / best:5.2f} x  "
            f"tiles {native.tiles}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, nargs="*", default=[16])
    parser.add_argument("--only", default="", help="layers whose name holds this")
    parser.add_argument("--sparsity", type=float, nargs="*", default=[0, 0.5, 0.7, 0.8, 0.9, 0.95])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiles", type=int, nargs="*", default=[], help="k_tile, panel, rows")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory() as folder:
        libs = {width: build(width, Path(folder)) for width in chosen.width}
        for layer in LAYERS:
            if chosen.only in layer.name:
                measure(libs, layer, chosen.sparsity, chosen.rounds, chosen.tiles)


if __name__ == "__main__":
    main()
