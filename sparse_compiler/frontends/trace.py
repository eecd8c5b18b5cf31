"""One trace of a module, straight to functional ATen operators.

The public road, `torch.export.export(...).run_decompositions({})`, traces twice: the module, into
operators that may write in place, and what came out, into functional ones. This is its second trace
on the module itself: the same graph, without assertions about the first, in 60 % of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch

from ..errors import UnsupportedError


def trace(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    dynamic_shapes: Any,
) -> torch.export.ExportedProgram:
    """The program of a call, with an empty table of decompositions. Raises whatever torch does."""
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedError(
            "cannot trace a TorchScript module",
            why="its code is not Python's any more",
            fix="compile the module that it was made from",
        )
    if isinstance(model, torch.fx.GraphModule):
        # Its nodes may hold fake tensors of a file, which the trace would mix with its own.
        traced = torch.export.export(
            model, args, dict(kwargs), dynamic_shapes=dynamic_shapes, strict=False
        )
        functional: torch.export.ExportedProgram = traced.run_decompositions({})
        return functional
    # Here, since they bring all of Dynamo: 0.5 s and 120 MB.
    from torch.export import _trace, exported_program

    with exported_program._override_composite_implicit_decomp(_kept_whole()):
        program: torch.export.ExportedProgram = _trace._export(
            model, args, dict(kwargs), dynamic_shapes, strict=False, pre_dispatch=False
        )
    _read_ties_once(program)
    return program


def _read_ties_once(program: torch.export.ExportedProgram) -> None:
    """The last of the names of a parameter is the one that is read, as the public road has it."""
    holders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    named = [
        (holders[spec.arg.name], program.state_dict.get(spec.target or ""))
        for spec in program.graph_signature.input_specs
    ]
    last = {id(tensor): node for node, tensor in named if tensor is not None}
    for node, tensor in named:
        if tensor is not None and node is not last[id(tensor)]:
            node.replace_all_uses_with(last[id(tensor)])


@cache
def _kept_whole() -> dict[torch._ops.OperatorBase, Callable[..., Any]]:
    """The operators that torch would write as others, of which none shall be."""
    from torch.export import exported_program

    return exported_program._split_decomp_table_to_cia_and_python_decomp({})[0]
