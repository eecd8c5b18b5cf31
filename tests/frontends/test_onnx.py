"""ONNX files through TVM's importer, against ONNX Runtime: opsets, sizes, branches, commands."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from typer.testing import CliRunner

import sparse_compiler as sc
from sparse_compiler.cli import app
from sparse_compiler.errors import InputError, OptionError, UnsupportedError
from tests.onnx_models import (
    branches,
    by_runtime,
    convolution,
    largest_error,
    model,
    numbers,
    perceptron,
    recurrent,
    saved,
    value,
)

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("cached_kernels")]
X = torch.from_numpy(numbers(3, 24, seed=9))


@pytest.mark.parametrize("opset", [11, 13, 14, 15, 16, 17, 18, 19, 20, 21])
def test_every_opset(tmp_path: Path, opset: int) -> None:
    path = saved(perceptron(opset=opset), tmp_path / "m.onnx")
    fast = sc.compile(path, (X,))
    assert largest_error(fast(X), by_runtime(path, {"x": X.numpy()})) < 1e-5
    assert largest_error(fast(X[:1]), by_runtime(path, {"x": X[:1].numpy()})) < 1e-5


def test_the_ledger_names_the_weights(tmp_path: Path) -> None:
    path = saved(perceptron(batch=4), tmp_path / "m.onnx")
    layers = sc.inspect(str(path)).layers
    assert len([layer for layer in layers if layer.op == "linear"]) == 2
    assert {"fc1", "fc2"} <= {layer.name.split(".")[0] for layer in layers}
    assert all(layer.density < 0.2 for layer in layers if layer.op == "linear")


def test_external_data(tmp_path: Path) -> None:
    path = saved(perceptron(), tmp_path / "m.onnx", external=True)
    fast = sc.compile(path, (X,))
    assert largest_error(fast(X), by_runtime(path, {"x": X.numpy()})) < 1e-5


def test_fixed_sizes(tmp_path: Path) -> None:
    path = saved(perceptron(), tmp_path / "m.onnx")
    fast = sc.compile(path, (X,), dynamic_shapes={})
    assert not fast.graph.symbols
    with pytest.raises(InputError):
        fast(X[:1])


def test_sizes_in_steps(tmp_path: Path) -> None:
    path = saved(convolution(), tmp_path / "m.onnx")
    image = torch.from_numpy(numbers(1, 3, 16, 24))
    with pytest.raises(UnsupportedError, match=r"join.*\n.*two dynamic sizes"):
        sc.compile(path, (image,))
    axes = {"height": (2, 64, 2), "width": (2, 64, 2)}
    fast = sc.compile(path, (image,), dynamic_shapes=axes)
    for size in ((16, 24), (8, 8), (2, 40)):
        image = torch.from_numpy(numbers(1, 3, *size, seed=5))
        assert largest_error(fast(image), by_runtime(path, {"x": image.numpy()})) < 1e-4
    with pytest.raises(InputError):
        fast(torch.zeros(1, 3, 15, 24))


def test_a_branch_is_decided_by_a_number(tmp_path: Path) -> None:
    path = saved(branches(), tmp_path / "m.onnx")
    x = torch.from_numpy(numbers(2, 8, seed=3))
    for rate in (16000, 8000):
        fast = sc.compile(path, (x, rate))
        wanted = by_runtime(path, {"x": x.numpy(), "rate": np.array(rate)})
        assert largest_error(fast(x, rate), wanted) < 1e-5
    with pytest.raises(InputError, match="compiled for 8000"):
        fast(x, 16000)
    with pytest.raises(UnsupportedError, match=r'If "choice".*\n.*control flow.*\n.*for rate'):
        sc.compile(path, (x, torch.tensor(16000)))


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers(tmp_path: Path, kind: str, direction: str) -> None:
    extra = {"linear_before_reset": 1} if kind == "GRU" else {}
    path = saved(recurrent(kind, direction, **extra), tmp_path / "m.onnx")
    x = torch.from_numpy(numbers(7, 2, 6))
    fast = sc.compile(path, (x,), dynamic_shapes={"steps": None})
    for steps in (7, 3):
        wanted = by_runtime(path, {"x": x[:steps].numpy()})
        assert largest_error(fast(x[:steps]), wanted) < 1e-5


def test_recurrent_layers_that_torch_lacks(tmp_path: Path) -> None:
    x = torch.zeros(7, 2, 6)
    with pytest.raises(UnsupportedError, match="a reset before its matrix product"):
        sc.compile(saved(recurrent("GRU", "forward"), tmp_path / "g.onnx"), (x,))
    with pytest.raises(UnsupportedError, match=r"a clip"):
        sc.compile(saved(recurrent("LSTM", "forward", clip=0.1), tmp_path / "l.onnx"), (x,))


def test_the_end_of_a_slice_is_not_cut(tmp_path: Path) -> None:
    """TVM takes the largest int64 for -1."""
    weights = {
        "from": np.array([1]),
        "to": np.array([2**63 - 1]),
        "axes": np.array([1]),
        "steps": np.array([2]),
    }
    node = helper.make_node("Slice", ["x", "from", "to", "axes", "steps"], ["y"])
    path = saved(model([node], [value("x", (2, 8))], weights), tmp_path / "m.onnx")
    x = torch.from_numpy(numbers(2, 8))
    assert largest_error(sc.compile(path, (x,))(x), [x[:, 1::2].numpy()]) == 0


def test_an_operator_that_tvm_lacks(tmp_path: Path) -> None:
    node = helper.make_node("DFT", ["x"], ["y"], name="spectrum", axis=1)
    path = saved(model([node], [value("x", (1, 8, 1))], {}), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match=r'DFT "spectrum"(.|\n)*imports no DFT'):
        sc.compile(path, (torch.zeros(1, 8, 1),))


def test_a_size_that_depends_on_numbers(tmp_path: Path) -> None:
    node = helper.make_node("NonZero", ["x"], ["y"], name="places")
    made = model([node], [value("x", (8,))], {}, [value("y", (1, "count"), TensorProto.INT64)])
    with pytest.raises(UnsupportedError, match=r"shape of .* unknown|known at run time only"):
        sc.compile(saved(made, tmp_path / "m.onnx"), (torch.ones(8),))


def test_a_saved_model_needs_neither_tvm_nor_onnx(tmp_path: Path) -> None:
    path = saved(perceptron(), tmp_path / "m.onnx")
    kept = sc.export(path, (X,), tmp_path / "m.scz")
    torch.save((X, torch.from_numpy(by_runtime(path, {"x": X.numpy()})[0])), tmp_path / "io.pt")
    program = (
        "import sys, torch\n"
        "sys.modules['tvm'] = sys.modules['onnx'] = sys.modules['onnxscript'] = None\n"
        "import sparse_compiler as sc\n"
        f"x, y = torch.load({str(tmp_path / 'io.pt')!r})\n"
        f"print(float((sc.load({str(kept)!r})(x) - y).abs().max()))\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert float(found.stdout) < 1e-5


# --- the environment ------------------------------------------------------------------------------


def test_without_tvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(perceptron(), tmp_path / "m.onnx")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"m\.onnx needs TVM.*\n.*sparse-compiler\[tvm\]"):
        sc.compile(path, (X,))


def test_another_tvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tvm

    path = saved(perceptron(), tmp_path / "m.onnx")
    monkeypatch.setattr(tvm, "__version__", "0.21.0")
    with pytest.raises(UnsupportedError, match=r"this is TVM 0\.21\.0"):
        sc.compile(path, (X,))


# --- the command line -----------------------------------------------------------------------------


def ran(*arguments: str) -> Any:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return json.loads(result.stdout)


def test_commands(tmp_path: Path) -> None:
    path, kept = saved(perceptron(), tmp_path / "m.onnx"), tmp_path / "m.scz"
    assert [o["shape"] for o in ran("run", str(path), "--batch", "5")["outputs"]] == [[5, 5]]
    assert [o["shape"] for o in ran("run", str(path), "--set", "batch=4")["outputs"]] == [[4, 5]]
    assert len(ran("inspect", str(path), "--set", "batch=2..8")["layers"]) >= 2
    ran("compile", str(path), "-o", str(kept), "--set", "batch=2..8..2")
    assert [o["shape"] for o in ran("run", str(kept))["outputs"]] == [[2, 5]]
    assert ran("inspect", str(path), "--groups")


def test_commands_take_numbers(tmp_path: Path) -> None:
    path = saved(branches(), tmp_path / "m.onnx")
    found = ran("run", str(path), "--set", "rate=16000", "--set", "batch=3")
    assert [o["shape"] for o in found["outputs"]] == [[3, 8]]


def test_commands_refuse(tmp_path: Path) -> None:
    path = str(saved(perceptron(), tmp_path / "m.onnx"))
    for wish, text in (
        ("bach=3", "did you mean batch"),
        ("batch=many", "'many' is no size"),
        ("batch", "says nothing"),
        ("batch=0", "'0' is no size"),
    ):
        with pytest.raises(OptionError, match=text):
            ran("run", path, "--set", wish)
    with pytest.raises(UnsupportedError, match="sparsify prunes torch models"):
        ran("sparsify", path, "-o", str(tmp_path / "p.pt2"), "--sparsity", "0.5")
    path = str(saved(perceptron(opset=22), tmp_path / "new.onnx"))
    with pytest.raises(UnsupportedError, match="opset 22 is too new"):
        ran("compile", path, "-o", str(tmp_path / "new.scz"))
    assert not (tmp_path / "new.scz").exists()


def test_commands_take_relax_files(tmp_path: Path) -> None:
    import tvm
    from tvm import relax

    rows = tvm.tirx.Var("rows", "int64")
    x = relax.Var("x", relax.TensorType((rows, 24), "float32"))
    w = relax.Var("w", relax.TensorType((24, 5), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, w]):
        with builder.dataflow():
            result = builder.emit_output(relax.op.matmul(x, w))
        builder.emit_func_output(result)
    path = tmp_path / "m.py"
    path.write_text(builder.get().script())
    for wish in (("--batch", "6"), ("--set", "s0=6")):
        assert [o["shape"] for o in ran("run", str(path), *wish)["outputs"]] == [[6, 5]]
    with pytest.raises(OptionError, match="neither an axis"):
        ran("run", str(path), "--set", "lines=6")
