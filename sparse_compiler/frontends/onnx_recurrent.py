"""ONNX's LSTM, GRU and RNN as calls of torch's: `sparse_compiler.lstm(x, h, c, w, r, bw, br, ...)`.

ONNX stacks gates in another order, both biases in one tensor, and puts directions between steps and
batch: Y [steps, directions, batch, hidden]; torch gives [steps, batch, directions * hidden].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from ..errors import UnsupportedError
from .onnx_read import node_text, refusal


@dataclass(frozen=True)
class Layer:
    """order: position in ONNX's stack of each of torch's gates; activations: the only ones that
    torch has; states: how many the layer carries on."""

    name: str
    order: tuple[int, ...]
    activations: tuple[str, ...]
    states: int = 1


RECURRENT: Mapping[str, Layer] = {
    "LSTM": Layer("lstm", (0, 2, 3, 1), ("Sigmoid", "Tanh", "Tanh"), 2),  # i o f c => i f c o
    "GRU": Layer("gru", (1, 0, 2), ("Sigmoid", "Tanh")),  # z r h => r z n
    "RNN": Layer("rnn_tanh", (0,), ("Tanh",)),
}
_X, _W, _R, _B, _LENGTHS, _H, _C, _PEEPHOLES = range(8)


def recurrent_weights(importer: Any, graph: Any) -> dict[str, list[list[Any]]]:
    """torch's weights of every recurrent node, by its first result; made before the function is.

    Raises `UnsupportedError` for a variant that torch does not have.
    """
    found, used, read = {}, set(), set()
    for node in graph.node:
        layer = RECURRENT.get(node.op_type)
        if layer is None:
            read |= set(node.input)
            continue
        names = _inputs(node)
        _check(importer, node, importer._parse_attr(node.attribute), names, layer)
        found[_key(node)] = _weights(importer, node, names, layer)
        used |= set(names[_W : _B + 1])
    for name in used - read:
        importer.drop(name)
    return found


def _inputs(node: Any) -> list[str]:
    return [*node.input, *[""] * (8 - len(node.input))]


def _key(node: Any) -> str:
    return str(next(name for name in node.output if name))


def recurrent(importer: Any, node: Any, attributes: dict[str, Any]) -> list[Any]:
    """The node's results: every step, and the last states."""
    layer, names = RECURRENT[node.op_type], _inputs(node)
    direction = attributes.get("direction", b"forward").decode()
    weights = importer.recurrent[_key(node)]
    x = importer._nodes[names[_X]]
    steps, batch, _ = x.ty.shape.values
    hidden = int(attributes["hidden_size"])
    count = len(weights)
    dtype = str(x.ty.dtype)
    states = [
        importer._nodes[name] if name else _zeros(importer, (count, batch, hidden), dtype)
        for name in (names[_H], names[_C])[: layer.states]
    ]
    if direction == "reverse":
        x = importer.bb.emit(relax.op.flip(x, 0))
    flat = [value for some in weights for value in some]
    state = relax.TensorType((count, batch, hidden), dtype)
    sequence = relax.TensorType((steps, batch, count * hidden), dtype)
    called = importer.bb.emit(
        relax.call_pure_packed(
            f"sparse_compiler.{layer.name}",
            x,
            *states,
            *flat,
            ty_args=relax.TupleType([sequence, *[state] * layer.states]),
        )
    )
    results = [importer.bb.emit(relax.TupleGetItem(called, i)) for i in range(layer.states + 1)]
    every = importer.bb.emit(
        relax.op.reshape(results[0], relax.ShapeExpr([steps, batch, count, hidden]))
    )
    if direction == "reverse":
        every = importer.bb.emit(relax.op.flip(every, 0))
    return [importer.bb.emit(relax.op.permute_dims(every, [0, 2, 1, 3])), *results[1:]]


def _check(
    importer: Any,
    node: Any,
    attributes: dict[str, Any],
    names: list[str],
    layer: Layer,
) -> None:
    """Refuses what torch's layer of this kind does not compute."""
    activations = attributes.get("activations")
    directions = 2 if attributes.get("direction") == b"bidirectional" else 1
    usual = [name.lower() for name in layer.activations * directions]
    odd = {
        "a clip": "clip" in attributes,
        "activations of its own": activations is not None
        and [a.decode().lower() for a in activations] != usual,
        "a layout with the batch first": attributes.get("layout", 0) != 0,
        "coupled gates": attributes.get("input_forget", 0) != 0,
        "peepholes": bool(names[_PEEPHOLES]),
        "a length for each sequence": bool(names[_LENGTHS]),
        "a reset before its matrix product": node.op_type == "GRU"
        and attributes.get("linear_before_reset", 0) == 0,
        "weights that are computed": any(
            importer.array(n) is None for n in names[_W : _B + 1] if n
        ),
    }
    found = [what for what, present in odd.items() if present]
    if found:
        raise refusal(
            importer.path,
            f"this {node.op_type} has {' and '.join(found)}, which torch's does not",
            node=node_text(node),
            fix="export it without, or give sc.compile the torch module",
        )


def _weights(importer: Any, node: Any, names: list[str], layer: Layer) -> list[list[Any]]:
    """For each direction torch's four tensors, as parameters of their own."""
    inward, back = importer.array(names[_W]), importer.array(names[_R])
    if inward is None or back is None:
        raise UnsupportedError(f"{node.op_type} has no weights", node=node_text(node))
    stacked = importer.array(names[_B]) if names[_B] else None
    if stacked is None:
        stacked = np.zeros((inward.shape[0], 2 * inward.shape[1]), inward.dtype)
    biases = np.split(stacked, 2, axis=1)
    found = []
    for i in range(inward.shape[0]):
        suffix = "_reverse" * i
        arrays = (inward[i], back[i], biases[0][i], biases[1][i])
        labels = (names[_W], names[_R], f"{names[_W]}.bias", f"{names[_R]}.bias")
        found.append(
            [
                importer.parameter(f"{label}.torch{suffix}", _reordered(array, layer.order))
                for label, array in zip(labels, arrays, strict=True)
            ]
        )
    return found


def _reordered(array: Any, order: tuple[int, ...]) -> Any:
    parts = np.split(array, len(order), axis=0)
    return np.ascontiguousarray(np.concatenate([parts[i] for i in order], axis=0))


def _zeros(importer: Any, shape: tuple[Any, ...], dtype: str) -> Any:
    return importer.bb.emit(relax.op.zeros(relax.ShapeExpr(list(shape)), dtype))
