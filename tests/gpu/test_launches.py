"""Segments on a GPU that is not there: graphs, alternatives, times and carried binaries."""

import logging
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import triton
from torch import nn
from triton.runtime.errors import OutOfResources

import sparse_compiler as sc
from sparse_compiler.errors import UnsupportedError
from sparse_compiler.formats.gpu_arch import H100
from sparse_compiler.frontends.export import export_module
from sparse_compiler.options import Options
from sparse_compiler.runtime import gpu_clock, gpu_graphs
from sparse_compiler.runtime.gpu import GpuSegment
from sparse_compiler.runtime.gpu_place import Place
from sparse_compiler.runtime.tune import tune
from sparse_compiler.runtime.weights import LiveWeights
from tests.gpu import fake_gpu
from tests.gpu.fake_gpu import FakeGpu

X = torch.randn(21, 64, generator=torch.Generator().manual_seed(0))
CUDA = torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return fake_gpu.install(monkeypatch)


def model() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64)).eval()
    made[0].weight.data *= torch.rand(96, 64) < 0.1
    return made.requires_grad_(False)


def compiled(made: nn.Module, **options):
    chosen = {"force_native": True, "format": "csr", **options}
    return sc.compile(made, (X,), target="cuda", options=chosen)


@pytest.mark.system
def test_each_call_launches_the_kernels_in_order(gpu: FakeGpu) -> None:
    fast = compiled(model())
    fast(X)
    (segment,) = fast.pipeline.segments
    assert gpu.launched == [launch.kernel for launch in segment.module.launches]
    assert len(segment.module.calls) == len(segment.module.launches)
    assert list(segment.module.calls) == sorted(segment.module.calls)
    assert gpu.log == []


def recorded_with(gpu: FakeGpu, steps: int = 2):
    def step() -> None:
        gpu.launch("kernel")

    return gpu_graphs.recorded([step] * steps, CUDA, "segment")


def test_a_graph_is_recorded_after_one_run_and_replays_it(gpu: FakeGpu) -> None:
    graph = recorded_with(gpu)
    assert gpu.launched == ["kernel"] * 2, "everything is compiled before a graph is recorded"
    assert gpu.log == ["record ['capture_error_mode', 'stream']"]
    graph.replay()
    assert gpu.launched == ["kernel"] * 4


def test_what_cannot_be_recorded_is_launched(gpu: FakeGpu, caplog) -> None:
    gpu.broken = True
    with caplog.at_level(logging.WARNING):
        assert recorded_with(gpu) is None
    assert "%segment runs without a CUDA graph: operation not permitted" in caplog.text
    assert "at line 3" not in caplog.text


def with_graphs(fast) -> None:
    """Lets segments on the CPU record, as those on a device do."""
    for segment in fast.pipeline.segments:
        segment.graphs = True


def test_a_segment_replays_until_sizes_or_weights_change(gpu: FakeGpu) -> None:
    made = model()
    fast = sc.compile(
        made,
        (X,),
        target="cuda",
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        options={"force_native": True, "format": "csr"},
    )
    with_graphs(fast)
    fast(X)
    fast(X)
    record = "record ['capture_error_mode', 'stream']"
    assert gpu.log == [record, "replay", "replay"]
    fast(X[:7])
    assert gpu.log[3:] == [record, "replay"], "other sizes have a graph of their own"
    fast(X)
    assert gpu.log[5:] == ["replay"]
    before = {i: w.arrays["number"] for i, w in fast.pipeline.segments[0].packed.items()}
    made[0].weight[0, 0] += 1.0
    fast(X)
    segment = fast.pipeline.segments[0]
    assert all(segment.packed[i].arrays["number"] is not old for i, old in before.items())
    assert gpu.log[6:] == [], "a graph of the old weights was replayed"


@pytest.mark.system
def test_graphs_can_be_turned_off(gpu: FakeGpu) -> None:
    segment = compiled(model()).pipeline.segments[0].segment
    here = Place(CUDA, H100)
    on, off = (GpuSegment(segment, here, graphs=graphs) for graphs in (True, False))
    assert on.graphs and not off.graphs
    assert not GpuSegment(segment, here, profile=True).graphs, "each launch is timed by itself"


def test_calls_of_several_streams_take_turns(gpu: FakeGpu, monkeypatch) -> None:
    streams = [fake_gpu.Stream(), fake_gpu.Stream()]
    current = [0]
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: streams[current[0]])
    turns = gpu_graphs.Turns(CUDA)
    for stream in (0, 0, 1, 1):
        current[0] = stream
        turns.begin()
        turns.end()
    assert streams[0].waited == [] and len(streams[1].waited) == 1


@pytest.mark.system
def test_index_checks_cannot_be_part_of_a_foreign_graph(gpu: FakeGpu, monkeypatch) -> None:
    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(16, 64), nn.Linear(64, 64)

        def forward(self, ids):
            return self.out(self.table(ids))

    made, ids = Lookup().eval().requires_grad_(False), torch.zeros(2, 5, dtype=torch.long)
    fast = sc.compile(made, (ids,), target="cuda", options={"force_native": True})
    assert any(s.segment.checked for s in fast.pipeline.segments)
    monkeypatch.setattr("sparse_compiler.runtime.gpu.recording", lambda device: True)
    with pytest.raises(UnsupportedError, match="cannot become a part of a CUDA graph"):
        fast(ids)


def test_times_are_those_between_events(gpu: FakeGpu) -> None:
    ran = []
    seconds = gpu_clock.step_seconds([lambda: ran.append(1), lambda: ran.append(2)], CUDA)
    assert ran == [1, 2] and seconds == [1e-3, 1e-3] and gpu.log == ["wait"]


@pytest.mark.system
def test_a_profile_names_each_call(gpu: FakeGpu) -> None:
    profile = compiled(model()).profile(X)
    layers = [row.layer for row in profile.rows if not row.kernel.startswith("(")]
    (segment,) = compiled(model()).pipeline.segments
    assert layers == [call.label for call in segment.segment.calls]
    assert all(row.ms >= 0 for row in profile.rows) and 0.9 < profile.explained < 1.1


@pytest.mark.system
def test_the_fastest_of_equal_launches_is_taken_and_remembered(gpu: FakeGpu) -> None:
    fast = compiled(model())
    (segment,) = fast.pipeline.segments
    number, launch = next(
        (n, one) for n, one in enumerate(segment.module.launches) if "linear" in one.kernel
    )
    others = tuple(replace(launch, warps=warps) for warps in (2, 8))
    launches = [replace(one, others=()) for one in segment.module.launches]
    launches[number] = replace(launch, others=others)
    segment.module = replace(segment.module, launches=tuple(launches))
    times = iter([3.0, 1.0, 2.0])
    segment.bench = lambda step: next(times)
    segment._bound.clear()
    segment.run([X])
    assert list(segment.fastest.values()) == [1]
    segment._bound.clear()
    segment.run([X])  # the times are used up: it remembers


def test_what_the_device_refuses_is_not_the_fastest() -> None:
    def bench(step):
        if step == 0:
            raise OutOfResources(300, 200, "shared memory")
        return float(step)

    assert gpu_clock.fastest([0, 2, 1], bench) == 2


@pytest.mark.system
def test_formats_are_measured_on_the_device(gpu: FakeGpu, tmp_path: Path) -> None:
    made, x = nn.Linear(1024, 512).eval().requires_grad_(False), torch.randn(1, 1024)
    made.weight.data *= torch.rand(512, 1024) < 0.1
    exported = export_module(made, (x,))
    live = LiveWeights(exported.imported.params, made)
    options = Options.from_dict(
        {"target": "cuda", "mode": "max-autotune", "cache_dir": tmp_path, "force_native": True}
    )
    times = tune(exported.imported.graph, live, options, {}, [x])
    assert {format_ for _, format_ in times} >= {"csr", "dense"} and min(times.values()) > 0
    assert [path.name for path in tmp_path.glob("*.json")] == ["tuning-sm_90-fp32.json"]
    ran = len(gpu.launched)
    assert tune(exported.imported.graph, live, options, {}, [x]) == times
    assert len(gpu.launched) == ran, "what was measured is remembered"


@pytest.mark.system
def test_carried_binaries_are_all_that_a_gpu_needs(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Exported here, loaded where the GPU is: triton compiles nothing."""
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path / "here"))
    monkeypatch.setattr(triton.knobs.cache, "manager_class", None)
    monkeypatch.setenv("SPARSE_COMPILER_FORCE_NATIVE", "1")
    made = nn.Sequential(nn.Linear(2048, 1024), nn.LayerNorm(1024), nn.Linear(1024, 8)).eval()
    made.requires_grad_(False)[0].weight.data *= torch.rand(1024, 2048) < 0.1
    x = torch.randn(4, 2048)
    path = sc.export(made, (x,), tmp_path / "model.scz", target="cuda:90")
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path / "elsewhere"))
    started = []
    run = subprocess.run

    def watched(command, *args, **options):
        started.append(Path(str(command[0])).name)
        return run(command, *args, **options)

    monkeypatch.setattr(subprocess, "run", watched)
    fast = sc.load(path, prebuilt=True, options={"target": "cuda"})
    fast(x)
    assert len(gpu.loaded) >= 4 and set(gpu.launched) == set(gpu.loaded)
    assert "ptxas" not in started and all(b.startswith(b"\x7fELF") for b in gpu.loaded.values())
