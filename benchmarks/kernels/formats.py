"""Every storage format on weights of its own pattern, against torch's dense kernels, interleaved.

    python benchmarks/kernels/formats.py [--width 16|8] [--out FILE] [--only TEXT] [--library DIR]

Linears: F.linear (MKL) and oneDNN with its weight packed ahead. Convolutions: oneDNN, and csr at
the same density. Medians. Lines go to FILE; what is there already is not measured again; DIR keeps
the compiled kernels. Width 8 is AVX2 for all: set ONEDNN_MAX_CPU_ISA=AVX2 and
MKL_ENABLE_INSTRUCTIONS=AVX2.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from conv import Layer, Native, Torch, aligned, build, pack, pointer
from torch import Tensor

LINEARS = ((3072, 768), (768, 3072), (768, 768))
TOKENS = 128
CONVS = (
    Layer(64, 64, 56, 3), Layer(128, 128, 28, 3), Layer(256, 256, 14, 3), Layer(512, 512, 7, 3),
    Layer(256, 64, 56), Layer(512, 128, 28), Layer(128, 512, 28), Layer(1024, 256, 14),
    Layer(256, 1024, 14), Layer(2048, 512, 7),
)  # fmt: skip
LINEAR_CASES = (
    *(("csr", d) for d in (0.5, 0.3, 0.2, 0.1, 0.05)),
    *((f"block_{r}x1", d) for r in (4, 8, 16, 32) for d in (0.5, 0.3, 0.1)),
    *((name, d) for name in ("block_1x4", "block_4x4", "bitmap") for d in (0.5, 0.1)),
    ("nm_2_4", 0.5), ("nm_1_4", 0.25), ("nm_4_8", 0.5), ("nm_2_16", 0.125), ("dense", 1.0),
)  # fmt: skip
CONV_CASES = (
    *((name, d) for d in (0.5, 0.1) for name in ("csr", "block_4x1", "block_8x1", "block_16x1")),
    ("nm_2_4", 0.5), ("nm_1_4", 0.25), ("dense", 1.0),
)  # fmt: skip
SPLITS = ("rows", "columns", "rows_csr", "columns_csr", "nm_2_4_csr")
RIVALS = ("csr", "block_4x1", "sorted_4x1", "dense")
ROUNDS, NATIVE_RUNS, TORCH_RUNS = 7, 15, 5


def patterned(shape: tuple[int, ...], format_: str, density: float) -> Tensor:
    """Random numbers in the pattern of a format, as [rows, the rest] sees it."""
    rows, columns = shape[0], torch.Size(shape[1:]).numel()
    sizes = [int(part) for part in format_.replace("x", "_").split("_")[1:] if part.isdigit()]
    if format_.startswith("nm"):
        n, m = sizes
        order = torch.rand(rows, columns // m, m).argsort(2)
        kept = (order < n).flatten(1)
        kept = F.pad(kept, (0, columns - kept.shape[1]))
    elif format_.startswith("block"):
        r, c = sizes
        blocks = torch.rand(-(-rows // r), -(-columns // c)) < density
        kept = blocks.repeat_interleave(r, 0).repeat_interleave(c, 1)[:rows, :columns]
    else:
        kept = torch.rand(rows, columns) < density
    return torch.randn(shape) * kept.reshape(shape)


def standing_out(shape: tuple[int, int], format_: str, share: float) -> Tensor:
    """Numbers in a share of the rows or columns, or 2:4; for a split in a twentieth of the others,
    or in a hundredth of all."""
    kept = torch.rand(shape) < (0.05 if format_.endswith("csr") else 0)
    if format_.startswith("nm"):
        kept = patterned(shape, "nm_2_4", 0.5).bool() | (torch.rand(shape) < 0.01)
    elif format_.startswith("rows"):
        kept[torch.randperm(shape[0])[: int(share * shape[0])]] = True
    else:
        kept[:, torch.randperm(shape[1])[: int(share * shape[1])]] = True
    return torch.randn(shape) * kept


class NativeLinear:
    """A linear of one format, ready to be timed."""

    def __init__(self, lib: ctypes.CDLL, width: int, format_: str, weight: Tensor) -> None:
        rows, columns = weight.shape
        self.lib = lib
        self.blob, _ = pack(lib, width, format_, Linear(rows, columns, 1), weight, [])
        self.ld = (-(-TOKENS // 16) | 1) * 16
        self.x, self.y = aligned(columns * self.ld), aligned(rows * self.ld)
        self.x.uniform_(-1, 1)
        self.bias, self.times = torch.zeros(rows), list[float]()

    def run(self, runs: int) -> None:
        times = (ctypes.c_double * runs)()
        self.lib.time_linear(
            torch.get_num_threads(), pointer(self.blob), ctypes.c_int64(TOKENS),
            pointer(self.x), ctypes.c_int64(self.ld), pointer(self.y), ctypes.c_int64(self.ld),
            pointer(self.bias), runs, times,
        )  # fmt: skip
        self.times += times


class Linear(Layer):
    """A linear on `TOKENS` columns, as `pack` reads sizes."""

    @property
    def taps(self) -> int:
        return 0

    @property
    def columns(self) -> int:
        return TOKENS


class Timed:
    """A call of torch's, with its times in nanoseconds."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call, self.times = call, list[float]()

    def run(self, runs: int) -> None:
        for _ in range(runs):
            start = time.perf_counter()
            self.call()
            self.times.append((time.perf_counter() - start) * 1e9)


def torch_linears(weight: Tensor) -> dict[str, Timed]:
    """F.linear, and oneDNN as Inductor calls it."""
    x, bias = torch.randn(TOKENS, weight.shape[1]), torch.zeros(weight.shape[0])
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, TOKENS)
    return {
        "mkl": Timed(lambda: F.linear(x, weight, bias)),
        "onednn": Timed(
            lambda: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
        ),
    }


def medians(timed: dict[str, Timed | Native | NativeLinear | Torch]) -> dict[str, float]:
    """Microseconds, of runs in turns."""
    for one in timed.values():
        one.run(3)
        one.times.clear()
    for _ in range(ROUNDS):
        for one in timed.values():
            one.run(NATIVE_RUNS if isinstance(one, Native | NativeLinear) else TORCH_RUNS)
    return {name: statistics.median(one.times) / 1e3 for name, one in timed.items()}


def linear_lines(lib: ctypes.CDLL, width: int, shape: tuple[int, int]) -> dict[str, float]:
    """Microseconds by "format density", "mkl", "onednn"."""
    timed: dict[str, Timed | Native | NativeLinear | Torch] = {}
    timed |= torch_linears(torch.randn(shape))
    for format_, density in LINEAR_CASES:
        weight = patterned(shape, format_, density)
        timed[f"{format_} {density:g}"] = NativeLinear(lib, width, format_, weight)
    return medians(timed)


def split_lines(lib: ctypes.CDLL, width: int, shape: tuple[int, int]) -> dict[str, float]:
    """Microseconds by "format pattern share", of formats that could store the same weight."""
    timed: dict[str, Timed | Native | NativeLinear | Torch] = {}
    timed |= torch_linears(torch.randn(shape))
    for format_ in SPLITS:
        for share in (0.5, 0.1)[: 1 if format_.startswith("nm") else 2]:
            weight = standing_out(shape, format_, share)
            for rival in (format_, *RIVALS):
                made = NativeLinear(lib, width, rival, weight)
                timed[f"{rival} {format_}:{share:g}"] = made
    return medians(timed)


def conv_lines(lib: ctypes.CDLL, width: int, layer: Layer) -> dict[str, float]:
    """Microseconds by "format density", "onednn"."""
    shape = (layer.rows, layer.channels, layer.kernel, layer.kernel)
    timed: dict[str, Timed | Native | NativeLinear | Torch] = {
        "onednn": Torch(layer, torch.randn(shape), torch.channels_last)
    }
    for format_, density in CONV_CASES:
        weight = patterned(shape, format_, density)
        timed[f"{format_} {density:g}"] = Native(lib, width, format_, layer, weight, [])
    return medians(timed)


def show(case: str, times: dict[str, float]) -> None:
    """A table: times, gain over the dense kernels, share of csr's time at the same density."""
    print(
        f"{case}: " + ", ".join(f"{n} {times[n]:.0f} us" for n in ("mkl", "onednn") if n in times)
    )
    for name, value in times.items():
        if name in ("mkl", "onednn"):
            continue
        gains = "".join(f"  {times[n] / value:6.2f} x {n}" for n in ("mkl", "onednn") if n in times)
        csr = times.get(f"csr {name.split()[1]}")
        share = f"  {value / csr:5.2f} of csr" if csr and not name.startswith("csr") else ""
        print(f"   {name:16s} {value:8.1f} us{gains}{share}", flush=True)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=16, choices=(8, 16))
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--out", type=Path, default=Path("formats.jsonl"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--library", type=Path, help="folder for the compiled kernels")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    done = {}
    if chosen.out.exists():
        done = dict(json.loads(line) for line in chosen.out.read_text().splitlines())
    with tempfile.TemporaryDirectory() as folder:
        lib = build(chosen.width, chosen.library or Path(folder))
        cases: dict[str, Callable[[], dict[str, float]]] = {}
        for shape in LINEARS:
            key = f"W{chosen.width} linear {shape[0]}x{shape[1]}"
            cases[key] = lambda shape=shape: linear_lines(lib, chosen.width, shape)
            cases[f"{key} split"] = lambda shape=shape: split_lines(lib, chosen.width, shape)
        for layer in CONVS:
            key = f"W{chosen.width} conv {layer.name}"
            cases[key] = lambda layer=layer: conv_lines(lib, chosen.width, layer)
        for key, measure in cases.items():
            if chosen.only not in key:
                continue
            if key not in done:
                done[key] = measure()
                with chosen.out.open("a") as file:
                    file.write(json.dumps([key, done[key]]) + "\n")
            show(key, done[key])


if __name__ == "__main__":
    main()
