"""Tuning: what is measured, what is remembered, and what of a file is believed."""

import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock, Timeout

from sparse_compiler.frontends.export import export_module
from sparse_compiler.options import Options
from sparse_compiler.passes.base import Candidate
from sparse_compiler.runtime import tune as module
from sparse_compiler.runtime.pipeline import lower_graph
from sparse_compiler.runtime.tune import TuningCache, leading, tune
from sparse_compiler.runtime.weights import LiveWeights

X = torch.randn(64, 96)


def net(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(96, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64))
    for layer in (model[0], model[2]):
        layer.weight.data *= torch.rand_like(layer.weight) < 0.5
    return model.eval().requires_grad_(False)


def tuned(options: Options, model: torch.nn.Module) -> dict[tuple[str, str], float]:
    exported = export_module(model, (X,))
    live = LiveWeights(exported.imported.params, model)
    return tune(exported.imported.graph, live, options, {}, [X])


@pytest.fixture
def options(tmp_path, cached_kernels) -> Options:
    return Options.from_env(force_native=True)


@pytest.fixture
def measured(monkeypatch):
    """Instead of compiling and a clock: times by the formats' names; what was asked for."""
    asked = []
    monkeypatch.setattr(
        module, "timed_executor", lambda lowered, *rest: SimpleNamespace(program=lowered.program)
    )

    def times(executor, inputs, runs):
        asked.append(runs)
        packed = {
            call.label: entry.type.format
            for segment in executor.program.segments
            for call in segment.calls
            if call.weight is not None
            for entry in [segment.weights[call.weight]]
        }
        return {label: float(1000 + len(format_)) for label, format_ in packed.items()}

    monkeypatch.setattr(module, "layer_times", times)
    return asked


def test_all_candidates_of_all_layers_are_measured_once(options, measured, tmp_path) -> None:
    options = Options.from_env(force_native=True, cache_dir=tmp_path)
    found = tuned(options, net())
    layers = {layer for layer, _ in found}
    assert len(layers) == 2
    for layer in layers:
        formats = {f for name, f in found if name == layer}
        assert {"csr", "dense"} <= formats
    programs = len(measured)
    assert programs == max(sum(name == layer for name, _ in found) for layer in layers)
    assert tuned(options, net()) == found
    assert len(measured) == programs, "remembered"
    tuned(options, net(seed=1))
    assert len(measured) > programs, "other zeros are another layer"


def test_progress_is_shown(measured, tmp_path, monkeypatch, capsys, caplog) -> None:
    def shown() -> tuple[str, str]:
        caplog.clear()
        folder = tmp_path / str(sys.stderr.isatty())
        tuned(Options.from_env(force_native=True, cache_dir=folder), net())
        return capsys.readouterr().err, caplog.text

    with caplog.at_level("INFO", logger="sparse_compiler"):
        err, logged = shown()
        assert "tuning: program 1 of" in logged
        assert "tuning" not in err
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        err, logged = shown()
        assert "tuning: program 1 of" not in logged
        assert "tuning" in err, "a bar"


def test_only_the_clock_holds_the_lock(measured, tmp_path, monkeypatch) -> None:
    lock = FileLock(tmp_path / "lock", timeout=0)
    held = []

    def free() -> bool:
        try:
            with lock:
                return True
        except Timeout:
            return False

    def watched(name):
        inner = getattr(module, name)

        def note(*args):
            held.append((name, not free()))
            return inner(*args)

        monkeypatch.setattr(module, name, note)

    watched("timed_executor")
    watched("layer_times")
    folders = {"cache_dir": tmp_path, "timing_lock": tmp_path / "lock"}
    tuned(Options.from_env(force_native=True, **folders), net())
    assert set(held) == {("timed_executor", False), ("layer_times", True)}
    assert free()


def test_the_faster_by_the_clock_is_chosen(options) -> None:
    model = net()
    exported = export_module(model, (X,))
    live, graph = LiveWeights(exported.imported.params, model), exported.imported.graph
    for best, other in (("csr", "dense"), ("dense", "csr")):
        layer = next(iter(lower_graph(graph, live, options, {}).context.candidates))
        times = {(layer, best): 1000.0, (layer, other): 2000.0}
        lowered = lower_graph(graph, live, options, {}, measured=times)
        chosen = {c.format: c for c in lowered.context.candidates[layer]}
        assert chosen[best].refused is None
        assert chosen[best].measured_ns == 1000.0
        assert chosen[other].refused is not None
        assert chosen[other].refused.code == "measured_slower"


def candidates(**times: float) -> list[Candidate]:
    return [Candidate(name, ns) for name, ns in times.items()]


def test_the_leading_candidates() -> None:
    assert leading(candidates(csr=100.0, dense=150.0, block=90.0, torch=1.0)) == [
        "block",
        "csr",
        "dense",
    ]
    assert leading(candidates(csr=100.0, dense=300.0)) == ["csr", "dense"], "dense is asked"
    assert leading(candidates(csr=100.0, dense=900.0)) == ["csr"], "unless it is hopeless"
    assert leading(candidates(csr=math.nan, dense=9.0)) == ["dense"]
    many = candidates(**{f"f{i}": 100.0 + i for i in range(9)}, dense=150.0)
    assert len(leading(many)) == module.LEADING
    assert leading(many)[-1] == "dense"


# --- the file -------------------------------------------------------------------------------------


def test_the_file_comes_back(tmp_path) -> None:
    options = Options(cache_dir=tmp_path)
    TuningCache.open(options, 2).add({"k": {"csr": 10.0}})
    TuningCache.open(options, 2).add({"k": {"dense": 20.0}, "l": {"csr": 1.0}})
    known = TuningCache.open(options, 2).known
    assert known == {"k": {"csr": 10.0, "dense": 20.0}, "l": {"csr": 1.0}}
    assert TuningCache.open(options, 1).known == {}, "of another number of threads"


@pytest.mark.parametrize("fact", ["cpu", "torch", "kernels", "threads", "isa", "schema"])
def test_a_foreign_or_stale_file_is_not_believed(tmp_path, fact) -> None:
    options = Options(cache_dir=tmp_path)
    cache = TuningCache.open(options, 2)
    cache.add({"k": {"csr": 10.0}})
    data = json.loads(cache.path.read_text())
    data["facts"][fact] = "another"
    cache.path.write_text(json.dumps(data))
    again = TuningCache.open(options, 2)
    assert again.known == {}
    again.add({"l": {"csr": 1.0}})
    assert TuningCache.open(options, 2).known == {"l": {"csr": 1.0}}, "made anew"


@pytest.mark.parametrize(
    "layers",
    [
        None,
        [],
        {"k": None},
        {"k": {"csr": -1.0}},
        {"k": {"csr": math.nan}},
        {"k": {"csr": "fast"}},
        {"k": {"csr": True}},
    ],
)
def test_a_damaged_file_is_not_believed(tmp_path, layers) -> None:
    options = Options(cache_dir=tmp_path)
    cache = TuningCache.open(options, 2)
    cache.path.write_text(json.dumps({"facts": dict(cache.facts), "layers": layers}))
    assert TuningCache.open(options, 2).known == {}
    cache.path.write_text("{")
    assert TuningCache.open(options, 2).known == {}


def test_a_format_that_no_longer_exists_is_not_chosen(tmp_path, measured) -> None:
    """An entry for a format that is no candidate is left alone."""
    options = Options.from_env(force_native=True, cache_dir=tmp_path)
    model = net()
    tuned(options, model)
    cache = TuningCache.open(options, torch.get_num_threads())
    cache.add({key: {"no_such_format": 0.001} for key in cache.known})
    assert all(format_ != "no_such_format" for _, format_ in tuned(options, model))
