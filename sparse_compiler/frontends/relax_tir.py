"""Small TIR functions as what they compute: one loop nest that stores one elementwise expression.

TVM's ONNX front end writes minima, maxima and the like as `call_tir` of such functions. Whatever
else a function does stays with TVM.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
from tvm import relax, tirx

from .relax_importer import RelaxImporter, Value
from .relax_rules import pointwise, rule

_BINARY = {
    tirx.Add: "add",
    tirx.Sub: "sub",
    tirx.Mul: "mul",
    tirx.Div: "div",
    tirx.Max: "maximum",
    tirx.Min: "minimum",
}
_CALLS = ("exp", "log", "tanh", "sqrt", "erf", "sin", "cos", "floor", "ceil", "rsqrt", "sigmoid")
_FLOATS = ("float32", "float64")


class _NotElementwiseError(Exception):
    """What the function does is more than one expression of its inputs' elements."""


@rule("call_tir")
def _call_tir(imp: RelaxImporter, call: Any) -> Value | None:
    function = imp.module[call.args[0]]
    arguments = call.args[1]
    if not isinstance(arguments, relax.Tuple) or not isinstance(function, tirx.PrimFunc):
        return None
    try:
        text = _expression(function, len(arguments.fields))
    except _NotElementwiseError:
        return None
    return pointwise(imp, text, list(arguments.fields))


def _expression(function: Any, inputs: int) -> str:
    """The expression over x0, x1, ... of a function of `inputs` buffers and one result."""
    buffers = list(function.params)
    if len(buffers) != inputs + 1 or not all(isinstance(b.ty, tirx.BufferType) for b in buffers):
        raise _NotElementwiseError
    block = _only_block(function.body)
    store, out = block.body, buffers[-1]
    if not isinstance(store, tirx.BufferStore) or not store.buffer.same_as(out):
        raise _NotElementwiseError
    axes = {index: place for place, index in enumerate(store.indices)}
    if len(axes) != len(out.ty.shape) or set(axes) != {v.var for v in block.iter_vars}:
        raise _NotElementwiseError
    places = {buffer: i for i, buffer in enumerate(buffers[:-1])}
    return _text(store.value, axes, places)


def _only_block(body: Any) -> Any:
    """The one block inside nested loops that run over their whole ranges."""
    while True:
        if isinstance(body, tirx.For):
            body = body.body
        elif type(body).__name__.endswith("BlockRealize"):
            block = body.block
            whole = getattr(body.predicate, "value", 0) == 1 and block.init is None
            if not whole or len(block.alloc_buffers):
                raise _NotElementwiseError
            if not block.iter_vars and not isinstance(block.body, tirx.BufferStore):
                body = block.body
                continue
            return block
        else:
            raise _NotElementwiseError


def _text(value: Any, axes: Mapping[Any, int], places: Mapping[Any, int]) -> str:
    """An expression of TIR as ours."""

    def inner(part: Any) -> str:
        return _text(part, axes, places)

    if isinstance(value, tvm.ir.expr.TensorLoad):
        return _load(value, axes, places)
    if isinstance(value, tirx.FloatImm):
        return repr(float(value.value))
    name = _BINARY.get(type(value))
    if name is not None:
        return f"{name}({inner(value.a)}, {inner(value.b)})"
    if isinstance(value, tvm.ir.Call) and hasattr(value.op, "name"):
        function = str(value.op.name).removeprefix("tirx.")
        if function in _CALLS and len(value.args) == 1:
            return f"{function}({inner(value.args[0])})"
    raise _NotElementwiseError


def _load(value: Any, axes: Mapping[Any, int], places: Mapping[Any, int]) -> str:
    """A read of an input where it stands, or where broadcasting puts it."""
    if value.source not in places or str(value.ty.dtype) not in _FLOATS:
        raise _NotElementwiseError
    missing = len(axes) - len(value.indices)
    for i, (index, size) in enumerate(zip(value.indices, value.source.ty.shape, strict=True)):
        repeated = isinstance(index, tirx.IntImm) and index.value == 0 and int_of(size) == 1
        if not repeated and axes.get(index) != i + missing:
            raise _NotElementwiseError
    return f"x{places[value.source]}"


def int_of(size: Any) -> int | None:
    """A size that is a number."""
    return int(size) if isinstance(size, (int, tirx.IntImm)) else None
