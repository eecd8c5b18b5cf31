"""The graph as a module that torch alone runs: for gradients, and for leaving this package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Protocol

import sympy
import torch
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

from ..errors import UnsupportedError, first_line
from ..ir.attrs import map_attr
from ..ir.graph import Graph
from ..ir.interpret import bind_inputs, bind_result
from ..ir.op import Op
from ..ir.types import evaluate, symbols_in, torch_dtype


class Call(Protocol):
    """How arguments become graph inputs, and graph outputs the model's results."""

    @property
    def in_spec(self) -> Any: ...

    @property
    def inputs(self) -> tuple[int, ...]: ...

    @property
    def fixed(self) -> Mapping[int, Any]: ...

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
        """The graph inputs among the arguments."""

    def unflatten(self, results: tuple[Any, ...], inputs: list[torch.Tensor]) -> Any:
        """The model's own structure of results."""


class PlainModule(torch.nn.Module):
    """Runs a graph by the references of its ops. Its parameters keep their names.

    Gradients flow; what the graph writes to is written.
    """

    def __init__(self, graph: Graph, params: Mapping[str, torch.Tensor], call: Call) -> None:
        super().__init__()
        self._graph, self._call = graph, call
        for name, tensor in params.items():
            _place(self, name, tensor)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        graph = self._graph
        inputs = self._call.flatten(args, kwargs)
        symbols = _sizes(graph, inputs)
        values: dict[str, Any] = {v.name: t for v, t in zip(graph.inputs, inputs, strict=True)}
        values |= {param.name: _find(self, param.name) for param in graph.params}
        for node in graph.nodes:
            read = [values[name] for name in node.inputs]
            values[node.name] = _bound(node.op, symbols, graph).reference(*read)
            if symbols_in(node.type) - set(symbols):
                bind_result(node.type, values[node.name], symbols)
        for value, target in graph.updates:
            values[target].copy_(values[value])
        return self._call.unflatten(tuple(values[name] for name in graph.outputs), inputs)


def plain_torch(module: PlainModule, hints: Mapping[str, int]) -> torch.nn.Module:
    """`module` traced into torch's own operators, in need of this package no more.

    hints: sizes for the example that it is traced with. Sizes that are symbols stay so.
    Raises `UnsupportedError` with torch's reason where torch.export cannot trace it.
    """
    call, graph = module._call, module._graph
    args, kwargs = example_arguments(graph, call, hints)
    dynamic: list[Any] = [None] * call.in_spec.num_leaves
    for place, value in zip(call.inputs, graph.inputs, strict=True):
        sizes = [i for i, dim in enumerate(value.type.shape) if not isinstance(dim, int)]
        dynamic[place] = dict.fromkeys(sizes, torch.export.Dim.AUTO) or None
    by_place, by_name = torch.utils._pytree.tree_unflatten(dynamic, call.in_spec)
    combined = {"args": by_place, **by_name}  # as `forward` names them
    try:
        with torch.no_grad():
            program = torch.export.export(
                module, args, kwargs, dynamic_shapes=combined if any(dynamic) else None
            )
        return program.module()
    except (RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedError(
            "torch.export cannot trace the graph", why=first_line(error)
        ) from error


def example_arguments(
    graph: Graph, call: Call, hints: Mapping[str, int]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments that fit a graph: zeros of the sizes in `hints`, and what was compiled in."""
    leaves: list[Any] = [None] * call.in_spec.num_leaves
    for place, value in zip(call.inputs, graph.inputs, strict=True):
        shape = [evaluate(dim, hints) for dim in value.type.shape]
        leaves[place] = torch.zeros(shape, dtype=torch_dtype(value.type.dtype))
    for place, constant in call.fixed.items():
        leaves[place] = constant
    args, kwargs = torch.utils._pytree.tree_unflatten(leaves, call.in_spec)
    return tuple(args), dict(kwargs)


def _sizes(graph: Graph, inputs: list[torch.Tensor]) -> dict[str, Any]:
    """The sizes that the inputs determine: numbers, or symbols of torch's while it traces."""
    if not any(isinstance(size, torch.SymInt) for tensor in inputs for size in tensor.shape):
        return dict(bind_inputs(graph, inputs))
    return {
        dim.name: size
        for value, tensor in zip(graph.inputs, inputs, strict=True)
        for dim, size in zip(value.type.shape, tensor.shape, strict=True)
        if isinstance(dim, sympy.Symbol)
    }


def _bound(op: Op, symbols: Mapping[str, Any], graph: Graph) -> Op:
    """As `Op.bind`, for sizes that may be symbols of torch's."""
    if not any(isinstance(size, torch.SymInt) for size in symbols.values()):
        return op.bind(symbols, graph.objects)

    def leaf(value: Any) -> Any:
        if not isinstance(value, sympy.Expr):
            return value
        sizes = {s: symbols[s.name] for s in value.free_symbols if isinstance(s, sympy.Symbol)}
        return sympy_interp(PythonReferenceAnalysis, sizes, value)

    return replace(op, **{f.name: map_attr(getattr(op, f.name), leaf) for f in fields(op)})


def _place(root: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    *path, leaf = name.split(".")
    owner = root
    for part in path:
        if part in owner._parameters or part in owner._buffers:
            raise UnsupportedError(f"the parameter {name} has the name of a module")
        if part not in owner._modules:
            owner.add_module(part, torch.nn.Module())
        owner = owner.get_submodule(part)
    if leaf in owner._modules:
        raise UnsupportedError(f"the parameter {name} has the name of a module")
    if isinstance(tensor, torch.nn.Parameter):
        owner.register_parameter(leaf, tensor)
    else:
        owner.register_buffer(leaf, tensor)


def _find(root: torch.nn.Module, name: str) -> torch.Tensor:
    path, _, leaf = name.rpartition(".")
    found: torch.Tensor = getattr(root.get_submodule(path), leaf)
    return found
