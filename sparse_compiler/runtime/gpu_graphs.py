"""The launches of a segment recorded as a CUDA graph: one call of the driver in place of many.

A graph replays fixed addresses. So a segment copies its inputs into tensors of its own, packs
changed weights into new ones and records again, and keeps one graph for each set of sizes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from ..errors import first_line
from .gpu_clock import Step

log = logging.getLogger(__name__)


def recorded(steps: Sequence[Step], device: torch.device, name: str) -> Any:
    """A CUDA graph of the steps, None where they cannot be recorded: then they are launched.

    They run once before, on the same side stream, so that triton has compiled them and cuBLAS has
    its workspace: neither may happen while a graph is recorded.
    """
    stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for step in steps:
            step()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        # Other threads may go on allocating: only what this one does is held to the rules.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            for step in steps:
                step()
    except RuntimeError as error:
        log.warning("%%%s runs without a CUDA graph: %s", name, first_line(error))
        return None
    return graph


class Turns:
    """Lets calls from several streams use the same memory, one after the other.

    Within a stream that is so anyway; a call in another one first waits for the last.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._last: tuple[Any, Any] | None = None

    def begin(self) -> None:
        """Before the first write of a call."""
        if self.device.type != "cuda" or self._last is None:
            return
        stream, event = self._last
        current = torch.cuda.current_stream(self.device)
        if stream != current:
            current.wait_event(event)

    def end(self) -> None:
        """After the last read of a call."""
        if self.device.type != "cuda":
            return
        stream = torch.cuda.current_stream(self.device)
        event: Any = self._last[1] if self._last else torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(stream)
        self._last = stream, event


def recording(device: torch.device) -> bool:
    """Whether somebody else records the current stream: nothing may be replayed or waited for."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
