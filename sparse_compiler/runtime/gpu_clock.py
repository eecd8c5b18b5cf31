"""Times on a device: CUDA events around launches for profiles, triton's do_bench for tuning."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch

Step = Callable[[], None]


class _Moment:
    """What an event is where kernels run by triton's interpreter, on the CPU."""

    def __init__(self, enable_timing: bool) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, later: _Moment) -> float:
        return (later.at - self.at) * 1e3


def step_seconds(steps: Sequence[Step], device: torch.device) -> list[float]:
    """Runs the steps and gives the seconds of each between events on the device, then waits.

    Launches queue behind one another, so what Python does between two is not in these times where
    the device is the slower of both.
    """
    cuda = device.type == "cuda"
    event: Any = torch.cuda.Event if cuda else _Moment
    moments = [event(enable_timing=True) for _ in range(len(steps) + 1)]
    moments[0].record()
    for step, after in zip(steps, moments[1:], strict=True):
        step()
        after.record()
    if cuda:
        torch.cuda.synchronize(device)
    return [a.elapsed_time(b) / 1e3 for a, b in pairwise(moments)]


def bench_ms(step: Step) -> float:
    """Median milliseconds of a launch with a cold cache, as `triton.testing.do_bench` takes it."""
    from triton.testing import do_bench

    return float(do_bench(step, warmup=5, rep=20, return_mode="median"))


def fastest(steps: Sequence[Step], bench: Callable[[Step], float] = bench_ms) -> int:
    """Which of several launches of the same result takes least; the first of equals.

    One that the device refuses, as for too much shared memory, is left out unless all are.
    """
    times = [_time(step, bench) for step in steps]
    return min(range(len(steps)), key=times.__getitem__)


def _time(step: Step, bench: Callable[[Step], float]) -> float:
    from triton.runtime.errors import OutOfResources

    try:
        return bench(step)
    except OutOfResources:
        return float("inf")


__all__ = ["bench_ms", "fastest", "step_seconds"]
