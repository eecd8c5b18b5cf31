"""What this machine does with our kernels and with torch's: measured once, then read from disk.

Of ours, a few layers say how the time of each kernel compares with the reference core's. Of torch's
dense linear and convolution a few layers give the coefficients of the same formulas. The file names
all that a figure depends on; where any of it is another now, it is measured again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..codegen.cpu.build import kernel_version
from ..errors import ToolchainError
from ..files import replacing
from ..formats.coefficients import COEFFICIENTS, ON_REFERENCE_CORE
from ..formats.cost import Cost, Machine, Shape
from ..options import Options
from .calibration_layers import measure
from .machine import assumed_machine, machine_facts

log = logging.getLogger(__name__)

SCHEMA = 3
_STEADY = 1.3
"""Where a usual round takes longer than the least one by more than this, something else ran."""
_RETRY_S = 3600.0
"""How long what was measured on a busy machine counts, before it is measured again."""
_LEAST, _MOST = 0.05, 50.0
"""Times of the reference core's: a figure outside is no measurement."""


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
            figures = measure(options, assumed)
    finally:
        torch.set_num_threads(before)
    data = {
        "facts": _facts(options, threads),
        "scale": figures.scales(assumed.vector),
        "torch": {c.kernel: fit(c, s, assumed, threads) for c, s in figures.torch.items()},
        "bytes_per_ns": figures.bytes_per_ns,
        "cache_bytes_per_ns": figures.cache_bytes_per_ns,
    }
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
        if figures.spread > _STEADY:
            log.info("calibration: something else ran (times differ %.2f-fold)", figures.spread)
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
        "costs": hashlib.sha256(repr((COEFFICIENTS, ON_REFERENCE_CORE)).encode()).hexdigest()[:16],
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
