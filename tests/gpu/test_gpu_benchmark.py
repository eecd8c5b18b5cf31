"""benchmarks/gpu.py without a GPU: its check, its refusal, and that it would see what is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparse_compiler.formats.gpu_arch import H100

FOLDER = Path(__file__).parents[2] / "benchmarks"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / "gpu.py"), *arguments]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


@pytest.mark.system
def test_the_check_passes_without_a_gpu() -> None:
    done = run("--check", "--target", "cuda:90")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "all results are right" in done.stdout and "cases for sm_90" in done.stdout


@pytest.mark.system
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "there is no GPU"),
        (("--check", "--target", "cuda:33"), "cuda:33"),
        (("--dtype", "int4"), "no dtype is named int4"),
    ],
)
def test_it_fails_clearly(arguments, said) -> None:
    done = run(*arguments)
    assert done.returncode == 2 and said in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):
    """The benchmark with the CPU in the place of a GPU, and times that we set."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu

    monkeypatch.setattr(gpu, "build", lambda case, device, build=gpu.build: build(case, "cpu"))
    return gpu


def measured(gpu, monkeypatch: pytest.MonkeyPatch, engines, ms: float):
    monkeypatch.setattr(gpu, "ENGINES", engines)
    monkeypatch.setattr(gpu, "time_all", lambda calls, rounds: {name: [ms] * 5 for name in calls})
    case = gpu.Case("linear-64x128", "unstructured", 0.8, tokens=24, dtype="fp32")
    return gpu.measure(case, H100, 5)


def test_right_engines_are_timed_and_wrong_ones_named(gpu, monkeypatch) -> None:
    def right(setup):
        return lambda: setup.module(*setup.inputs)

    def off(setup):
        return lambda: setup.module(*setup.inputs) * 1.1

    def without_a_place(setup):
        return lambda: setup.module(*setup.inputs).masked_fill(torch.ones(64) > 0, float("nan"))

    engines = {"eager": right, "off": off, "nan": without_a_place}
    row = measured(gpu, monkeypatch, engines, 1.0)
    assert row.ms == {"eager": 1.0} and row.errors["eager"] == 0.0
    assert [text.split()[0] for text in row.wrong] == ["off", "nan"]


def test_a_time_that_cannot_be_is_wrong(gpu, monkeypatch) -> None:
    row = measured(gpu, monkeypatch, {"eager": lambda s: lambda: s.module(*s.inputs)}, 1e-9)
    assert "less than reading the weights needs" in row.wrong[0]


def test_an_engine_that_refuses_has_its_reason_in_the_table(gpu, monkeypatch) -> None:
    from gpu_engines import bsr, semi_structured

    engines = {"eager": lambda s: lambda: s.module(*s.inputs), "bsr": bsr, "2:4": semi_structured}
    row = measured(gpu, monkeypatch, engines, 1.0)
    assert row.refused == {
        "bsr": "the zeros are not in blocks",
        "2:4": "the zeros are not 2:4",
    }
    text = "\n".join(gpu.table([row]))
    assert "- bsr: the zeros are not in blocks" in text and row.case.title in text
