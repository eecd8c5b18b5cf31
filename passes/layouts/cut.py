"""Planes or rows for every node: a minimum cut.

Source = planes, sink = rows. A node on the source side pays its time in planes (an edge to the
sink), one on the sink side its time in rows (an edge from the source). A value whose readers stand
on the other side pays one copy however many they are: an edge to an auxiliary node, from which
edges that cannot be cut lead to the readers. What has but one mode, and torch, is a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import networkx as nx

from sparse_compiler.analysis.cost import Sizes, copy_ns, sweep_ns
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.types import TensorType
from sparse_compiler.ops.shape import in_planes
from sparse_compiler.passes.layouts.candidates import Choices, Mode

PLANES, ROWS = ("planes",), ("rows",)
ROWS_SLOWER = 1.25
"""A sweep over rows of any dtype relative to one over planes, whose rows fill whole vectors."""

Side: TypeAlias = tuple[str, ...]


def cheapest_modes(graph: Graph, choices: Mapping[str, Choices], sizes: Sizes) -> dict[str, Mode]:
    """A mode for each node of `choices` that has one, at the least time of sweeps and copies."""
    chosen: dict[str, Mode] = {}
    free: set[str] = set()
    for name, choice in choices.items():
        only = choice.planes or choice.rows
        if only is not None:
            chosen[name] = only
        if choice.planes is not None and choice.rows is not None:
            free.add(name)
    if free:
        network = _Network(graph, choices, sizes)
        _, (_, in_rows) = nx.minimum_cut(network.build(), PLANES, ROWS)
        for name in free:
            rows = choices[name].rows
            if ("node", name) in in_rows and rows is not None:
                chosen[name] = rows
    return chosen


class _Network:
    def __init__(self, graph: Graph, choices: Mapping[str, Choices], sizes: Sizes) -> None:
        self.graph, self.choices, self.sizes = graph, choices, sizes
        self.edges: dict[tuple[Side, Side], int] = {}
        self.uncut: list[tuple[Side, Side]] = []

    def build(self) -> nx.DiGraph[Side]:
        """The network with its capacities in nanoseconds."""
        for node in self.graph.nodes:
            choice = self.choices.get(node.name)
            if choice is not None and choice.planes is not None and choice.rows is not None:
                side = self._side(node.name)
                self._edge(side, ROWS, self._planes_ns(node, choice.planes))
                self._edge(PLANES, side, self._rows_ns(node, choice.rows))
        values = [v.name for v in self.graph.inputs]
        for name in [*values, *self.choices]:
            self._copies(name)
        network: nx.DiGraph[Side] = nx.DiGraph()
        network.add_nodes_from((PLANES, ROWS))
        for (a, b), capacity in self.edges.items():
            network.add_edge(a, b, capacity=capacity)
        network.add_edges_from(self.uncut)  # without a capacity: infinite
        return network

    def _side(self, name: str) -> Side:
        """Where a node stands: at a terminal, unless it may choose."""
        choice = self.choices.get(name)
        if choice is None or choice.planes is None:
            return ROWS
        return PLANES if choice.rows is None else ("node", name)

    def _value_side(self, name: str) -> Side:
        """Where a node's result lies: an op that reads planes may leave rows."""
        choice = self.choices.get(name)
        planes = choice.planes if choice is not None else None
        leaves_rows = planes is not None and in_planes(planes.type) is None
        return ROWS if leaves_rows else self._side(name)

    def _edge(self, a: Side, b: Side, ns: float) -> None:
        if a != b and (a, b) != (PLANES, ROWS):
            self.edges[a, b] = self.edges.get((a, b), 0) + round(ns)

    def _copies(self, name: str) -> None:
        """What a value costs whose readers are on the other side than itself."""
        type_ = self.graph.types[name]
        readers = set(self._readers(name)) if isinstance(type_, TensorType) else set()
        if not readers or not isinstance(type_, TensorType):
            return
        here, ns = self._value_side(name), copy_ns(self.sizes.nbytes(type_))
        to_rows, to_planes = ("to rows", name), ("to planes", name)
        if ROWS in readers:
            self._edge(here, ROWS, ns)
        elif here != ROWS and (free := {side for side in readers if side != PLANES}):
            self._edge(here, to_rows, ns)
            self.uncut += [(to_rows, side) for side in sorted(free)]
        if PLANES in readers:
            self._edge(PLANES, here, ns)
        elif here != PLANES and (free := {side for side in readers if side != ROWS}):
            self._edge(to_planes, here, ns)
            self.uncut += [(side, to_planes) for side in sorted(free)]

    def _readers(self, name: str) -> Iterator[Side]:
        """On which side each reader wants the value."""
        if name in self.graph.results:
            yield ROWS
        for node in self.graph.users[name]:
            mode = self.choices[node.name].planes if node.name in self.choices else None
            if mode is None:
                yield ROWS
                continue
            for i, layout in enumerate(mode.inputs):
                if node.inputs[i] == name:
                    wants_rows = layout is None or not layout.planes
                    yield ROWS if wants_rows else self._side(node.name)

    def _planes_ns(self, node: Node, mode: Mode) -> float:
        ns = self._view_ns(node, mode) if node.op.view else self._sweep_ns(node)
        for name, layout in zip(node.inputs, mode.inputs, strict=True):
            source = self.choices.get(name)
            if source is None or source.planes is None or layout is None or not layout.planes:
                continue
            have = in_planes(source.planes.type)
            if have is not None and have != layout:
                ns += copy_ns(self.sizes.nbytes(source.planes.type))
        return ns

    def _rows_ns(self, node: Node, mode: Mode) -> float:
        return self._view_ns(node, mode) if node.op.view else self._sweep_ns(node) * ROWS_SLOWER

    def _view_ns(self, node: Node, mode: Mode) -> float:
        types = tuple(
            self.graph.tensor(name).laid_out(layout)
            for name, layout in zip(node.inputs, mode.inputs, strict=True)
        )
        return 0.0 if node.op.free(types) else copy_ns(self.sizes.nbytes(mode.type))

    def _sweep_ns(self, node: Node) -> float:
        names = {*node.inputs, node.name}
        return sweep_ns(sum(self.sizes.nbytes(self.graph.tensor(name)) for name in names))
