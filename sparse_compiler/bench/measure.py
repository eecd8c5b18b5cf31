"""The rounds: each engine in turn, a rest before each, one untimed call, one timed call.

All workers stay alive between rounds, and rest; how much processor time each burnt at rest is
recorded, so an engine whose idle threads spin into another's time shows in its row.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sparse_compiler.runtime.measure import machine_to_itself

from .host import Worker, WorkerError
from .machine import busy_jiffies

FEWEST = 5


def _lock_path() -> Path:
    return Path(tempfile.gettempdir()) / f"sparse-compiler-bench-{os.getuid()}.lock"


@dataclass(frozen=True)
class Method:
    """How times are taken. Limits in seconds; tolerance as relative error (max|a−b| ÷ max|b|).

    A call is disturbed when its threads waited for a core for more than disturbed_share of its
    time, because something else ran there; it is timed again, up to `retries` times and while
    the engine's budget for it lasts (in each case). lock_s: the lock is passed on after so long.
    """

    rounds: int = 25
    warmup: int = 3
    rest_ms: float = 30.0
    tolerance: float = 1e-3
    prepare_limit_s: float = 900.0
    run_limit_s: float = 60.0
    lock: Path = field(default_factory=_lock_path)
    lock_s: float = 30.0
    retries: int = 4
    retry_budget_s: float = 12.0
    disturbed_share: float = 0.05


@dataclass
class Samples:
    """What the rounds gave: nanoseconds by engine, idle shares, and who failed on the way.

    disturbed: by engine, for each round whether its time was kept although it was disturbed.

    busy, ticks: processor ticks used, and all there were, while every engine rested: what others
    on the machine took.
    """

    ns: dict[str, list[int]] = field(default_factory=dict)
    idle: dict[str, list[float]] = field(default_factory=dict)
    failed: dict[str, WorkerError] = field(default_factory=dict)
    disturbed: dict[str, list[bool]] = field(default_factory=dict)
    retried_s: dict[str, float] = field(default_factory=dict)
    busy: int = 0
    ticks: int = 0

    @property
    def busy_share(self) -> float | None:
        """Share of all cores that something else used while the engines rested."""
        return self.busy / self.ticks if self.ticks else None


def run_rounds(
    workers: Mapping[str, Worker],
    method: Method,
    progress: Callable[[int, Samples], None],
    samples: Samples,
    seed: int = 0,
) -> None:
    """Fill `samples` with method.rounds timed calls of each worker, interleaved.

    The order within a round is shuffled (seeded), so no engine always follows the same other. An
    interrupt leaves whole rounds in `samples`: a round counts when each engine has finished it.
    """
    order = list(workers)
    shuffle = random.Random(seed).shuffle
    for name in order:
        samples.ns.setdefault(name, [])
        samples.disturbed.setdefault(name, [])
        samples.retried_s.setdefault(name, 0.0)
        samples.idle.setdefault(name, [])
    done = 0
    while done < method.rounds and order:
        with machine_to_itself(method.lock):
            for name in list(order):
                _timed_call(name, workers[name], method, method.warmup, samples)
            locked = time.monotonic()
            while done < method.rounds and order and time.monotonic() - locked < method.lock_s:
                order = [name for name in order if name not in samples.failed]
                shuffle(order)
                taken = {n: _attempt(n, workers[n], method, samples) for n in order}
                for name, (ns, share) in taken.items():
                    samples.ns[name].append(ns)
                    samples.disturbed[name].append(share > method.disturbed_share)
                done += 1
                progress(done, samples)


def _attempt(name: str, worker: Worker, method: Method, samples: Samples) -> tuple[int, float]:
    """(nanoseconds, share of them spent waiting for a core) of the least disturbed of some calls.

    (0, 0) from an engine that failed: it has left the rounds.
    """
    tries: list[tuple[float, int]] = []
    while len(tries) <= method.retries:
        began = time.monotonic()
        reply = _timed_call(name, worker, method, 1, samples)
        if reply is None:
            return 0, 0.0
        if tries:
            samples.retried_s[name] += time.monotonic() - began
        ns = int(reply["ns"])
        tries.append((float(reply["waited"]) / max(1, ns), ns))
        if (
            tries[-1][0] <= method.disturbed_share
            or samples.retried_s[name] > method.retry_budget_s
        ):
            break
    share, ns = min(tries)
    return ns, share


def _timed_call(
    name: str, worker: Worker, method: Method, warm: int, samples: Samples
) -> dict[str, Any] | None:
    """Rest, then let the worker make its untimed and its timed call."""
    busy, ticks = busy_jiffies()
    time.sleep(method.rest_ms / 1e3)
    busy_after, ticks_after = busy_jiffies()
    samples.busy += busy_after - busy
    samples.ticks += ticks_after - ticks
    try:
        reply = worker.ask("time", method.run_limit_s, warm=warm)
    except WorkerError as error:
        samples.failed[name] = error
        return None
    samples.idle[name].append(float(reply["idle"]))
    return reply


def clean_rounds(*disturbed: Sequence[bool]) -> list[int]:
    """The rounds in which none of these engines was disturbed; all, where fewer than FEWEST."""
    every = range(min(map(len, disturbed)))
    clean = [i for i in every if not any(flags[i] for flags in disturbed)]
    return clean if len(clean) >= FEWEST else list(every)


def spread_ms(ns: Sequence[int]) -> tuple[float, float, float]:
    """(median, lower quartile, upper quartile) in milliseconds."""
    low, median, high = np.quantile(np.asarray(ns, float) / 1e6, [0.25, 0.5, 0.75])
    return float(median), float(low), float(high)
