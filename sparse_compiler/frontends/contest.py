"""The end of `max-autotune`: our program against the model itself and against frozen Inductor.

All are called in turn, so that whatever else the machine does meets each of them; the lower
quartile of the rounds decides, since a process that interferes only ever adds to a time. Inductor
is not even compiled where its arithmetic alone, at the peak, would take longer than our program.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..ir.refusal import No
from ..ir.types import evaluate
from ..runtime.measure import machine_to_itself
from ..runtime.pipeline import Lowered
from .frozen import Frozen

log = logging.getLogger(__name__)

OURS, EAGER, INDUCTOR = "sparse_compiler", "eager", "inductor"
_ROUNDS = 21
_SECONDS = 6.0
_MARGIN = 1.01
"""A rival must be faster by this much: what our program has beyond its speed, it keeps in a tie."""
_FAR = 1.2
"""Where each round of one is faster than any round of the others by this much, no more is timed."""
_PEAK = 1.4
"""Real cores run at up to this much above the figures assumed for the peak."""


@dataclass(frozen=True)
class Outcome:
    """winner: `OURS`, `EAGER` or `INDUCTOR`; ms: lower quartile of each that was timed; reason: why
    the winner is not ours, or why Inductor was not tried; None where ours won against both."""

    winner: str
    ms: Mapping[str, float]
    reason: No | None = None
    frozen: Frozen | None = None


def least_dense_ms(lowered: Lowered) -> float:
    """The time below which no dense program can run the native layers, at the machine's peak."""
    machine, hints, flops = lowered.context.machine, lowered.context.hints, 0.0
    for segment in lowered.program.segments:
        samples = int(evaluate(segment.samples, hints))
        flops += sum(
            float(evaluate(call.flops, hints)) * (1 if call.once else samples)
            for call in segment.calls
            if call.weight is not None
        )
    return flops / (_PEAK * machine.dense_flops_per_ns(lowered.context.threads)) / 1e6


def contest(
    ours: Callable[[], object],
    eager: Callable[[], object] | None,
    make_frozen: Callable[[], Frozen | None],
    inputs: Sequence[torch.Tensor],
    least_ms: float,
    lock: Path | None = None,
) -> Outcome:
    """Times all, interleaved. eager: None where it cannot take our place; lock: `timing_lock`."""
    runs: dict[str, Callable[[], object]] = {OURS: ours}
    if eager is not None:
        runs[EAGER] = eager
    first = _interleaved(runs, lock)
    reason, frozen = None, None
    if first[OURS] < least_ms:
        reason = No(
            "dense_bound",
            f"the layers' arithmetic alone takes a dense program {least_ms:.2f} ms, "
            f"ours all in all {first[OURS]:.2f} ms",
        )
    else:
        frozen = make_frozen()
        if frozen is None:
            reason = No("inductor_failed", "Inductor cannot compile the model with frozen weights")
        else:
            run = frozen.run
            runs[INDUCTOR] = lambda: run(*inputs)
            first = _interleaved(runs, lock)
    winner = min(first, key=lambda name: first[name] * (1 if name == OURS else _MARGIN))
    log.info("whole model, ms: %s; %s is kept", first, winner)
    if winner != OURS:
        reason = No(
            f"{winner}_faster",
            f"the whole model takes {first[OURS]:.3f} ms in our program and "
            f"{first[winner]:.3f} ms in {winner}",
        )
    return Outcome(winner, first, reason, frozen if winner == INDUCTOR else None)


def _interleaved(
    runs: Mapping[str, Callable[[], Any]], lock: Path | None = None
) -> dict[str, float]:
    """Lower quartile of each one's milliseconds, after two calls each that do not count."""
    with machine_to_itself(lock):
        return _in_turn({name: _waited(run) for name, run in runs.items()})


def _waited(run: Callable[[], Any]) -> Callable[[], Any]:
    """The call until its results are there: a GPU's are still being computed when it returns."""
    cuda: Any = torch.cuda
    if not cuda.is_initialized():
        return run

    def waited() -> None:
        run()
        torch.cuda.synchronize()

    return waited


def _in_turn(runs: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in runs}
    began = time.perf_counter()
    for turn in range(_ROUNDS + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            taken[name].append((time.perf_counter() - start) * 1e3)
        if turn >= 5 and (_settled(taken) or time.perf_counter() - began > _SECONDS):
            break
    return {name: statistics.quantiles(ms[2:], n=4)[0] for name, ms in taken.items()}


def _settled(taken: Mapping[str, Sequence[float]]) -> bool:
    """Whether no round of one of them took as long as the shortest of any other, by far."""
    first, *others = sorted(taken, key=lambda name: min(taken[name][2:]))
    return all(_FAR * max(taken[first][2:]) < min(taken[name][2:]) for name in others)
