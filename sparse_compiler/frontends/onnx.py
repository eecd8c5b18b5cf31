"""ONNX file -> our graph: read and checked here, imported by TVM, taken over by the Relax importer.

path -> ModelProto -> sizes and branches settled -> Relax module -> Graph
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .export import CallSpec, ExportedModel
from .onnx_inputs import Bound, Limits, bind_arguments, inputs_of
from .onnx_read import read_onnx
from .tvm_version import require_tvm


def import_onnx(
    path: Path,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    axes: Mapping[str, Limits] | None = None,
) -> ExportedModel:
    """The model of a file. args, kwargs: examples, in the order or by the names of its inputs; a
    plain number for an input of one number is compiled in.

    axes: names of the dynamic axes that stay dynamic, with their least and largest size (or None);
    all others get the size in the examples. None: all that the file declares dynamic stay so.

    Raises `UnsupportedError` for a file that is damaged, or has what TVM cannot import,
    `InputError` for arguments and `OptionError` for axes that do not fit it.
    """
    model = read_onnx(path)
    bound = bind_arguments(inputs_of(model), args, kwargs or {}, axes)
    require_tvm(str(path))
    from .onnx_convert import to_relax
    from .onnx_prepare import prepare
    from .relax import import_relax

    module = to_relax(path, prepare(path, model, bound), bound)
    imported = import_relax(module, ranges=bound.ranges)
    return replace(imported, call=_call(imported.call, bound, args, kwargs or {}))


def _call(
    call: CallSpec, bound: Bound, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> CallSpec:
    """How the file's model is called: as in the example, else with all inputs in order."""
    names = [value.name for value in bound.inputs]
    if not args and not kwargs:
        args = (0,) * len(names)
    _, spec = torch.utils._pytree.tree_flatten((args, dict(kwargs)))
    order = [*names[: len(args)], *kwargs]
    places = [order.index(name) for name in names if name not in bound.numbers]
    fixed = {order.index(name): number for name, number in bound.numbers.items()}
    return replace(call, in_spec=spec, inputs=tuple(places), fixed=fixed)
