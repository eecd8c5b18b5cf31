"""A GPU that is not there: triton's driver and torch.cuda as far as launches need them, recorded.

Tensors stay on the CPU and kernels do nothing; what is compiled, loaded, launched, recorded and
replayed is what a real device would get.
"""

from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from sparse_compiler.formats.gpu_arch import H100, Arch
from sparse_compiler.runtime import gpu_place, gpu_road, hosted, pipeline
from sparse_compiler.runtime.gpu_place import Place


@dataclass
class FakeGpu:
    """launched: names of kernels in order; loaded: binaries by name; log: what torch.cuda was asked
    for; broken: makes recording fail."""

    arch: Arch = H100
    launched: list[str] = field(default_factory=list)
    loaded: dict[str, bytes] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    broken: bool = False
    recording: Any = None
    shared: int = 227 << 10

    # --- triton's driver --------------------------------------------------------------------------

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", int(self.arch.chip), 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        def launch(*args: Any) -> None:
            self.launch(metadata.name)

        return launch

    @property
    def utils(self) -> Any:
        return SimpleNamespace(
            load_binary=self._load,
            get_device_properties=lambda device: {"max_shared_mem": self.shared},
        )

    def _load(self, name: str, binary: bytes, shared: int, device: int) -> tuple[Any, ...]:
        self.loaded[name] = binary
        return object(), object(), 32, 0, 1024

    def launch(self, name: str) -> None:
        (self.launched if self.recording is None else self.recording.kept).append(name)

    # --- torch.cuda -------------------------------------------------------------------------------

    @contextmanager
    def graph(self, graph: Any, **options: Any) -> Any:
        self.log.append(f"record {sorted(options)}")
        self.recording = graph
        try:
            yield
            if self.broken:
                raise RuntimeError("operation not permitted when stream is capturing\nat line 3")
        finally:
            self.recording = None


def fake_graph(gpu: FakeGpu) -> Any:
    """A class in the place of `torch.cuda.CUDAGraph`."""

    class Graph:
        def __init__(self) -> None:
            self.kept: list[str] = []

        def replay(self) -> None:
            gpu.log.append("replay")
            gpu.launched += self.kept

    return Graph


class Event:
    """Times are 1 ms for each event that was recorded."""

    count = 0

    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0

    def record(self, stream: Any = None) -> None:
        Event.count += 1
        self.at = Event.count

    def elapsed_time(self, later: "Event") -> float:
        return float(later.at - self.at)


class Stream:
    """A stream whose waits are written down."""

    def __init__(self, device: Any = None) -> None:
        self.waited: list[Any] = []

    def wait_stream(self, stream: Any) -> None:
        self.waited.append(stream)

    def wait_event(self, event: Any) -> None:
        self.waited.append(event)


@contextmanager
def nothing(*args: Any, **options: Any) -> Any:
    yield


def install(monkeypatch: pytest.MonkeyPatch, arch: Arch = H100) -> FakeGpu:
    """Puts the fake in the place of the real ones; programs for "cuda" run on it."""
    gpu = FakeGpu(arch)
    monkeypatch.setattr(driver, "_active", gpu)
    stream = Stream()
    for name, value in {
        "current_stream": lambda device=None: stream,
        "stream": nothing,
        "device": nothing,
        "Stream": Stream,
        "Event": Event,
        "CUDAGraph": fake_graph(gpu),
        "graph": gpu.graph,
        "synchronize": lambda device=None: gpu.log.append("wait"),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    here = Place(torch.device("cpu"), arch)
    for module in (gpu_place, gpu_road, hosted, pipeline):
        monkeypatch.setattr(module, "place_of", lambda target, params: here)
    return gpu
