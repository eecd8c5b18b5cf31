"""What this machine does with our kernels and with torch's: measured once, then read from disk.

Of ours, one layer per kernel says how its time compares with the reference core's. Of torch's dense
linear and convolution a few layers give the coefficients of the same formulas. The file names all
that a figure depends on; where any of it is another now, it is measured again.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..codegen.cpu.build import kernel_version
from ..errors import ToolchainError
from ..files import replacing
from ..formats.base import TORCH_CONV, TORCH_DEPTHWISE, TORCH_LINEAR
from ..formats.cost import ConvShape, Cost, LinearShape, Machine, Shape
from ..ir.text import parse_graph
from ..options import Options
from .machine import assumed_machine, machine_facts
from .measure import layer_times, least_ns, machine_to_itself, timed_executor
from .pipeline import lower_graph
from .weights import LiveWeights

log = logging.getLogger(__name__)

SCHEMA = 1
_RUNS = 12
_EACH_S = 0.035
_SWEEPS = 2
_STEADY = 1.3
"""Torch's layers are timed in two sweeps; where these differ by more, something else ran."""
_RETRY_S = 3600.0
"""How long what was measured on a busy machine counts, before it is measured again."""
_LEAST, _MOST = 0.05, 50.0
"""Times of the reference core's: a figure outside is no measurement."""

_LAYERS = """
input %x: f32[128, 512]
input %image: f32[1, 64, 28, 28]
param %a: f32[1024, 512]
param %b: f32[512, 1024]
param %c: f32[64, 64, 1, 1]
param %d: f32[64, 64, 3, 3]
%linear_dense: f32[128, 1024] = linear(%x, %a)
%linear_csr: f32[128, 512] = linear(%linear_dense, %b)
%conv_dense: f32[1, 64, 28, 28] = conv[CONV, padding=(0, 0)](%image, %c)
%conv_csr: f32[1, 64, 28, 28] = conv[CONV, padding=(1, 1)](%conv_dense, %d)
return %linear_csr, %conv_csr
""".replace("CONV", "stride=(1, 1), dilation=(1, 1)")
_FORMATS = {name: name.partition("_")[2] for name in re.findall(r"%(\w+_\w+):", _LAYERS)}
_SPARSE = ("b", "d")
_DENSITY = 0.1

_TORCH_LINEARS = ((8, 8, 1), (256, 256, 16), (768, 768, 1), (768, 768, 128), (1024, 512, 128))
_TORCH_CONVS = (
    *((16, 16, 1, 7, 1), (64, 64, 3, 28, 1), (256, 64, 1, 28, 1), (128, 128, 3, 14, 1)),
    *((16, 16, 3, 7, 16), (128, 128, 3, 28, 128), (256, 256, 3, 14, 256)),
)


def calibration_path(options: Options, threads: int) -> Path:
    """Where the figures of this machine, instruction set and number of threads are kept."""
    return options.cache_dir / f"calibration-{options.isa}-{threads}.json"


def stored_machine(options: Options, threads: int) -> Machine | None:
    """The figures on disk; None where there are none, or they are not of this machine.

    Where a busy machine gave none within the hour, the usual one's: no process tries again so soon.
    """
    path = calibration_path(options, threads)
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s is no calibration (%s); measuring again", path, error)
        return None
    if not isinstance(data, dict) or data.get("facts") != _facts(options, threads):
        log.info("%s is of another machine or version; measuring again", path)
        return None
    try:
        if not _still_counts(data):
            log.info("%s was measured on a busy machine; measuring again", path)
            return None
        return assumed_machine(options) if data.get("failed") else _machine(options, data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        log.warning("%s is damaged (%s); measuring again", path, error)
        return None


def _still_counts(data: dict[str, Any]) -> bool:
    """False for what a busy machine gave longer ago than `_RETRY_S`, by a clock set either way."""
    busy_at = data.get("busy_at")
    return busy_at is None or abs(time.time() - float(busy_at)) < _RETRY_S


def calibrate(options: Options, threads: int) -> Machine:
    """Measures this machine with so many threads. Takes a few seconds.

    The figures are kept for later processes; for an hour only if something else ran meanwhile,
    and then none have to make sense: a usual machine is assumed until the hour is over.
    Raises `ToolchainError` where there is no compiler.
    """
    assumed = assumed_machine(options)
    began = time.perf_counter()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad(), torch.device("cpu"):
            scale = _scales(options, assumed, threads)
            with machine_to_itself(options.timing_lock):
                samples, spread = _torch_samples()
                slow, fast = _bandwidth(128 << 20), _bandwidth(4 << 20)
            data = {
                "facts": _facts(options, threads),
                "scale": scale,
                "torch": {c.kernel: fit(c, s, assumed, threads) for c, s in samples.items()},
                "bytes_per_ns": slow,
                "cache_bytes_per_ns": fast,
            }
    finally:
        torch.set_num_threads(before)
    seconds = time.perf_counter() - began
    log.info("calibration took %.1f s: %s", seconds, data)
    kept: dict[str, Any] = data
    try:
        machine = _machine(options, data)
    except ValueError as error:
        log.info("calibration: the machine is busy (%s); a usual one is assumed for now", error)
        machine = assumed
        kept = {"facts": data["facts"], "failed": str(error), "busy_at": time.time()}
    else:
        if spread > _STEADY:
            log.info("calibration: something else ran (times differ %.2f-fold)", spread)
            kept = {**data, "busy_at": time.time()}
    path = calibration_path(options, threads)
    try:
        with replacing(path) as beside:
            beside.write_text(json.dumps(kept, indent=1))
    except OSError as error:
        log.warning("cannot keep %s: %s", path, error)
    return machine


def _facts(options: Options, threads: int) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "isa": options.isa,
        "threads": threads,
        "kernels": kernel_version(),
        **machine_facts(),
    }


def _machine(options: Options, data: dict[str, Any]) -> Machine:
    """Raises `ValueError` on a figure that cannot be."""
    scale = {str(k): _figure(v, _LEAST, _MOST) for k, v in data["scale"].items()}
    torch_ = {
        str(k): tuple(_figure(c, 0.0, 1e9) for c in v) for k, v in sorted(data["torch"].items())
    }
    return replace(
        assumed_machine(options),
        scale=tuple(sorted(scale.items())),
        torch=tuple(torch_.items()),
        bytes_per_ns=_figure(data["bytes_per_ns"], 0.5, 5000),
        cache_bytes_per_ns=_figure(data["cache_bytes_per_ns"], 0.5, 50_000),
    )


def _figure(value: Any, low: float, high: float) -> float:
    number = float(value)
    if not (math.isfinite(number) and low <= number <= high):
        raise ValueError(f"{value} is outside {low} to {high}")
    return number


def _scales(options: Options, assumed: Machine, threads: int) -> dict[str, float]:
    """Time over the reference core's of each kernel that is measured; "" for all others."""
    plain = replace(options, force_native=True, verify=0, dump=None, profile=False, fuel=None)
    reference = replace(assumed, flops_per_ns=2 * assumed.vector / 0.125, scale=(), torch=())
    graph = parse_graph(_LAYERS)
    weights = LiveWeights({p.name: _weight(p.name, p.type.shape) for p in graph.params})
    lowered = lower_graph(graph, weights, plain, {}, formats=_FORMATS, machine=reference)
    executor = timed_executor(lowered, weights, plain)
    inputs = [torch.randn([int(size) for size in v.type.shape]) for v in graph.inputs]
    with machine_to_itself(options.timing_lock):
        times = layer_times(executor, inputs, _RUNS)
    found: dict[str, float] = {}
    for name, candidates in lowered.context.candidates.items():
        predicted = {c.format: c.predicted_ns for c in candidates}
        found[name] = times[name] / predicted[_FORMATS[name]]
    found[""] = math.exp(sum(map(math.log, found.values())) / len(found))
    return found


def _weight(name: str, shape: Sequence[Any]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    value = torch.randn([int(size) for size in shape], generator=generator)
    kept = torch.rand(value.shape, generator=generator) < _DENSITY
    return value * kept if name in _SPARSE else value


Samples = dict[Cost, list[tuple[Shape, float]]]


def _torch_samples() -> tuple[Samples, float]:
    """Nanoseconds of torch's layers by cost; the median factor by which two sweeps differ."""
    layers = list(_torch_layers())
    times = np.array([[_torch_ns(f, x) for _, _, f, x in layers] for _ in range(_SWEEPS)])
    found: Samples = {}
    for (cost, shape, _, _), ns in zip(layers, times.min(axis=0), strict=True):
        found.setdefault(cost, []).append((shape, float(ns)))
    return found, float(np.median(times.max(axis=0) / times.min(axis=0)))


def _torch_layers() -> Iterator[tuple[Cost, Shape, torch.nn.Module, torch.Tensor]]:
    for rows, columns, n in _TORCH_LINEARS:
        shape = LinearShape(rows, columns, rows * columns, n)
        yield TORCH_LINEAR, shape, torch.nn.Linear(columns, rows), torch.randn(n, columns)
    for rows, channels, kernel, size, groups in _TORCH_CONVS:
        layer = torch.nn.Conv2d(channels, rows, kernel, padding=kernel // 2, groups=groups)
        taps, columns = kernel**2, channels // groups * kernel**2
        conv = ConvShape(rows, columns, rows * columns, size**2, taps, groups)
        cost = TORCH_DEPTHWISE if conv.depthwise else TORCH_CONV
        yield cost, conv, layer, torch.randn(1, channels, size, size)


def _torch_ns(layer: torch.nn.Module, x: torch.Tensor) -> float:
    return least_ns(lambda: layer(x), _EACH_S, time.perf_counter_ns)


def fit(
    cost: Cost, samples: Sequence[tuple[Shape, float]], machine: Machine, threads: int
) -> list[float]:
    """Coefficients >= 0 with the least relative errors of the measured nanoseconds."""
    rows = [cost.values(shape, cost.width(machine), threads)[:-1] for shape, _ in samples]
    return non_negative(np.array(rows), np.array([ns for _, ns in samples]))


def non_negative(terms: Any, times: Any, steps: int = 4000) -> list[float]:
    """argmin |A c - 1| over c >= 0, A = terms / times: relative least squares, one c at a time."""
    a = terms / times[:, None]
    scale = np.maximum(np.linalg.norm(a, axis=0), 1e-300)
    a = a / scale
    gram, right = a.T @ a, a.sum(axis=0)
    c = np.zeros(a.shape[1])
    for _ in range(steps):
        for i in range(len(c)):
            c[i] = max(0.0, c[i] + (right[i] - gram[i] @ c) / max(gram[i, i], 1e-12))
    return [float(x) for x in c / scale]


def _bandwidth(size: int) -> float:
    """Bytes per nanosecond of reading as many bytes, by all threads."""
    data = torch.ones(size // 4)
    return size / least_ns(lambda: data.sum(), _EACH_S, time.perf_counter_ns)


@lru_cache(maxsize=16)
def _calibrated(options: Options, threads: int) -> Machine:
    found = stored_machine(options, threads)
    if found is not None:
        return found
    try:
        return calibrate(options, threads)
    except ToolchainError:  # whoever compiles will say so
        return assumed_machine(options)


def calibrated_machine(options: Options, threads: int) -> Machine:
    """The figures of this machine: of this process, from disk, or measured now."""
    only = Options(
        isa=options.isa,
        cache_dir=options.cache_dir,
        compiler=options.compiler,
        timing_lock=options.timing_lock,
    )
    return _calibrated(only, threads)
