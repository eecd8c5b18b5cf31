"""Blocks against csr at the same density, on the 3 x 3 and 1 x 1 convolutions of ResNet-50.

    python benchmarks/kernels/blocks.py [--only TEXT] [--density 0.5 0.1] [--library DIR]

One thread unless --threads says more, in turns. A line has csr's time and, for each format, its
time, the median of the paired ratios, and the upper 95 % bound of that by bootstrap.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from pathlib import Path

import torch
from conv import Native, build
from formats import CONVS, patterned

RESAMPLES, RUNS = 2000, 5


def upper_bound(ratios: list[float]) -> float:
    """Of the median, 95 %."""
    draws = (random.choices(ratios, k=len(ratios)) for _ in range(RESAMPLES))
    return sorted(statistics.median(draw) for draw in draws)[int(0.95 * RESAMPLES)]


def paired(timed: dict[str, Native], rounds: int) -> dict[str, list[float]]:
    """The median nanoseconds of each in each round."""
    found: dict[str, list[float]] = {name: [] for name in timed}
    for one in timed.values():
        one.run(3)
    for _ in range(rounds):
        for name, one in timed.items():
            one.times.clear()
            one.run(RUNS)
            found[name].append(statistics.median(one.times))
    return found


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=16, choices=(8, 16))
    parser.add_argument("--only", default="", help="layers whose name holds this")
    parser.add_argument("--density", type=float, nargs="*", default=[0.5, 0.3, 0.2, 0.1])
    parser.add_argument("--formats", nargs="*", default=["block_4x1", "block_8x1"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--library", type=Path, help="folder for the compiled kernels")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        lib = build(chosen.width, chosen.library or Path(folder))
        for layer in (one for one in CONVS if chosen.only in one.name):
            shape = (layer.rows, layer.channels, layer.kernel, layer.kernel)
            for density in chosen.density:
                timed = {
                    name: Native(
                        lib, chosen.width, name, layer, patterned(shape, name, density), []
                    )
                    for name in ("csr", *chosen.formats)
                }
                times = paired(timed, chosen.rounds)
                csr = statistics.median(times["csr"]) / 1e3
                line = f"{layer.name:18s} {density:4.2f}  csr {csr:7.1f} us"
                for name in chosen.formats:
                    ratios = [a / b for a, b in zip(times[name], times["csr"], strict=True)]
                    line += (
                        f"  {name} {statistics.median(times[name]) / 1e3:7.1f} us,"
                        f" {statistics.median(ratios):.3f} (at most {upper_bound(ratios):.3f})"
                    )
                print(line, flush=True)


if __name__ == "__main__":
    main()
