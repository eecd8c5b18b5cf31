"""What must hold of every graph, checked after every pass.

Names are unique and defined before use, every type is what its op infers, every symbol is
declared, updates go to inputs or parameters. All violations are collected and raised once.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from ..errors import GraphSyntaxError, VerifyError
from .attrs import Object, map_attr
from .graph import Graph, Node
from .text import print_node, print_type
from .types import Layout, TensorType, TupleType, Type, symbols_of


def verify(graph: Graph) -> None:
    """Raises `VerifyError` listing everything wrong with `graph`."""
    problems: list[str] = []
    known: dict[str, Type] = {}
    for value in (*graph.inputs, *graph.params):
        if value.name in known:
            problems.append(f"%{value.name} is defined twice")
        known[value.name] = value.type
    for node in graph.nodes:
        problems += _node_problems(node, known, graph.objects)
        if node.name in known:
            problems.append(f"%{node.name} is defined twice")
        known[node.name] = node.type
    problems += [f"output %{name} is not defined" for name in graph.outputs if name not in known]
    targets = {v.name for v in (*graph.inputs, *graph.params)}
    for name, target in graph.updates:
        if name not in known:
            problems.append(f"update of %{target} reads %{name}, which is not defined")
        if target not in targets:
            problems.append(f"update of %{target}, which is neither input nor parameter")
        elif name in known and known[name] != known[target]:
            kinds = print_type(known[name]), print_type(known[target])
            problems.append(f"update of %{target}: {kinds[1]}, with %{name}: {kinds[0]}")
    if len({target for _, target in graph.updates}) != len(graph.updates):
        problems.append("two updates go to one target")
    if graph.symbols:
        problems += _symbol_problems(graph)
    if problems:
        raise VerifyError("the graph is not valid", why="\n       ".join(problems))


def _objects(node: Node) -> list[str]:
    """Names of the objects that the node's attributes stand for."""
    names: list[str] = []

    def leaf(value: Any) -> Any:
        if isinstance(value, Object):
            names.append(value.name)
        return value

    map_attr(tuple(node.op.attributes().values()), leaf)
    return names


def _node_problems(node: Node, known: dict[str, Type], objects: Container[str]) -> list[str]:
    missing = [f"%{i} is used before it is defined" for i in node.inputs if i not in known]
    missing += [f"object %{o} is not in the graph" for o in _objects(node) if o not in objects]
    if missing:
        return [f"{print_node(node)}: {problem}" for problem in missing]
    try:
        inferred = node.op.infer(tuple(known[i] for i in node.inputs))
    except (VerifyError, GraphSyntaxError) as error:
        return [f"{print_node(node)}: {error}"]
    if inferred is not None and inferred != node.type:
        return [f"{print_node(node)}: the op infers {print_type(inferred)}"]
    for type_ in tensor_items(node.type):
        if type_.layout is not None and not _is_order(type_.layout, type_.rank):
            return [f"{print_node(node)}: the layout is no order of its {type_.rank} dimensions"]
    return []


def _is_order(layout: Layout, rank: int) -> bool:
    return sorted(layout.order) == list(range(rank)) and 0 <= layout.planes <= rank


def _symbol_problems(graph: Graph) -> list[str]:
    problems = []
    for value in (*graph.inputs, *graph.params):
        for name in sorted(symbols_of(value.type.shape) - set(graph.symbols)):
            problems.append(f"%{value.name} uses the undeclared symbol {name}")
    return problems


def tensor_items(type_: Type) -> tuple[TensorType, ...]:
    """The tensors in a type, in order."""
    if isinstance(type_, TensorType):
        return (type_,)
    if isinstance(type_, TupleType):
        return tuple(t for item in type_.items if item is not None for t in tensor_items(item))
    return ()
