"""A TVM Relax module -> our graph: for `sc.compile`, `sc.export`, `sc.inspect` and ONNX files.

Weights are constants (`relax.transform.BindParams` makes them), or parameters after the inputs,
with their values in the function's attribute `params` beside `num_input`, as TVM's front ends
leave them with `keep_params_as_input=True`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import tvm
from tvm import relax

from ..errors import UnsupportedError
from ..ir.graph import Range
from ..ir.types import TensorType, symbols_of
from . import (
    relax_images,
    relax_linear,
    relax_pointwise,
    relax_recurrent,
    relax_sequence,
    relax_shape,
    relax_tir,
    relax_vision,
)
from .export import CallSpec, Constant, ExportedModel, Size
from .importer import Imported
from .relax_call import from_tvm, tvm_message
from .relax_importer import RelaxImporter
from .relax_rules import RULES
from .relax_values import Sizes, Value, dtype_of, range_of

FAMILIES = (
    relax_images,
    relax_linear,
    relax_pointwise,
    relax_recurrent,
    relax_sequence,
    relax_shape,
    relax_tir,
    relax_vision,
)
"""Where the rules are: importing a family registers them."""


def import_relax(
    module: tvm.IRModule,
    *,
    params: Mapping[str, torch.Tensor] | None = None,
    ranges: Mapping[str, Range] | None = None,
    function: str = "main",
) -> ExportedModel:
    """One function of a Relax module as a graph. The module stays as it is.

    params: tensors of the function's parameters by the names of their variables, preferred over its
    attribute `params`; those with neither are inputs. ranges: of symbolic sizes in the inputs'
    shapes by name. The model takes tensors by position and gives a tensor, or a tuple of them.

    Raises `UnsupportedError` for control flow, effects, and sizes known at run time only.
    """
    main = _function(module, function)
    given = _given(main, params or {})
    importer = RelaxImporter(module, RULES)
    weights = [(var, given[var.name]) for var in main.params if var.name in given]
    for var in main.params:
        if var.name not in given:
            _input(importer, var)
    for var, tensor in weights:
        importer.values[var] = importer.parameter(var.name, tensor)
    result = importer.body(main)
    types = tuple(value.type for value in importer.builder.inputs)
    outputs, call = _call(importer, result, types)
    graph = importer.builder.build(
        outputs, (), _ranges(importer, main, types, ranges or {}), importer.objects
    )
    live = {p.name: importer.params[p.name] for p in graph.params}
    return ExportedModel(Imported(graph, live), call, None)


def _function(module: tvm.IRModule, name: str) -> Any:
    functions = {var.name_hint: f for var, f in module.functions.items()}
    found = functions.get(name)
    if not isinstance(found, relax.Function):
        known = sorted(n for n, f in functions.items() if isinstance(f, relax.Function))
        raise UnsupportedError(
            f"the Relax module has no function {name}",
            why=f"its Relax functions are {', '.join(known) or 'none'}",
            fix="name the one to compile main",
        )
    return found


def _given(main: Any, params: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of the function's parameters that are weights, by name."""
    attrs = main.attrs or {}
    names = [var.name for var in main.params]
    found = dict(params)
    if "num_input" not in attrs:
        return {name: found[name] for name in names if name in found}
    weights = names[int(attrs["num_input"]) :]
    tensors = list(attrs["params"]) if "params" in attrs else []
    if len(tensors) == len(weights):
        found = {n: from_tvm(t) for n, t in zip(weights, tensors, strict=True)} | found
    missing = [name for name in weights if name not in found]
    if missing:
        raise UnsupportedError(
            f"the parameter {missing[0]} of the Relax module has no value",
            why=f"{len(missing)} of {len(weights)} parameters after the "
            f"{int(attrs['num_input'])} inputs have none",
            fix="bind them: tvm.relax.transform.BindParams('main', params)(module)",
        )
    return {name: found[name] for name in weights}


def _input(importer: RelaxImporter, var: Any) -> None:
    """A graph input; the sizes in its shape become symbols."""
    shape = getattr(var.ty, "shape", None)
    if not isinstance(var.ty, relax.TensorType) or not isinstance(shape, relax.ShapeExpr):
        raise UnsupportedError(
            f"the input {var.name} of the Relax module has no known shape",
            node=f"%{var.name}: {var.ty}",
            why="an input is a tensor whose sizes are numbers or symbols",
            fix="give it a type as R.Tensor((n, 128), 'float32')",
        )
    for size in relax.analysis.tir_vars_in_type(var.ty):  # also those of `32 * n`
        if size not in importer.symbols:
            importer.symbol(size)
    type_ = TensorType(dtype_of(var.ty), tuple(importer.dim(d) for d in shape.values))
    importer.values[var] = importer.builder.input(importer.builder.fresh(var.name), type_)


def _ranges(
    importer: RelaxImporter, main: Any, types: Sequence[TensorType], ranges: Mapping[str, Range]
) -> dict[str, Range]:
    """The range of each symbol: as given, else as the function's attributes say."""
    attrs = main.attrs or {}
    low, high = (dict(attrs.get(f"tir_var_{end}_bound", {})) for end in ("lower", "upper"))
    wanted = {name for type_ in types for name in symbols_of(type_.shape)}
    named = {str(dim): var.name for var, dim in importer.symbols.items() if str(dim) in wanted}
    return {s: ranges.get(n) or range_of(low.get(n), high.get(n)) for s, n in named.items()}


def _call(
    importer: RelaxImporter, result: Value, types: tuple[TensorType, ...]
) -> tuple[list[str], CallSpec]:
    """The graph's outputs, and how it is called: tensors by position."""
    outputs: list[str] = []
    leaves: list[int | Constant | Size] = []

    def leaf(value: Value) -> Any:
        """Appends what a value gives; returns a stand-in of the same structure."""
        if isinstance(value, tuple):
            return tuple(leaf(item) for item in value)
        if isinstance(value, Sizes) and not value.tensor:
            return tuple(size(dim) for dim in value.dims)
        tensor = importer.tensor(value)
        if tensor is None:
            raise UnsupportedError("the Relax module returns what is no tensor", node=str(value))
        leaves.append(len(outputs))
        outputs.append(tensor[0])
        return 0

    def size(dim: Any) -> int:
        leaves.append(Constant(dim) if isinstance(dim, int) else Size(dim))
        return 0

    structure = leaf(result)
    if isinstance(structure, tuple) and len(structure) == 1:
        structure = structure[0]
    flatten = torch.utils._pytree.tree_flatten
    arguments = flatten(((0,) * len(types), {}))[1]
    places = tuple(range(len(types)))
    return outputs, CallSpec(arguments, flatten(structure)[1], places, {}, tuple(leaves), types)


def read_relax(path: Path) -> tvm.IRModule:
    """The module in a TVMScript file (`.py`) or in TVM's JSON.

    A script is Python, whose expressions TVM evaluates: read one from people you trust. Raises
    `UnsupportedError` with TVM's reason.
    """
    script = path.suffix == ".py"
    try:
        text = path.read_text(encoding="utf-8")
        found = tvm.script.from_source(text) if script else tvm.ir.load_json(_json(text))
    except _UNREADABLE as error:
        raise UnsupportedError(
            f"cannot read a Relax module from {path}",
            why=tvm_message(error),
            fix="write one with mod.script(), its weights beside it: see docs/tvm.md",
        ) from error
    if not isinstance(found, tvm.IRModule):
        raise UnsupportedError(
            f"cannot read a Relax module from {path}",
            why=f"it holds a {type(found).__name__}",
            fix="write the whole module, not one function of it",
        )
    return found


def read_params(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by parameter name of the file `model.params` beside a module's file, if there is one.

    TVM 0.27 writes no constants into scripts and JSON: `tvm.runtime.save_param_dict_to_file` does.
    """
    beside = path.with_suffix(".params")
    if not beside.is_file():
        return {}
    try:
        found = tvm.runtime.load_param_dict_from_file(str(beside))
    except _UNREADABLE as error:
        raise UnsupportedError(
            f"cannot read the parameters in {beside}",
            why=tvm_message(error),
            fix="write them with tvm.runtime.save_param_dict_to_file(params, path)",
        ) from error
    return {str(name): from_tvm(tensor) for name, tensor in found.items()}


def _json(text: str) -> str:
    """The text, if it is JSON as TVM's: its own reader tells less."""
    found = json.loads(text)
    if not isinstance(found, dict) or "nodes" not in found:
        raise ValueError("it is no JSON of a TVM module: there are no nodes in it")
    return text


_UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SyntaxError)
"""What reading, TVM's parser and its JSON raise; its own errors derive from these."""
