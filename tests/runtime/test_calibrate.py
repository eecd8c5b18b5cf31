"""Calibration: what is kept on disk is used only for the machine and the kernels it is of."""

import json
import math
import time

import pytest
import torch

from sparse_compiler.formats.cost import Machine
from sparse_compiler.options import Options
from sparse_compiler.runtime import calibrate as module
from sparse_compiler.runtime.calibrate import calibration_path, stored_machine
from sparse_compiler.runtime.calibration_layers import Figures
from sparse_compiler.runtime.machine import assumed_machine, machine_for

FIGURES = {
    "scale": {"": 1.5, "linear_csr": 2.0},
    "torch": {"torch_linear": [4000.0, 0.3, 0.01]},
    "bytes_per_ns": 20.0,
    "cache_bytes_per_ns": 50.0,
}


@pytest.fixture
def options(tmp_path) -> Options:
    return Options(cache_dir=tmp_path)


def write(options: Options, **changes) -> None:
    data = {"facts": module._facts(options, 2), **FIGURES} | changes
    calibration_path(options, 2).write_text(json.dumps(data))


def test_figures_come_back(options) -> None:
    write(options)
    machine = stored_machine(options, 2)
    assert machine is not None
    assert machine.scale_of("linear_csr") == 2.0
    assert machine.scale_of("linear_block_4") == 2.0, "not measured: as csr for such layers"
    assert machine.scale_of("conv_block_4") == 1.5, "none of such layers measured: as all others"
    assert machine.torch_coefficients("torch_linear") == (4000.0, 0.3, 0.01)
    assert machine.bytes_per_ns == 20.0


def test_nothing_there(options) -> None:
    assert stored_machine(options, 2) is None


@pytest.mark.parametrize(
    "fact", ["cpu", "torch", "kernels", "threads", "isa", "cores", "schema", "costs"]
)
def test_a_foreign_or_stale_file_is_refused(options, fact) -> None:
    write(options, facts={**module._facts(options, 2), fact: "another"})
    assert stored_machine(options, 2) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"facts": 1}',
        "\x00\x01",
    ],
)
def test_a_damaged_file_is_refused(options, text) -> None:
    calibration_path(options, 2).write_text(text)
    assert stored_machine(options, 2) is None


@pytest.mark.parametrize(
    "change",
    [
        {"scale": {"": math.nan}},
        {"scale": {"": -1.0}},
        {"scale": {"": 1e9}},
        {"scale": []},
        {"scale": {"": "fast"}},
        {"torch": {"torch_linear": [math.inf]}},
        {"torch": {"torch_linear": 3}},
        {"bytes_per_ns": 0},
    ],
)
def test_a_figure_that_cannot_be_is_refused(options, change) -> None:
    write(options, **change)
    assert stored_machine(options, 2) is None


def test_a_stale_file_is_made_again(options, monkeypatch) -> None:
    module._calibrated.cache_clear()
    write(options, facts={"schema": 0})
    made = []
    monkeypatch.setattr(module, "calibrate", lambda o, t: made.append(t) or Machine(16))
    assert module.calibrated_machine(options, 2) == Machine(16)
    assert module.calibrated_machine(options, 2) == Machine(16)
    assert made == [2], "once for each process"
    module._calibrated.cache_clear()


def test_a_busy_machine_is_measured_again_after_an_hour(options, monkeypatch, caplog) -> None:
    """Figures that cannot be are not kept, but that they were is: each process would lose time."""
    caplog.set_level("INFO", "sparse_compiler")
    figures = Figures({"linear_dense": 1.0, "linear_csr": 1e4}, {}, 20.0, 50.0, 1.0)
    monkeypatch.setattr(module, "measure", lambda *a: figures)
    assert module.calibrate(options, 2) == assumed_machine(options)
    (said,) = [r for r in caplog.records if "busy" in r.message]
    assert (said.levelname, said.message.split()[0]) == ("INFO", "calibration:")
    assert stored_machine(options, 2) == assumed_machine(options)
    later = time.time() + 3700
    monkeypatch.setattr(module.time, "time", lambda: later)
    assert stored_machine(options, 2) is None


def test_unsteady_figures_count_for_an_hour(options) -> None:
    write(options, busy_at=time.time() - 3000)
    machine = stored_machine(options, 2)
    assert machine is not None
    assert machine.scale_of("linear_csr") == 2.0
    for busy_at in (time.time() - 3700, time.time() + 3700, "now"):
        write(options, busy_at=busy_at)
        assert stored_machine(options, 2) is None


def test_tests_reckon_with_fixed_figures(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(module, "calibrate", lambda *a: pytest.fail("measured in a test"))
    options = Options.from_env(cache_dir=tmp_path)
    assert not options.calibrate
    assert machine_for(options) == assumed_machine(options)


@pytest.mark.system
def test_this_machine(tmp_path) -> None:
    """It ends, its figures are sane, and a second process would find them."""
    options = Options(cache_dir=tmp_path)
    machine = module.calibrate(options, torch.get_num_threads())
    for kernel in ("linear_csr", "linear_dense", "conv_csr", "conv_dense"):
        assert 0.05 < machine.scale_of(kernel) < 50
    assert {name for name, _ in machine.torch} <= {"torch_linear", "torch_conv", "torch_depthwise"}
