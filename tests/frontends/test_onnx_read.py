"""ONNX files that cannot be read, and arguments that do not fit: errors that name the thing.

Nothing here needs TVM: all of it is refused before.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from sparse_compiler.errors import InputError, OptionError, UnsupportedError
from sparse_compiler.frontends.onnx_inputs import Axis, bind_arguments, inputs_of
from sparse_compiler.frontends.onnx_misread import misread
from sparse_compiler.frontends.onnx_read import NEWEST, OLDEST, read_onnx
from sparse_compiler.ir.graph import Range
from tests.onnx_models import convolution, model, numbers, perceptron, saved, value

X = torch.randn(3, 24, generator=torch.Generator().manual_seed(0))


def refused(path: Path, *texts: str) -> None:
    """Reading fails with one of our errors, in which all the texts stand."""
    with pytest.raises(UnsupportedError) as found:
        read_onnx(path)
    message = str(found.value)
    assert "fix:" in message
    missing = [text for text in texts if text not in message]
    assert not missing, message


# --- files ----------------------------------------------------------------------------------------


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    read = read_onnx(saved(perceptron(), tmp_path / "m.onnx"))
    assert [node.name for node in read.graph.node] == ["fc1", "relu", "fc2", "add"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.99])
def test_truncated(tmp_path: Path, share: float) -> None:
    path = saved(perceptron(zeros=0), tmp_path / "m.onnx")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refused(path, "m.onnx", "truncated or no ONNX file", "again, whole")


def test_no_onnx_at_all(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_text("this is a recipe for soup")
    refused(path, "truncated or no ONNX file")
    refused(tmp_path / "other.onnx", "there is no ONNX file")


def test_cyclic(tmp_path: Path) -> None:
    made = perceptron()
    made.graph.node[0].input[0] = "r"  # fc1 reads what is made of its own result
    refused(saved(made, tmp_path / "m.onnx"), "cycle", '"fc1"')


def test_nodes_out_of_order(tmp_path: Path) -> None:
    made = perceptron()
    nodes = list(made.graph.node)[::-1]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    refused(saved(made, tmp_path / "m.onnx"), "no valid ONNX model", "sorted")


def test_an_operator_without_its_inputs(tmp_path: Path) -> None:
    made = perceptron()
    del made.graph.node[1].input[:]
    refused(saved(made, tmp_path / "m.onnx"), "no valid ONNX model", "Relu")


@pytest.mark.parametrize(("opset", "age"), [(NEWEST + 1, "new"), (OLDEST - 1, "old"), (7, "old")])
def test_opset_out_of_range(tmp_path: Path, opset: int, age: str) -> None:
    path = saved(perceptron(opset=opset), tmp_path / "m.onnx")
    refused(path, f"opset {opset} is too {age}", "convert_version")


def loop() -> onnx.ModelProto:
    body = helper.make_graph(
        [
            helper.make_node("Add", ["a", "a"], ["b"]),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            value("i", (), TensorProto.INT64),
            value("go", (), TensorProto.BOOL),
            value("a", (2,)),
        ],
        [value("on", (), TensorProto.BOOL), value("b", (2,))],
    )
    node = helper.make_node("Loop", ["count", "", "x"], ["y"], body=body, name="repeat")
    inputs = [value("x", (2,)), value("count", (), TensorProto.INT64)]
    return model([node], inputs, {}, [value("y", (2,))])


def test_control_flow(tmp_path: Path) -> None:
    refused(saved(loop(), tmp_path / "m.onnx"), "control flow", 'Loop "repeat"', "fixed number")


def test_effects(tmp_path: Path) -> None:
    node = helper.make_node("RandomNormalLike", ["x"], ["y"], name="noise")
    path = saved(model([node], [value("x", (2, 2))], {}), tmp_path / "m.onnx")
    refused(path, "random numbers", '"noise"', "input of the model")


MISREAD: dict[str, dict[str, Any]] = {
    "BatchNormalization": {"training_mode": 1},
    "IsInf": {"detect_negative": 0},
    "LayerNormalization": {},
    "NonMaxSuppression": {},
}


@pytest.mark.parametrize("kind", MISREAD)
def test_operators_that_tvm_gets_wrong(kind: str) -> None:
    node = helper.make_node(kind, ["x", "w"], ["y", "mean"], **MISREAD[kind])
    assert misread(node)
    plain = helper.make_node(kind, ["x", "w"], ["y"])
    assert not misread(plain) or kind == "NonMaxSuppression"


def test_a_misread_operator_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("IsInf", ["x"], ["y"], detect_positive=0, name="below")
    result = value("y", (2,), TensorProto.BOOL)
    path = saved(model([node], [value("x", (2,))], {}, [result]), tmp_path / "m.onnx")
    refused(path, '"below"', "one sign only", "TVM imports wrongly")


def test_foreign_operators(tmp_path: Path) -> None:
    node = helper.make_node("Fft", ["x"], ["y"], domain="my.domain")
    made = model([node], [value("x", (2, 2))], {})
    made.opset_import.append(helper.make_opsetid("my.domain", 1))
    refused(saved(made, tmp_path / "m.onnx"), "my.domain.Fft", "does not define")


# --- external data --------------------------------------------------------------------------------


def test_external_data_is_read(tmp_path: Path) -> None:
    read = read_onnx(saved(perceptron(), tmp_path / "m.onnx", external=True))
    first = onnx.numpy_helper.to_array(read.graph.initializer[0])
    assert np.array_equal(first, numbers(32, 24, seed=1, zeros=0.9))


def test_missing_external_data(tmp_path: Path) -> None:
    path = saved(perceptron(), tmp_path / "m.onnx", external=True)
    (tmp_path / "m.data").unlink()
    refused(path, "fc1.weight", "m.data", "missing", "beside the model")


def test_short_external_data(tmp_path: Path) -> None:
    path = saved(perceptron(), tmp_path / "m.onnx", external=True)
    data = tmp_path / "m.data"
    data.write_bytes(data.read_bytes()[:-300])
    refused(path, "needs bytes", "m.data", "copy")


@pytest.mark.parametrize("where", ["../secret", "/etc/passwd", "", "down/../../secret", "link"])
def test_external_data_outside(tmp_path: Path, where: str) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(10_000))
    (folder / "link").symlink_to(tmp_path / "secret")
    path = saved(perceptron(), folder / "m.onnx", external=True)
    made = onnx.load(str(path), load_external_data=False)
    made.graph.initializer[1].external_data[0].value = where
    path.write_bytes(made.SerializeToString())
    refused(path, "fc1.bias", "outside of its folder")


@pytest.mark.parametrize(("key", "text"), [("offset", "-8"), ("length", "many")])
def test_external_data_at_no_place(tmp_path: Path, key: str, text: str) -> None:
    path = saved(perceptron(), tmp_path / "m.onnx", external=True)
    made = onnx.load(str(path), load_external_data=False)
    entries = {entry.key: entry for entry in made.graph.initializer[0].external_data}
    entries[key].value = text
    path.write_bytes(made.SerializeToString())
    refused(path, "fc1.weight")


# --- packages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_without_the_packages(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(perceptron(), tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, package, None)
    refused(path, f"{package} is not installed", "pip install sparse-compiler[tvm]")


# --- arguments ------------------------------------------------------------------------------------


def bound(made: onnx.ModelProto, *args: Any, axes: Any = None, **kwargs: Any) -> Any:
    return bind_arguments(inputs_of(made), args, kwargs, axes)


def test_axes() -> None:
    made = perceptron()
    assert [str(i) for i in inputs_of(made)] == ["x: float32[batch, 24]"]
    assert bound(made, X).axes == {"batch": Axis("s0", Range(1, None))}
    assert bound(made, X, axes={}).inputs[0].shape == (3, 24)
    assert bound(made, x=X, axes={"batch": (2, 8)}).axes["batch"].range == Range(2, 8)
    images = torch.zeros(1, 3, 64, 96)
    kept = bound(convolution(), images, axes={"height": (32, 640, 32)})
    assert kept.inputs[0].shape == (1, 3, "height", 96)
    assert kept.axes["height"] == Axis("s0", Range(1, 20), 32)


def test_axes_without_a_name() -> None:
    assert [str(i) for i in inputs_of(perceptron(batch=None))] == ["x: float32[x_0, 24]"]


WRONG: dict[str, tuple[type[Exception], Callable[[], Any], str]] = {
    "count": (InputError, lambda: bound(perceptron(), X, X), "takes 1 inputs; 2 were given"),
    "name": (InputError, lambda: bound(perceptron(), z=X), "takes no input 'z'"),
    "twice": (InputError, lambda: bound(perceptron(), X, x=X), "given twice"),
    "dtype": (InputError, lambda: bound(perceptron(), X.double()), "x is float64"),
    "rank": (InputError, lambda: bound(perceptron(), X[0]), "shape [24]"),
    "size": (InputError, lambda: bound(perceptron(), X[:, :20]), "shape [3, 20]"),
    "kind": (InputError, lambda: bound(perceptron(), X.numpy()), "x is a ndarray"),
    "number": (InputError, lambda: bound(perceptron(), 3), "x is the number 3"),
    "fixed": (InputError, lambda: bound(perceptron(), axes={}), "batch of x is not known"),
    "axis": (OptionError, lambda: bound(perceptron(), X, axes={"bach": None}), "mean batch"),
    "limits": (OptionError, lambda: bound(perceptron(), X, axes={"batch": (5, 2)}), "5 to 2"),
    "outside": (InputError, lambda: bound(perceptron(), X, axes={"batch": (4, 8)}), "size 3"),
    "step": (InputError, lambda: bound(perceptron(), X, axes={"batch": (2, 8, 2)}), "steps of 2"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments(case: str) -> None:
    kind, call, text = WRONG[case]
    with pytest.raises(kind, match=text.replace("[", r"\[").replace("]", r"\]")):
        call()


def test_an_axis_has_one_size_in_all_inputs() -> None:
    node = helper.make_node("Add", ["a", "b"], ["y"])
    made = model([node], [value("a", ("n", 2)), value("b", ("n", 2))], {})
    with pytest.raises(InputError, match="argument b has the shape"):
        bound(made, torch.zeros(3, 2), torch.zeros(4, 2))


def test_inputs_that_are_no_tensors() -> None:
    words = model(
        [helper.make_node("Identity", ["x"], ["y"])], [value("x", (2,), TensorProto.STRING)], {}
    )
    with pytest.raises(InputError, match="no tensor of numbers"):
        inputs_of(words)
