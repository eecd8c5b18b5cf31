"""The layers that calibration times: ours in one program, torch's by themselves, and memory.

All take turns in short rounds, and the least of all rounds counts: a process that comes and goes
meets each of them, and can only add to a time. How far a usual round lies above the least says
whether there was one.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..formats.base import TORCH_CONV, TORCH_DEPTHWISE, TORCH_LINEAR
from ..formats.coefficients import ON_REFERENCE_CORE
from ..formats.cost import REFERENCE_NS, ConvShape, Cost, LinearShape, Machine, Shape
from ..ir.graph import Graph
from ..ir.text import parse_graph
from ..options import Options
from .measure import layer_times, least_ns, machine_to_itself, timed_executor
from .pipeline import lower_graph
from .weights import LiveWeights

_ROUNDS = 8
_RUNS = 3
_EACH_S = 0.008
"""Of a layer of torch's in a round."""

_LAYERS = """
input %x: f32[128, 512]
input %image: f32[1, 64, 28, 28]
param %a: f32[1024, 512]
param %b: f32[512, 1024]
param %c: f32[64, 64, 1, 1]
param %d: f32[64, 64, 3, 3]
param %e: f32[128, 64, 3, 3]
param %f: f32[128, 128, 3, 3]
param %g: f32[256, 128, 1, 1]
%linear_dense: f32[128, 1024] = linear(%x, %a)
%linear_csr: f32[128, 512] = linear(%linear_dense, %b)
%conv_dense: f32[1, 64, 28, 28] = conv[PLAIN, padding=(0, 0)](%image, %c)
%conv_csr_bands: f32[1, 64, 28, 28] = conv[PLAIN, padding=(1, 1)](%conv_dense, %d)
%conv_csr_1: f32[1, 128, 14, 14] = conv[HALF, padding=(1, 1)](%conv_csr_bands, %e)
%conv_winograd: f32[1, 128, 14, 14] = conv[PLAIN, padding=(1, 1)](%conv_csr_1, %f)
%conv_csr_2: f32[1, 256, 14, 14] = conv[PLAIN, padding=(0, 0)](%conv_winograd, %g)
return %linear_csr, %conv_csr_2
""".replace("PLAIN", "stride=(1, 1), dilation=(1, 1)").replace(
    "HALF", "stride=(2, 2), dilation=(1, 1)"
)
_NAMES = re.findall(r"%(\w+_\w+):", _LAYERS)
_FORMATS = {name: "csr" if "csr" in name else "dense" for name in _NAMES}
_DENSITIES = {"b": 0.1, "d": 0.1, "e": 0.2, "g": 0.2}

_TORCH_LINEARS = ((8, 8, 1), (256, 256, 16), (768, 768, 1), (768, 768, 128), (1024, 512, 128))
_TORCH_CONVS = (
    *((16, 16, 1, 7, 1), (64, 64, 3, 28, 1), (256, 64, 1, 28, 1), (128, 128, 3, 14, 1)),
    *((32, 32, 1, 64, 1), (64, 256, 1, 56, 1)),
    *((16, 16, 3, 7, 16), (128, 128, 3, 28, 128), (256, 256, 3, 14, 256)),
)
_MEMORY, _CACHE = 128 << 20, 4 << 20
"""Bytes that no cache holds, and that a shared one does."""

Samples = dict[Cost, list[tuple[Shape, float]]]
Torch = tuple[Cost, Shape, torch.nn.Module, torch.Tensor]


@dataclass(frozen=True)
class Figures:
    """ratios: measured over predicted time of each layer of ours, on a core like the reference one.

    torch: nanoseconds of its layers; bytes_per_ns, cache_bytes_per_ns: of reading. spread: how much
    longer a usual round took than the least one, in the median over all that was timed.
    """

    ratios: Mapping[str, float]
    torch: Samples
    bytes_per_ns: float
    cache_bytes_per_ns: float
    spread: float

    def scales(self, vector: int) -> dict[str, float]:
        """Time of each kernel over the reference core's; "" for those that were not measured."""
        known = ON_REFERENCE_CORE.get(vector, {})
        found: dict[str, list[float]] = {}
        for name, ratio in self.ratios.items():
            kernel = re.sub(r"_\d$", "", name)
            found.setdefault(kernel, []).append(ratio / known.get(name, 1.0))
        scales = {kernel: statistics.geometric_mean(own) for kernel, own in found.items()}
        return {**scales, "": statistics.geometric_mean(scales.values())}


def measure(options: Options, assumed: Machine) -> Figures:
    """Times everything, with as many threads as torch has now; a second or two, and compiling."""
    graph = parse_graph(_LAYERS)
    ours, predicted = _our_layers(graph, options, assumed)
    layers = list(_torch_layers())
    jobs: dict[Any, Callable[[], Mapping[str, float]]] = {"ours": ours}
    for i, (_, _, layer, x) in enumerate(layers):
        jobs[i] = _alone(i, lambda layer=layer, x=x: layer(x))  # type: ignore[misc]
    for size in (_MEMORY, _CACHE):
        data = torch.ones(size // 4)
        jobs[size] = _alone(size, data.sum)
    rounds: dict[Any, list[float]] = {}
    with machine_to_itself(options.timing_lock):
        for _ in range(_ROUNDS):
            for job in jobs.values():
                for name, ns in job().items():
                    rounds.setdefault(name, []).append(ns)
    least = {name: min(times) for name, times in rounds.items()}
    samples: Samples = {}
    for i, (cost, shape, _, _) in enumerate(layers):
        samples.setdefault(cost, []).append((shape, least[i]))
    spread = statistics.median(statistics.median(t) / min(t) for t in rounds.values())
    ratios = {name: least[name] / ns for name, ns in predicted.items()}
    return Figures(ratios, samples, _MEMORY / least[_MEMORY], _CACHE / least[_CACHE], spread)


def _our_layers(
    graph: Graph, options: Options, assumed: Machine
) -> tuple[Callable[[], Mapping[str, float]], dict[str, float]]:
    """What times our layers once, and what is predicted for the reference core."""
    plain = replace(options, force_native=True, verify=0, dump=None, profile=False, fuel=None)
    reference = replace(assumed, flops_per_ns=2 * assumed.vector / REFERENCE_NS, scale=(), torch=())
    weights = LiveWeights({p.name: _weight(p.name, p.type.shape) for p in graph.params})
    lowered = lower_graph(graph, weights, plain, {}, formats=_FORMATS, machine=reference)
    executor = timed_executor(lowered, weights, plain)
    inputs = [torch.randn([int(size) for size in v.type.shape]) for v in graph.inputs]
    predicted = {
        name: next(c.predicted_ns for c in candidates if c.format == _FORMATS[name])
        for name, candidates in lowered.context.candidates.items()
    }
    return lambda: layer_times(executor, inputs, _RUNS), predicted


def _weight(name: str, shape: Sequence[Any]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    value = torch.randn([int(size) for size in shape], generator=generator)
    kept = torch.rand(value.shape, generator=generator) < _DENSITIES.get(name, 1.0)
    return value * kept


def _alone(name: Any, run: Callable[[], object]) -> Callable[[], Mapping[Any, float]]:
    return lambda: {name: least_ns(run, _EACH_S, time.perf_counter_ns)}


def _torch_layers() -> Iterator[Torch]:
    for rows, columns, n in _TORCH_LINEARS:
        shape = LinearShape(rows, columns, rows * columns, n)
        yield TORCH_LINEAR, shape, torch.nn.Linear(columns, rows), torch.randn(n, columns)
    for rows, channels, kernel, size, groups in _TORCH_CONVS:
        layer = torch.nn.Conv2d(channels, rows, kernel, padding=kernel // 2, groups=groups)
        taps, columns = kernel**2, channels // groups * kernel**2
        conv = ConvShape(rows, columns, rows * columns, size**2, taps, groups)
        cost = TORCH_DEPTHWISE if conv.depthwise else TORCH_CONV
        yield cost, conv, layer, torch.randn(1, channels, size, size)
