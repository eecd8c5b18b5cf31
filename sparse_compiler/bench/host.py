"""The parent's side of a worker: start it, ask, wait no longer than the limit, end it.

A crash, a hang and a Python error each become a WorkerError with a reason fit for a table row.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

STOP_GRACE_S = 2.0


class WorkerError(Exception):
    """status: "crashed", "timeout" or "failed"; reason: one sentence for the row."""

    def __init__(self, status: str, reason: str) -> None:
        self.status, self.reason = status, reason
        super().__init__(reason)


class Worker:
    """One engine's subprocess, in a session of its own so that its children end with it."""

    def __init__(self, command: list[str], env: Mapping[str, str], log: Path) -> None:
        self.log = log
        self._buffer = b""
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env=dict(env),
                start_new_session=True,
            )

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def ask(self, do: str, limit_s: float, **arguments: Any) -> dict[str, Any]:
        """Send one command and wait for its reply; WorkerError where none comes."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write((json.dumps({"do": do, **arguments}) + "\n").encode())
            stdin.flush()
        except BrokenPipeError:
            raise self._death(do) from None
        return self._reply(do, limit_s)

    def stop(self) -> None:
        """End the process and its children; wait for it."""
        if self._process.poll() is None:
            if self._process.stdin is not None:
                self._process.stdin.close()
            try:
                self._process.wait(timeout=STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                self._kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None and not stream.closed:
                stream.close()

    def _reply(self, do: str, limit_s: float) -> dict[str, Any]:
        stdout = self._process.stdout
        assert stdout is not None
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            ready = select.select([stdout], [], [], max(0.0, left))[0]
            if not ready:
                self._kill()
                raise WorkerError("timeout", f"no answer to '{do}' within {limit_s:g} s; ended")
            part = os.read(stdout.fileno(), 65536)
            if not part:
                raise self._death(do)
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _death(self, do: str) -> WorkerError:
        code = self._process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            return WorkerError("crashed", f"the process died of {name} during '{do}'")
        last = _last_line(self.log)
        return WorkerError("failed", last or f"the process ended with code {code} during '{do}'")


def _last_line(log: Path) -> str:
    """The error that a traceback ends with, its type first, on one line of 300 characters."""
    lines = log.read_text(errors="replace").splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("Traceback (most recent")]
    if not starts:
        return next((line.strip() for line in reversed(lines) if line.strip()), "")[:300]
    body = lines[starts[-1] + 1 :]
    first = next((i for i, line in enumerate(body) if line and not line[0].isspace()), 0)
    return " ".join(" ".join(body[first:]).split())[:300]
