"""An ONNX model made ready for TVM's importer: sizes set, constants folded, branches decided.

`If(constant, a, b)` => `a` or `b`; what depends on known sizes alone => an initialiser.
The folding is onnxscript's, which torch.onnx.export uses too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .onnx_inputs import Bound, Number
from .onnx_read import graphs_of, node_text, refusal

_LARGEST_INPUT = 4096  # numbers of a constant that is folded, whatever is done to it
_LARGEST_OUTPUT = 1 << 26  # and of what comes out, where parts of weights are put together
_MOVES = frozenset(("Cast", "Concat", "Slice", "Squeeze", "Unsqueeze"))
_ROUNDS = 3  # a branch that was decided lets more be folded


@dataclass(frozen=True)
class Prepared:
    """model: with constants as initialisers; constants: values of small ones, by name."""

    model: Any
    opset: int


def prepare(path: Path, model: Any, bound: Bound) -> Prepared:
    """Folds what `bound` makes constant. Raises `UnsupportedError` for a branch that stays open."""
    import onnx_ir as ir
    from onnx_ir.passes import common
    from onnxscript import optimizer

    _forget_types(model.graph)
    _set_inputs(model.graph, bound)
    graph = ir.serde.deserialize_model(model)
    for _ in range(_ROUNDS):
        optimizer.fold_constants(
            graph,
            onnx_shape_inference=True,
            input_size_limit=_LARGEST_INPUT,
            output_size_limit=_LARGEST_OUTPUT,
            should_fold=_should_fold,
        )
        common.RemoveUnusedNodesPass()(graph)
        common.LiftSubgraphInitializersToMainGraphPass()(graph)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
    found = ir.serde.serialize_model(graph)
    _check_branches(path, found)
    versions = {o.domain: o.version for o in found.opset_import}
    return Prepared(found, versions.get("", versions.get("ai.onnx", 13)))


def _should_fold(node: Any) -> bool | None:
    """True to fold all the same: what only moves weights, and small tensors of one number."""
    if node.op_type == "ConstantOfShape":
        shape = node.inputs[0].const_value
        return shape is not None and int(np.prod(shape.numpy(), initial=1)) <= _LARGEST_INPUT
    return True if node.op_type in _MOVES else None


def _forget_types(graph: Any) -> None:
    """Drops the shapes noted in the file: with other sizes of the inputs they are wrong."""
    for inner in graphs_of(graph):
        del inner.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")


def _set_inputs(graph: Any, bound: Bound) -> None:
    """Numbers become initialisers, sizes and names of axes those of `bound`."""
    values = {value.name: value for value in graph.input}
    for name, number in bound.numbers.items():
        graph.initializer.append(_number(values[name], number))
        graph.input.remove(values[name])
    for given in bound.inputs:
        if given.name in bound.numbers:
            continue
        shape = values[given.name].type.tensor_type.shape
        del shape.dim[:]
        shape.SetInParent()
        for dim in given.shape or ():
            if isinstance(dim, str):
                shape.dim.add().dim_param = dim
            else:
                shape.dim.add().dim_value = dim
    stored = {tensor.name for tensor in graph.initializer}
    for value in [v for v in graph.input if v.name in stored]:
        graph.input.remove(value)  # a default that a caller might replace: compiled in


def _number(value: Any, number: Number) -> Any:
    from onnx import helper, numpy_helper

    tensor = value.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    shape = (1,) * len(tensor.shape.dim)
    return numpy_helper.from_array(np.full(shape, number, dtype), value.name)


def _check_branches(path: Path, model: Any) -> None:
    numbers: Mapping[str, Any] = {v.name: v for v in model.graph.input}
    for graph in graphs_of(model.graph):
        for node in graph.node:
            if node.op_type == "If":
                scalars = [n for n, v in numbers.items() if len(v.type.tensor_type.shape.dim) == 0]
                hint = "".join(f", or a plain number for {n}, compiled in" for n in scalars[:1])
                raise refusal(
                    path,
                    "it has control flow whose condition is known only when it runs",
                    node=node_text(node),
                    fix="fix the sizes: dynamic_shapes={} with example arguments, or --set "
                    f"NAME=SIZE{hint}",
                )
