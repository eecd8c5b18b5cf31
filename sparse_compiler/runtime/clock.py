"""Where the time of calls went, for profiles: filled by segments and executors built with a clock.

A segment adds up, in its first thread, what passes in each call and in each wait before one. All
threads work at the same time, so this is the time of the call as a whole.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Spent:
    """Seconds of `runs` runs of a segment at one set of sizes, with that many threads.

    work, wait: per call, in it and waiting before it; end: waiting at the end of chunks; total:
    of the whole runs, with binding of shapes and entering the library.
    """

    symbols: Mapping[str, int]
    threads: int
    work: list[float]
    wait: list[float]
    end: float = 0.0
    total: float = 0.0
    runs: int = 0


@dataclass
class SegmentClock:
    """What a segment spent, per set of sizes. calls: how many the segment makes."""

    calls: int
    spent: dict[tuple[Any, ...], Spent] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def counters(self) -> Any:
        """Zeros that one run of the library adds to; see `print_segment`."""
        return (ctypes.c_double * (2 * self.calls + 1))()

    def add(self, symbols: Mapping[str, int], threads: int, counters: Any, seconds: float) -> None:
        """Enters one run, which took `seconds` in all."""
        n = self.calls
        key = (*sorted(symbols.items()), threads)
        with self._lock:
            if key not in self.spent:
                self.spent[key] = Spent(dict(symbols), threads, [0.0] * n, [0.0] * n)
            spent = self.spent[key]
            spent.work = [a + b for a, b in zip(spent.work, counters[:n], strict=True)]
            spent.wait = [a + b for a, b in zip(spent.wait, counters[n : 2 * n], strict=True)]
            spent.end += counters[2 * n]
            spent.total += seconds
            spent.runs += 1


@dataclass
class StepClock:
    """Seconds of each step of a program, summed over `runs` calls of seconds `total` in all."""

    steps: Sequence[Any]
    seconds: list[float] = field(init=False)
    total: float = 0.0
    runs: int = 0
    warm: bool = False
    """Whether the first call is left out."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _mine: threading.local = field(default_factory=threading.local, repr=False)

    def __post_init__(self) -> None:
        self.seconds = [0.0] * len(self.steps)

    def clear(self) -> None:
        """Nothing was measured yet."""
        with self._lock:
            self.seconds[:] = [0.0] * len(self.steps)
            self.total, self.runs = 0.0, 0

    def start(self) -> None:
        """The first step begins."""
        self._mine.last = time.perf_counter()

    def tick(self, step: int) -> None:
        """A step ends, and the next one begins."""
        now = time.perf_counter()
        with self._lock:
            self.seconds[step] += now - self._mine.last
        self._mine.last = now

    def finish(self, seconds: float) -> None:
        """A whole call, with all that Python does around it, took `seconds`."""
        with self._lock:
            self.total += seconds
            self.runs += 1
