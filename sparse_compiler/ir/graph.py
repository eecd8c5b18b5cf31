"""The graph: immutable, typed, in single-assignment form, values known by name.

Names come from module paths and never from a counter, so deleting a node renames nothing else.
A pass builds a new graph; `Graph.replace` returns the same object when nothing changed, so
"did it change" is `after is not before`.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import sympy

from ..errors import VerifyError
from .attrs import map_attr, print_attr
from .op import Op
from .types import TensorType, Type, symbols_in

_NOT_IN_NAMES = re.compile(r"[^\w.$-]+")


@dataclass(frozen=True)
class Value:
    """A graph input or parameter: a name and a type."""

    name: str
    type: TensorType


@dataclass(frozen=True)
class Node:
    """op applied to the values named `inputs`, giving the value `name` of type `type`.

    loc: the module path or source line that it comes from, for messages only.
    """

    op: Op
    inputs: tuple[str, ...]
    type: Type
    name: str
    loc: str = field(default="", compare=False)

    def __str__(self) -> str:
        attrs = ", ".join(f"{k}={print_attr(v)}" for k, v in self.op.attributes().items())
        args = ", ".join(f"%{i}" for i in self.inputs)
        return f"%{self.name} = {self.op.name}{f'[{attrs}]' if attrs else ''}({args})" + (
            f"   # {self.loc}" if self.loc else ""
        )


@dataclass(frozen=True)
class Range:
    """Bounds of a symbolic dimension, both included; high is None where unbounded."""

    low: int
    high: int | None


def is_weight_time(op: Op, inputs: tuple[str, ...], type_: Type, known: Container[str]) -> bool:
    """True for an op on `known` weight-time values whose result is the same at every call.

    A slice of a parameter to a symbolic size changes from call to call, and so do random numbers.
    """
    return _is_fixed(op, inputs, known) and not symbols_in(type_) and not attr_symbols(op)


def _is_fixed(op: Op, inputs: tuple[str, ...], known: Container[str]) -> bool:
    """Nothing but `known` values and attributes decide the result; from nothing only in our ops."""
    return bool(inputs or op.rows) and all(name in known for name in inputs) and not op.random


def attr_symbols(op: Op) -> set[str]:
    """Names of the symbols in an op's attributes."""
    found: set[str] = set()

    def leaf(value: Any) -> Any:
        if isinstance(value, sympy.Basic):
            found.update(s.name for s in value.free_symbols if isinstance(s, sympy.Symbol))
        return value

    map_attr(tuple(getattr(op, f.name) for f in fields(op)), leaf)
    return found


@dataclass(frozen=True, eq=False)
class Graph:
    """inputs and params in calling order, nodes in execution order, outputs by value name.

    updates: (value, target) pairs: after a run the value is copied into the input or parameter
    `target`, which the model mutates. symbols: the range of every named dimension. objects: what
    has no text form (sub-graphs of control flow), by name.
    """

    inputs: tuple[Value, ...]
    params: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    updates: tuple[tuple[str, str], ...] = ()
    symbols: Mapping[str, Range] = field(default_factory=dict)
    objects: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def types(self) -> Mapping[str, Type]:
        """Type of every value by name."""
        values: dict[str, Type] = {v.name: v.type for v in (*self.inputs, *self.params)}
        return values | {n.name: n.type for n in self.nodes}

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """The node that gives a value; inputs and parameters are absent."""
        return {n.name: n for n in self.nodes}

    @cached_property
    def users(self) -> Mapping[str, tuple[Node, ...]]:
        """The nodes that read a value, each once."""
        found: dict[str, list[Node]] = {name: [] for name in self.types}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found[name].append(node)
        return {name: tuple(nodes) for name, nodes in found.items()}

    @cached_property
    def results(self) -> frozenset[str]:
        """Values that leave the graph, as outputs or as updates."""
        return frozenset(self.outputs) | {value for value, _ in self.updates}

    @cached_property
    def weight_time(self) -> frozenset[str]:
        """Values that depend on parameters alone: computed when weights change, not per call."""
        known = {p.name for p in self.params} - {target for _, target in self.updates}
        for node in self.nodes:
            if is_weight_time(node.op, node.inputs, node.type, known):
                known.add(node.name)
        return frozenset(known)

    @cached_property
    def bind_time(self) -> frozenset[str]:
        """Values that parameters and sizes of inputs decide, those of weight time among them.

        They are computed when shapes are bound: positions of a symbolic length, masks made of them.
        """
        known = {p.name for p in self.params} - {target for _, target in self.updates}
        sizes = {name for value in self.inputs for name in symbols_in(value.type)}
        for node in self.nodes:
            needed = symbols_in(node.type) | attr_symbols(node.op)
            if _is_fixed(node.op, node.inputs, known) and needed <= sizes:
                known.add(node.name)
        return frozenset(known)

    def tensor(self, name: str) -> TensorType:
        """The type of a value that must be a tensor."""
        type_ = self.types[name]
        if not isinstance(type_, TensorType):
            raise VerifyError(f"%{name} is no tensor", why=f"its type is {type_}")
        return type_

    def with_nodes(self, nodes: Iterable[Node], **changes: Any) -> Graph:
        """A new graph with these nodes, or this very graph when nothing differs."""
        new = tuple(nodes)
        same = len(new) == len(self.nodes) and all(
            a is b or a == b for a, b in zip(new, self.nodes, strict=True)
        )
        if same and all(getattr(self, k) == v for k, v in changes.items()):
            return self
        return replace(self, nodes=new, **changes)

    def __str__(self) -> str:
        from .text import print_graph

        return print_graph(self)


class Builder:
    """Collects nodes; infers each type, and refuses a name used twice."""

    def __init__(self) -> None:
        self.inputs: list[Value] = []
        self.params: list[Value] = []
        self.nodes: list[Node] = []
        self.types: dict[str, Type] = {}

    def input(self, name: str, type_: TensorType) -> str:
        """Declares a graph input."""
        self.inputs.append(Value(name, type_))
        return self._enter(name, type_)

    def param(self, name: str, type_: TensorType) -> str:
        """Declares a parameter or buffer."""
        self.params.append(Value(name, type_))
        return self._enter(name, type_)

    def add(
        self,
        op: Op,
        inputs: Iterable[str],
        name: str,
        *,
        type_: Type | None = None,
        loc: str = "",
    ) -> str:
        """Appends a node; `type_` only for ops that cannot infer it. Returns `name`."""
        names = tuple(inputs)
        inferred = op.infer(tuple(self.types[i] for i in names))
        result = inferred if inferred is not None else type_
        if result is None:
            raise VerifyError(f"{op.name} needs a type from its importer", node=f"%{name}")
        self.nodes.append(Node(op, names, result, name, loc))
        return self._enter(name, result)

    def fresh(self, name: str) -> str:
        """`name`, or `name_2`, `name_3` where a value of the same module took it already.

        What the text form cannot carry in a name (a space in a ParameterDict's key) becomes `_`.
        """
        name = _NOT_IN_NAMES.sub("_", name)
        if name not in self.types:
            return name
        count = 2
        while f"{name}_{count}" in self.types:
            count += 1
        return f"{name}_{count}"

    def build(
        self,
        outputs: Iterable[str],
        updates: Iterable[tuple[str, str]] = (),
        symbols: Mapping[str, Range] | None = None,
        objects: Mapping[str, Any] | None = None,
    ) -> Graph:
        """The finished graph."""
        return Graph(
            tuple(self.inputs),
            tuple(self.params),
            tuple(self.nodes),
            tuple(outputs),
            tuple(updates),
            symbols or {},
            objects or {},
        )

    def _enter(self, name: str, type_: Type) -> str:
        if name in self.types:
            raise VerifyError(f"two values are named %{name}")
        self.types[name] = type_
        return name
