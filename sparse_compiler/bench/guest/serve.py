"""The worker's loop: one JSON command a line on standard input, one JSON reply a line.

Replies go to a private copy of the original standard output; file descriptor 1 itself is turned
to standard error (the worker's log), so that a library that prints cannot garble a reply.
An engine that raises ends the process: its last log line is the reason the parent reports.
"""

from __future__ import annotations

import glob
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np


class Refusal(Exception):  # noqa: N818 - not an error: a row that says why
    """The engine is missing or cannot serve this case; the message is the row's reason."""

    def __init__(self, status: str, reason: str) -> None:
        self.status, self.reason = status, reason
        super().__init__(reason)


class Runner(Protocol):
    """A model made ready by an engine, with its inputs bound."""

    def run(self) -> Any:
        """Run the model once; what is timed."""

    def outputs(self, result: Any) -> Sequence[np.ndarray[Any, Any]]:
        """What `run` returned as arrays; not timed."""

    def weight_bytes(self) -> int | None:
        """Bytes of weights held for running, or None where the engine does not tell."""


Prepare = Callable[[dict[str, Any]], tuple[Runner, dict[str, Any]]]


def resident_bytes(field: str) -> int:
    """VmRSS or VmHWM (its high-water mark) of this process; 0 where /proc has none."""
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) * 1024
    except FileNotFoundError:
        return 0
    return 0


def reset_peak() -> None:
    """Start the high-water mark anew, where the kernel allows it."""
    try:
        with open("/proc/self/clear_refs", "w") as refs:
            refs.write("5")
    except OSError:
        return


def run_queue_ns() -> int:
    """Time that all threads of this process have spent runnable but not running; 0 if unknown.

    The second field of /proc/PID/task/TID/schedstat (Linux, Documentation/scheduler).
    """
    total = 0
    for path in glob.glob("/proc/self/task/*/schedstat"):
        try:
            with open(path) as stat:
                total += int(stat.read().split()[1])
        except OSError:  # the thread has ended meanwhile
            continue
    return total


class Session:
    """One worker's state: the runner, and what is measured around it."""

    def __init__(self, prepare: Prepare) -> None:
        self._prepare = prepare
        self._runner: Runner | None = None
        self._result: Any = None
        self._rest_from = (time.perf_counter_ns(), time.process_time_ns())
        self._memory_before = 0

    def prepare(self, job: dict[str, Any]) -> dict[str, Any]:
        """Build the model, call it once; seconds of both together and the output's file."""
        try:
            runner, reply = self._prepare(job)
        except Refusal as no:
            return {"status": no.status, "reason": no.reason}
        started = time.perf_counter()
        self._result = runner.run()
        first = time.perf_counter() - started
        self._runner = runner
        reply["compile_s"] += first
        reply["weight_bytes"] = runner.weight_bytes()
        self._memory_before = reply.pop("memory_before", 0)
        return {"status": "ok", **reply}

    def time(self, warm: int) -> dict[str, Any]:
        """`warm` untimed calls, then one timed one: its nanoseconds.

        idle: the share of one core that this process burnt since it last answered. waited:
        nanoseconds that its threads were ready to run while something else had the core.
        """
        assert self._runner is not None, "the parent prepares before it times"
        wall, cpu = time.perf_counter_ns(), time.process_time_ns()
        idle = (cpu - self._rest_from[1]) / max(1, wall - self._rest_from[0])
        run = self._runner.run
        for _ in range(warm):
            run()
        waited = run_queue_ns()
        started = time.perf_counter_ns()
        result = run()
        elapsed = time.perf_counter_ns() - started
        waited = run_queue_ns() - waited
        self._result = result
        return {"ns": elapsed, "idle": idle, "waited": max(0, waited)}

    def burst(self, calls: int) -> dict[str, Any]:
        """Median nanoseconds of `calls` calls one after another: a tiny model's overhead."""
        assert self._runner is not None, "the parent prepares before it times"
        run = self._runner.run
        times = []
        for _ in range(calls):
            started = time.perf_counter_ns()
            run()
            times.append(time.perf_counter_ns() - started)
        return {"ns": float(np.median(times))}

    def save(self, path: str) -> dict[str, Any]:
        """Write the newest outputs to `path` (.npz)."""
        assert self._runner is not None, "the parent prepares before it saves"
        arrays = self._runner.outputs(self._result)
        named: dict[str, Any] = {f"out{i}": np.asarray(a) for i, a in enumerate(arrays)}
        np.savez(path, **named)
        return {"count": len(arrays)}

    def memory(self) -> dict[str, Any]:
        """Peak resident bytes since before the model was loaded."""
        return {"peak": max(0, resident_bytes("VmHWM") - self._memory_before)}

    def mark_rest(self) -> None:
        """What is burnt from here to the next command was burnt while others were timed."""
        self._rest_from = (time.perf_counter_ns(), time.process_time_ns())


def answer(service: Any, after: Callable[[], None] = lambda: None) -> None:
    """Answer each command with `service.<do>(**arguments)` until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    for line in sys.stdin:
        command = json.loads(line)
        reply = getattr(service, command.pop("do"))(**command)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
        after()


def serve(prepare: Prepare) -> None:
    """Be the worker of one engine until standard input ends."""
    session = Session(prepare)
    answer(session, session.mark_rest)
