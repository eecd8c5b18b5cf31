"""Times of kernel calls inside a program, from the clocks that its segments were built with.

The least of several runs counts: what else the machine does can only add to a time.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from ..codegen.cpu.build import interruptible
from ..options import Options
from .constants import BoundConstants
from .executor import Executor
from .native import NativeSegment
from .pipeline import Lowered, program_values, toolchain_for
from .weights import LiveWeights

_WARM_UP = 2


@contextmanager
def machine_to_itself(path: Path | None) -> Iterator[None]:
    """Waits for the lock file that timing processes share, and holds it; None: there is none."""
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open(
        "a"
    ) as stream:  # flock itself queues; FileLock asks again and again, and starves
        fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(stream, fcntl.LOCK_UN)


def timed_executor(lowered: Lowered, weights: LiveWeights, options: Options) -> Executor:
    """The program of `lowered`, compiled with clocks, on the weights as they are now."""
    program = lowered.program
    values = program_values(program, lowered.source, weights.on_cpu().tensors)
    if options.target != "cpu":
        from .gpu_road import timed_on

        return timed_on(lowered, values, weights.tensors, options)
    segments: list[NativeSegment] = []
    if program.segments:
        toolchain = toolchain_for(options)
        constants = BoundConstants(lowered.graph, program.bind, values.kept)
        with ThreadPoolExecutor(os.cpu_count()) as pool, interruptible():
            made = [
                pool.submit(NativeSegment, s, toolchain, constants, profile=True)
                for s in program.segments
            ]
            segments = [job.result() for job in made]
    for segment in segments:
        segment.load_weights(values, lowered.context.hints)
    return Executor(lowered.source, program, segments, values.kept)


def layer_times(executor: Executor, inputs: Sequence[torch.Tensor], runs: int) -> dict[str, float]:
    """Least nanoseconds of each call with a packed weight, by the graph value that it computes."""
    best: dict[str, float] = {}
    inputs = [x.to(executor.device) for x in inputs]
    with torch.no_grad():
        for i in range(_WARM_UP + runs):
            for segment in executor.segments:
                if segment.clock is not None:
                    segment.clock.spent.clear()
            executor(inputs)
            if i >= _WARM_UP:
                for name, ns in _last_run(executor).items():
                    best[name] = min(best.get(name, ns), ns)
    return best


def _last_run(executor: Executor) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for segment in executor.segments:
        spent = next(iter(segment.clock.spent.values()), None) if segment.clock else None
        if spent is None:
            continue
        for call, seconds in zip(segment.segment.calls, spent.work, strict=True):
            if call.weight is not None:
                found[call.label] = found.get(call.label, 0.0) + seconds * 1e9
    return found


def least_ns(run: Callable[[], object], seconds: float, clock: Callable[[], int]) -> float:
    """Least nanoseconds of `run` over as many calls as fit into `seconds`, at least three."""
    run()
    best, began, count = float("inf"), clock(), 0
    while count < 3 or clock() - began < seconds * 1e9:
        start = clock()
        run()
        best = min(best, clock() - start)
        count += 1
    return best
