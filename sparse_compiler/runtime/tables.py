"""f(param): [s]  =>  f(table): [s]   for what depends on parameters and sizes alone.

A library has no torch to compute such values with when sizes are set. So what they read becomes an
input, of which the library's file holds the value: they are computed at each call, by kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from ..codegen.cpu.standalone.tables import bounds
from ..errors import UnsupportedError
from ..ir.graph import Graph, Node, Range, Value
from ..ir.op import Op
from ..ir.types import Dim, tensor_type
from ..ops.iota import Full, Iota
from ..ops.shape import Expand, Slice
from .weights import WeightTimeValues

_LONGEST = 1 << 20  # numbers of a table


def with_tables(
    graph: Graph, params: Mapping[str, torch.Tensor]
) -> tuple[Graph, dict[str, torch.Tensor]]:
    """The graph with further inputs behind its own, and their values by name.

    Raises `UnsupportedError` on a value that no table can stand for.
    """
    late = graph.bind_time - graph.weight_time
    if not late:
        return graph, {}
    fixed = graph.weight_time
    first = [n for n in graph.nodes if n.name in late and n.inputs and fixed.issuperset(n.inputs)]
    known = list(dict.fromkeys(name for node in first for name in node.inputs))
    setup = [node for node in graph.nodes if node.name in graph.weight_time]
    values = WeightTimeValues(graph, setup, params, known)
    tables = {_table(name): values.take(name).detach().contiguous() for name in known}
    nodes = []
    for node in graph.nodes:
        if node in first:
            nodes.append(replace(node, inputs=tuple(map(_table, node.inputs))))
        elif node.name not in late or node.inputs:
            nodes.append(node)
        else:
            op, tables[_table(node.name)] = _of_sizes(node, graph.symbols)
            nodes.append(replace(node, op=op, inputs=(_table(node.name),)))
    more = [Value(name, tensor_type(table)) for name, table in tables.items()]
    return graph.with_nodes(nodes, inputs=(*graph.inputs, *more)), tables


def _table(name: str) -> str:
    return f"{name}.table"


def _of_sizes(node: Node, ranges: Mapping[str, Range]) -> tuple[Op, torch.Tensor]:
    """What makes a value that nothing but sizes decides of a table, and the table."""
    match node.op:
        case Iota(length=length, start=int() | float(), step=int() | float()):
            most = _most(node, length, ranges)
            return Slice(0, 0, length), replace(node.op, length=most).reference()
        case Full(value=int() | float() | bool(), shape=shape):
            return Expand(shape), replace(node.op, shape=(1,) * len(shape)).reference()
    raise UnsupportedError(
        f"%{node.name} depends on sizes in a way that a library cannot compute",
        why=f"{node.op.name} takes a size as a number",
        fix="export with fixed sizes",
    )


def _most(node: Node, length: Dim, ranges: Mapping[str, Range]) -> int:
    most = bounds(length, ranges)[1]
    if most is None or most > _LONGEST:
        raise UnsupportedError(
            f"%{node.name} counts up to {length}, which nothing bounds",
            why="a library keeps its numbers in a table",
            fix="give the dimension a max in dynamic_shapes",
        )
    return most
