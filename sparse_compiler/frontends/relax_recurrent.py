"""Recurrent layers, which Relax has no operator for: calls that the ONNX front end makes.

`sparse_compiler.lstm(x, h, c, w, r, bw, br, ...)` => torch's `lstm`, with the same tensors.
"""

from __future__ import annotations

from typing import Any

from ..ir.attrs import Slot
from ..ir.types import TupleType
from ..ops.torch_call import GetItem, TorchCall
from .relax_importer import RelaxImporter, Value
from .relax_rules import extern

_TENSORS = 4  # of each direction: two weights, two biases


@extern("sparse_compiler.lstm", "sparse_compiler.gru", "sparse_compiler.rnn_tanh")
def _recurrent(imp: RelaxImporter, call: Any) -> Value | None:
    """x [steps, batch, in], states [directions, batch, hidden] => (every step, last states)."""
    layer = str(call.args[0].global_symbol).rsplit(".", 1)[1]
    given = [imp.tensor(arg) for arg in call.args[1:]]
    type_ = imp.type_of(call)
    if None in given or not isinstance(type_, TupleType):
        return None
    inputs = [tensor[0] for tensor in given if tensor is not None]
    states = len(type_.items) - 1
    slots = {name: Slot(i) for i, name in enumerate(dict.fromkeys(inputs))}
    x, *rest = [slots[name] for name in inputs]
    carried, weights = tuple(rest[:states]), tuple(rest[states:])
    op = TorchCall(
        f"aten.{layer}.input",
        (
            x,
            carried if layer == "lstm" else carried[0],
            weights,
            True,  # has biases
            1,  # layers
            0.0,  # dropout
            False,  # training
            len(weights) == 2 * _TENSORS,
            False,  # the batch comes second
        ),
        (),
    )
    called = imp.add(op, list(slots), type_=type_)
    return tuple(imp.add(GetItem(i), [called]) for i in range(len(type_.items)))
