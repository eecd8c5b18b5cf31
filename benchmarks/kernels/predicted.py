"""The cost model against kernels by themselves, on the suite `layers`: minutes, and no compiling.

    python benchmarks/kernels/predicted.py [--width 16|8] [--threads 1] [--library DIR]

Every format that is predicted within 1.6 times of the best, and dense; least time of 12 runs. A
3 x 3 dense convolution is the direct one, not Winograd's. `benchmarks/cost_model.py` measures the
same inside compiled programs.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import formats
import torch
from conv import Layer, Native, build

from sparse_compiler.analysis.sparsity import sparsity_facts
from sparse_compiler.bench.layers import parse_layer
from sparse_compiler.bench.models import build_model
from sparse_compiler.bench.reference import prune
from sparse_compiler.bench.suites import suite_cases
from sparse_compiler.formats.base import FORMATS, candidates
from sparse_compiler.formats.cost import ConvShape, LinearShape, Machine, Shape

NEAR, FULL, FEW = 1.6, 0.99, 8
ROUNDS, RUNS = 4, 3
REFERENCE = {16: 256.0, 8: 128.0}
"""GFLOP/s of the core on which coefficients were fitted."""


@dataclass(frozen=True)
class Taken:
    """One format on one layer, nanoseconds."""

    name: str
    predicted: float
    measured: float


def predicted(
    weight: torch.Tensor, shape: Shape, machine: Machine, threads: int
) -> dict[str, float]:
    """Nanoseconds by format, of those that are worth measuring."""
    facts = sparsity_facts(weight)
    times = {}
    for name in candidates(facts):
        found = FORMATS[name]
        own = replace(shape, stored=found.stored(facts), apart=found.apart(facts))
        direct = name == "dense" and isinstance(shape, ConvShape)
        cost = found.conv if direct else found.cost_of(own, machine.vector)
        if cost is not None and (name == "dense" or own.stored < FULL * facts.numel):
            times[name] = cost.ns(own, machine, threads)
    most = NEAR * min(times.values())
    return {name: ns for name, ns in times.items() if ns <= most or name == "dense"}


def measure(lib: ctypes.CDLL, width: int, threads: int) -> Iterator[list[Taken]]:
    """The formats of each case."""
    machine = Machine(width, REFERENCE[width], 35.0, cache_bytes_per_ns=60.0, scale=(("", 1.0),))
    for case in suite_cases("layers", threads):
        layer = parse_layer(case.model)
        if layer is None or (not layer.is_convolution and (case.tokens or 1) <= FEW):
            continue
        module = build_model(case)
        prune(module, case)
        weight = next(p for p in module.parameters() if p.dim() > 1).detach().contiguous()
        rows, columns = weight.shape[0], weight[0].numel()
        nnz, n = int(weight.count_nonzero()), case.tokens or 1
        shape: Shape = LinearShape(rows, columns, nnz, n)
        if layer.is_convolution:
            size = (layer.size - 1) // layer.stride + 1
            strided = layer.stride > 1
            image = (size, size) if layer.kernel == 3 and not strided else ()
            counts = rows, columns, nnz, size**2
            shape = ConvShape(*counts, layer.kernel**2, layer.groups, strided, image=image)
            geometry = layer.size, layer.kernel, layer.stride, layer.groups
            sizes = Layer(layer.out, layer.into, *geometry)
        formats.TOKENS = n
        times = predicted(weight, shape, machine, threads)
        made = {
            name: Native(lib, width, name, sizes, weight, [])
            if layer.is_convolution
            else formats.NativeLinear(lib, width, name, weight)
            for name in times
        }
        for _ in range(ROUNDS):
            for one in made.values():
                one.run(RUNS)
        yield [Taken(name, ns, min(made[name].times)) for name, ns in times.items()]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=16, choices=(8, 16))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--library", type=Path, help="folder for the compiled kernels")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory() as folder:
        lib = build(chosen.width, chosen.library or Path(folder))
        cases = list(measure(lib, chosen.width, chosen.threads))
    errors = [abs(t.predicted / t.measured - 1) for case in cases for t in case]
    losses = [
        min(case, key=lambda t: t.predicted).measured / min(t.measured for t in case) - 1
        for case in cases
    ]
    print(
        f"{len(errors)} times of {len(cases)} cases: the median error is "
        f"{statistics.median(errors):.1%}; the format predicted best is the fastest in "
        f"{statistics.mean(loss <= 0 for loss in losses):.0%}, or within 10 % of it, in "
        f"{statistics.mean(loss <= 0.1 for loss in losses):.0%} of the cases."
    )


if __name__ == "__main__":
    main()
