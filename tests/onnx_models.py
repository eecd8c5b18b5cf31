"""Small ONNX models made by hand, and what ONNX Runtime says about one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]


def numbers(*shape: int, seed: int = 0, zeros: float = 0.0) -> Array:
    """Normal numbers, a share of them zero."""
    rng = np.random.default_rng(seed)
    found = rng.standard_normal(shape).astype(np.float32)
    return np.asarray(np.where(rng.random(shape) < zeros, np.float32(0), found))


def value(
    name: str, shape: Sequence[int | str | None] | None, kind: int = TensorProto.FLOAT
) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    weights: Mapping[str, Array],
    outputs: Sequence[Any] = (),
    *,
    opset: int = 17,
) -> onnx.ModelProto:
    """A model of these nodes; it gives the last node's result where no outputs are named."""
    results = list(outputs) or [value(nodes[-1].output[0], None)]
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), results, stored)
    imports = [helper.make_opsetid("", opset)]
    made = helper.make_model(graph, opset_imports=imports, ir_version=8)
    assert isinstance(made, onnx.ModelProto)
    return made


def perceptron(
    *, opset: int = 17, batch: int | str | None = "batch", zeros: float = 0.9
) -> onnx.ModelProto:
    """relu(x w1 + b1) w2 + b2, of 24, 32 and 5 numbers."""
    weights = {
        "fc1.weight": numbers(32, 24, seed=1, zeros=zeros),
        "fc1.bias": numbers(32, seed=2),
        "fc2.weight": numbers(32, 5, seed=3, zeros=zeros),
        "fc2.bias": numbers(5, seed=4),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "fc1.weight", "fc1.bias"], ["h"], transB=1, name="fc1"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "fc2.weight"], ["m"], name="fc2"),
        helper.make_node("Add", ["m", "fc2.bias"], ["y"], name="add"),
    ]
    return model(nodes, [value("x", (batch, 24))], weights, opset=opset)


def convolution(*, opset: int = 17) -> onnx.ModelProto:
    """Two convolutions around a pool and a resize by two, joined: sizes must be even."""
    weights = {
        "w1": numbers(8, 3, 3, 3, seed=1, zeros=0.5),
        "w2": numbers(8, 8, 1, 1, seed=2, zeros=0.5),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "none": np.array([], np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1], name="conv1"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2], name="pool"),
        helper.make_node("Conv", ["c", "w2"], ["d"], name="conv2"),
        helper.make_node(
            "Resize",
            ["d", "none", "scales"],
            ["e"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
            name="resize",
        ),
        helper.make_node("Concat", ["b", "e"], ["y"], axis=1, name="join"),
    ]
    return model(nodes, [value("x", (1, 3, "height", "width"))], weights, opset=opset)


def recurrent(kind: str, direction: str, **attributes: Any) -> onnx.ModelProto:
    """One layer of 6 to 5 numbers, over steps and a batch that may change."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    ways = 2 if direction == "bidirectional" else 1
    weights = {
        "w": numbers(ways, gates * 5, 6, seed=1),
        "r": numbers(ways, gates * 5, 5, seed=2),
        "b": numbers(ways, gates * 10, seed=3),
    }
    node = helper.make_node(
        kind,
        ["x", "w", "r", "b"],
        ["y", "last"],
        hidden_size=5,
        direction=direction,
        name="rnn",
        **attributes,
    )
    results = [value("y", None), value("last", None)]
    return model([node], [value("x", ("steps", "batch", 6))], weights, results, opset=17)


def branches() -> onnx.ModelProto:
    """`If(rate == 16000, x w, x + 1)`, with the rate as an input of one number."""
    then = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["t"], name="slow")], "then", [], [value("t", None)]
    )
    other = helper.make_graph(
        [helper.make_node("Add", ["x", "one"], ["o"], name="fast")], "else", [], [value("o", None)]
    )
    nodes = [
        helper.make_node("Equal", ["rate", "known"], ["same"], name="equal"),
        helper.make_node("If", ["same"], ["y"], then_branch=then, else_branch=other, name="choice"),
    ]
    weights = {
        "w": numbers(8, 8, seed=1),
        "one": np.ones((), np.float32),
        "known": np.array(16000, np.int64),
    }
    inputs = [value("x", ("batch", 8)), value("rate", (), TensorProto.INT64)]
    return model(nodes, inputs, weights)


def saved(made: onnx.ModelProto, path: Path, *, external: bool = False) -> Path:
    """Writes a model, with its weights in a file beside it where asked for."""
    onnx.save(
        made,
        str(path),
        save_as_external_data=external,
        location=f"{path.stem}.data",
        size_threshold=0,
    )
    return path


def by_runtime(path: Path, feed: Mapping[str, Any]) -> list[Array]:
    """The results of ONNX Runtime, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [np.asarray(found) for found in session.run(None, dict(feed))]


def largest_error(results: Any, wanted: Sequence[Array]) -> float:
    """The largest difference between our results and ONNX Runtime's."""
    given = [results] if isinstance(results, torch.Tensor) else list(results)
    assert len(given) == len(wanted)
    assert [tuple(t.shape) for t in given] == [a.shape for a in wanted]
    return max(
        float(np.abs(t.detach().numpy().astype(np.float64) - a).max(initial=0.0))
        for t, a in zip(given, wanted, strict=True)
    )
