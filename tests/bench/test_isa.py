"""Engines held to AVX2: each is told in its own way, and one that cannot be told is altered."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparse_compiler.bench import isa
from sparse_compiler.bench.engine import ENGINES
from sparse_compiler.bench.host import WorkerError
from sparse_compiler.bench.run import worker_environment
from sparse_compiler.errors import OptionError

WIDE = "AVX512" in torch.backends.cpu.get_cpu_capability()


def test_an_unknown_instruction_set() -> None:
    with pytest.raises(OptionError, match="--isa x86-64-v4: engines cannot be held to that"):
        isa.check_isa("x86-64-v4")


def test_native_changes_nothing(tmp_path: Path) -> None:
    for name in ENGINES:
        assert ENGINES[name]().environment(isa.NATIVE, tmp_path) == {}


def test_what_an_engine_sets_goes_first(tmp_path: Path) -> None:
    held = {**isa.HELD[isa.AVX2], "PYTHONPATH": "/copy"}
    env = worker_environment(1, tmp_path, held)
    assert env["PYTHONPATH"].split(os.pathsep)[0] == "/copy"
    assert env["SPARSE_COMPILER_ISA"] == isa.AVX2
    assert not worker_environment(1, tmp_path, {})["PYTHONPATH"].startswith(os.pathsep)


def test_a_library_that_asks_in_another_way_is_not_used(tmp_path: Path, monkeypatch) -> None:
    package = tmp_path / "onnxruntime"
    (package / "capi").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "capi" / "onnxruntime_pybind11_state.so").write_bytes(b"other code")
    spec = importlib.util.spec_from_file_location("onnxruntime", package / "__init__.py")
    monkeypatch.setattr(isa.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(isa.metadata, "version", lambda name: "1")
    with pytest.raises(WorkerError, match="cannot be held to AVX2") as caught:
        isa.without_avx512("onnxruntime", tmp_path / "cache")
    assert caught.value.status == "unsupported"


@pytest.mark.system
@pytest.mark.skipif(not WIDE, reason="nothing to hold: this processor has no AVX-512")
def test_torch_is_held(tmp_path: Path) -> None:
    code = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    assert _python(code, isa.HELD[isa.AVX2], tmp_path) == "AVX2"


MATRICES = """
import numpy as np, onnx
from onnx import TensorProto as T, helper as h
rng = np.random.default_rng(0)
a, b = (rng.standard_normal((64, 64)).astype(np.float32) for _ in range(2))
values = [h.make_tensor_value_info(n, T.FLOAT, [64, 64]) for n in "aby"]
graph = h.make_graph([h.make_node("MatMul", ["a", "b"], ["y"])], "g", values[:2], values[2:])
model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
model = model.SerializeToString()
{run}
assert np.abs(y - a @ b).max() < 1e-4
print({package}.__file__)
"""
RUNS = {
    "onnxruntime": """
import onnxruntime
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
(y,) = session.run(None, {"a": a, "b": b})
""",
    "openvino": """
import io, openvino
compiled = openvino.Core().compile_model(openvino.Core().read_model(io.BytesIO(model)), "CPU")
y = compiled({"a": a, "b": b})[0]
""",
}


@pytest.mark.system
@pytest.mark.parametrize("package", RUNS)
def test_a_package_is_altered_in_a_copy(package: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    found = importlib.util.find_spec(package)
    assert found is not None and found.origin is not None
    folder, cache = Path(found.origin).parent, tmp_path / "cache"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.so*")}
    held = ENGINES[package]().environment(isa.AVX2, cache)
    code = MATRICES.format(run=RUNS[package], package=package)
    assert Path(_python(code, held, tmp_path)).is_relative_to(cache)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.so*")} == before
    home = Path(held["PYTHONPATH"]) / package
    altered = [p for p in before if p.read_bytes() != (home / p.relative_to(folder)).read_bytes()]
    assert altered, "some library asked"
    assert ENGINES[package]().environment(isa.AVX2, cache) == held, "made once"


def _python(code: str, held, cache: Path) -> str:
    env = worker_environment(1, cache, held)
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
