"""Runs a graph node by node through the references of its ops: the oracle of every test.

Layouts and formats are storage, not meaning, so the interpreter ignores them. Symbols are bound
from the shapes of the inputs, and again wherever a node's result brings a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy
import torch

from ..errors import InputError
from .graph import Graph, Node
from .types import (
    Dim,
    ScalarType,
    TensorType,
    TupleType,
    Type,
    evaluate,
    symbols_in,
    symbols_of,
)


def bind_shape(type_: TensorType, shape: Sequence[int], symbols: dict[str, int]) -> str | None:
    """Enters the symbols that `shape` determines; returns what does not fit, or None."""
    if len(shape) != type_.rank:
        return f"it has {len(shape)} dimensions where {type_.rank} are expected"
    for i, (dim, size) in enumerate(zip(type_.shape, shape, strict=True)):
        if not isinstance(dim, int):
            if not solve_dim(dim, int(size), symbols):
                return f"dimension {i} is {size}, which {dim} cannot be"
            if symbols_of([dim]) - set(symbols):
                continue
        if evaluate(dim, symbols) != size:
            wanted = dim if isinstance(dim, int) else f"{dim} = {evaluate(dim, symbols)}"
            return f"dimension {i} is {size} where {wanted} is expected"
    return None


def solve_dim(dim: sympy.Expr, size: int, symbols: dict[str, int]) -> bool:
    """Enters the one unknown symbol of `dim` = `size`, where exactly one number fits.

    False where none does; True also where several do or nobody can tell (`FloorDiv(s0, 2)` = 3).
    """
    unknown = [s for s in dim.free_symbols if s.name not in symbols]
    if len(unknown) != 1:
        return True
    if dim.is_Symbol:
        symbols[unknown[0].name] = size
        return True
    known = {s: sympy.Integer(symbols[s.name]) for s in dim.free_symbols if s.name in symbols}
    try:
        roots = sympy.solve(dim.xreplace(known) - size, unknown[0])
    except NotImplementedError:
        return True
    if len(roots) == 1 and roots[0].is_Integer:
        symbols[unknown[0].name] = int(roots[0])
    return bool(roots)


def bind_inputs(graph: Graph, inputs: Sequence[torch.Tensor]) -> dict[str, int]:
    """Symbol values from the inputs' shapes. Raises `InputError` on a shape that cannot be."""
    if len(inputs) != len(graph.inputs):
        raise InputError(f"{len(inputs)} inputs for a graph of {len(graph.inputs)}")
    symbols: dict[str, int] = {}
    for value, tensor in zip(graph.inputs, inputs, strict=True):
        for dim, size in zip(value.type.shape, tensor.shape, strict=False):
            if isinstance(dim, sympy.Symbol):  # first, since `s0 + s1` may come before `s1`
                symbols.setdefault(dim.name, int(size))
    for value, tensor in zip(graph.inputs, inputs, strict=True):
        problem = bind_shape(value.type, tensor.shape, symbols)
        if problem:
            raise InputError(f"input %{value.name} has the wrong shape", why=problem)
    for name, limits in graph.symbols.items():
        if name not in symbols:
            continue
        size = symbols[name]
        if size < limits.low or (limits.high is not None and size > limits.high):
            high = "inf" if limits.high is None else limits.high
            raise InputError(
                f"dimension {name} = {size} lies outside [{limits.low}, {high}]",
                fix="compile with a range that holds it",
            )
    return symbols


def bind_result(type_: Type | None, result: Any, symbols: dict[str, int]) -> None:
    """Binds symbols that only a result determines: sizes of `nonzero`, values of `item`."""
    if isinstance(type_, TupleType):
        for item, part in zip(type_.items, result, strict=True):
            bind_result(item, part, symbols)
    elif isinstance(type_, ScalarType) and not isinstance(type_.value, int):
        solve_dim(type_.value, int(result), symbols)
    elif isinstance(type_, TensorType):
        for dim, size in zip(type_.shape, result.shape, strict=True):
            if not isinstance(dim, int):
                solve_dim(dim, int(size), symbols)


def run_node(
    node: Node, inputs: Sequence[Any], symbols: dict[str, int], objects: Mapping[str, Any]
) -> Any:
    """The node's reference on real inputs; binds symbols that the result brings."""
    result = node.op.bind(symbols, objects).reference(*inputs)
    if symbols_in(node.type) - set(symbols):
        bind_result(node.type, result, symbols)
    return result


Visitor = Callable[[str, Any], None]


def interpret(
    graph: Graph,
    inputs: Sequence[torch.Tensor],
    params: Mapping[str, torch.Tensor],
    visit: Visitor | None = None,
) -> tuple[Any, ...]:
    """Outputs of `graph`, then the values of its updates. `visit(name, value)` sees every node."""
    symbols = bind_inputs(graph, inputs)
    values: dict[str, Any] = {v.name: t for v, t in zip(graph.inputs, inputs, strict=True)}
    values |= {p.name: params[p.name] for p in graph.params}
    with torch.no_grad():
        for node in graph.nodes:
            args = [values[name] for name in node.inputs]
            values[node.name] = run_node(node, args, symbols, graph.objects)
            if visit is not None:
                visit(node.name, values[node.name])
    return tuple(values[name] for name in (*graph.outputs, *(v for v, _ in graph.updates)))


def dim_values(dims: Sequence[Dim], symbols: Mapping[str, int]) -> tuple[int, ...]:
    """All of `dims` as numbers."""
    return tuple(evaluate(d, symbols) for d in dims)
