"""Decides what runs in planes, and puts a relayout on every edge between planes and rows.

A region starts at a linear with a packed weight and grows over whatever its values flow through
in planes. Stages keep regions acyclic: what a region hands to torch can only come back to a later
one. A region that would not pay for its relayouts is given back to torch, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import networkx as nx

from sparse_compiler.analysis.cost import CALL_NS, relayout_ns
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.op import Op
from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.types import Layout, TensorType, Type, evaluate
from sparse_compiler.ops.linear import Linear
from sparse_compiler.ops.pack import is_packed
from sparse_compiler.ops.shape import Relayout
from sparse_compiler.passes.base import TORCH, Context, Pass


@dataclass
class Plan:
    """layouts: per native node the layout of each input (None: row-major); stages: per value."""

    layouts: dict[str, tuple[Layout | None, ...]] = field(default_factory=dict)
    types: dict[str, Type] = field(default_factory=dict)
    stages: dict[str, int] = field(default_factory=dict)

    def direct(self, node: Node, position: int) -> bool:
        """True where the input arrives in the planes in which the same region left it."""
        name, wanted = node.inputs[position], self.layouts[node.name][position]
        have = self.types[name]
        return (
            wanted is not None
            and name in self.layouts
            and self.stages[name] == self.stages[node.name]
            and isinstance(have, TensorType)
            and have.layout == wanted
        )


@dataclass(frozen=True)
class ChooseLayouts(Pass):
    """linear(x, packed)  =>  relayout(linear(relayout[planes](x), packed)), for whole regions."""

    name: ClassVar[str] = "choose-layouts"

    def run(self, graph: Graph, context: Context) -> Graph:
        if any(isinstance(node.op, Relayout) for node in graph.nodes):
            return graph
        banned: dict[str, No] = {}
        while True:
            plan = _plan(graph, context, banned)
            dropped = (
                _idle_views(graph, plan)
                or _stranded(graph, plan)
                or _unprofitable(graph, plan, context)
            )
            if not dropped:
                break
            banned |= dropped
        if not plan.layouts:
            return graph
        return _Rewriter(graph, plan).run()


def _plan(graph: Graph, context: Context, banned: dict[str, No]) -> Plan:
    plan = Plan(types=dict(graph.types), stages={v.name: 0 for v in graph.inputs})
    for node in graph.nodes:
        if node.name in graph.weight_time:
            continue
        reason = banned.get(node.name)
        layouts = reason if reason is not None else _layouts(graph, plan, node)
        inputs = [name for name in node.inputs if name in plan.stages]
        if not isinstance(layouts, No):
            layouts = _reachable(graph, plan, node, layouts)
        if isinstance(layouts, No):
            if node.op.weight_input is not None or layouts.code not in ("outside_region",):
                context.refuse(node.name, layouts)
            plan.stages[node.name] = max((plan.stages[i] for i in inputs), default=0)
            continue
        plan.layouts[node.name] = layouts
        plan.stages[node.name] = _stage(plan, inputs)
        types = _wanted_types(graph, node, layouts)
        plan.types[node.name] = node.op.infer(types) or node.type
    return plan


def _stage(plan: Plan, inputs: list[str]) -> int:
    """A native node joins the stage of its native inputs, or opens one after its torch inputs."""
    return max((plan.stages[i] + (i not in plan.layouts) for i in inputs), default=1)


def _reachable(
    graph: Graph, plan: Plan, node: Node, layouts: tuple[Layout | None, ...]
) -> tuple[Layout | None, ...] | No:
    """Refuses where an input would need a relayout other than rows <-> planes of the last dim."""
    stage = _stage(plan, [name for name in node.inputs if name in plan.stages])
    for name, layout in zip(node.inputs, layouts, strict=True):
        type_ = plan.types[name]
        if layout is None or not isinstance(type_, TensorType):
            continue
        direct = name in plan.layouts and plan.stages[name] == stage and type_.layout == layout
        if not direct and layout != _last_dim_planes(type_.rank):
            return No("relayout", f"%{name} would have to be copied into the order {layout}")
    return layouts


def _last_dim_planes(rank: int) -> Layout:
    return Layout((rank - 1, *range(rank - 1)), 1)


def _leaves(graph: Graph, plan: Plan, name: str) -> bool:
    """True where torch reads a native value, itself or through views that torch can repeat."""
    if name in graph.results:
        return True
    return any(
        user.name not in plan.layouts
        or not any(plan.direct(user, i) for i, n in enumerate(user.inputs) if n == name)
        or (user.op.view and _leaves(graph, plan, user.name))
        for user in graph.users[name]
    )


def _stranded(graph: Graph, plan: Plan) -> dict[str, No]:
    """Values that torch reads but that lie in planes of more than the last dimension."""
    reason = No("relayout", "its value would have to be copied out of planes of heads")
    return {
        node.name: reason
        for node in graph.nodes
        if node.name in plan.layouts
        and not node.op.view
        and isinstance(type_ := plan.types[node.name], TensorType)
        and type_.layout != _last_dim_planes(type_.rank)
        and _leaves(graph, plan, node.name)
    }


def _layouts(graph: Graph, plan: Plan, node: Node) -> tuple[Layout | None, ...] | No:
    """What the op asks for; a linear also needs a packed weight."""
    weight = node.op.weight_input
    if weight is not None and not is_packed(graph, node.inputs[weight]):
        return No("not_packed", "the weight has no storage format")
    types = tuple(plan.types[i] for i in node.inputs)
    return node.op.planar(types, tuple(i in graph.weight_time for i in node.inputs))


def _wanted_types(graph: Graph, node: Node, layouts: tuple[Layout | None, ...]) -> tuple[Type, ...]:
    types = []
    for name, layout in zip(node.inputs, layouts, strict=True):
        type_ = graph.types[name]
        planar = isinstance(type_, TensorType) and layout is not None
        types.append(type_.laid_out(layout) if planar and isinstance(type_, TensorType) else type_)
    return tuple(types)


def _idle_views(graph: Graph, plan: Plan) -> dict[str, No]:
    """Views at the end of a region: torch renames for free what has left the planes already."""
    reason = No("trailing_view", "nothing in planes reads it")
    return {
        node.name: reason
        for node in graph.nodes
        if node.name in plan.layouts and node.op.view and not _read_in_planes(graph, plan, node)
    }


def _read_in_planes(graph: Graph, plan: Plan, node: Node) -> bool:
    for user in graph.users[node.name]:
        if user.name in plan.layouts:
            positions = [i for i, name in enumerate(user.inputs) if name == node.name]
            if any(plan.direct(user, i) for i in positions):
                return True
    return False


def _regions(graph: Graph, plan: Plan) -> list[list[Node]]:
    """Native nodes joined by planar values or by a shared relayout."""
    joined = nx.Graph()
    for node in graph.nodes:
        if node.name not in plan.layouts:
            continue
        joined.add_node(node.name)
        for i, name in enumerate(node.inputs):
            layout = plan.layouts[node.name][i]
            if plan.direct(node, i):
                joined.add_edge(node.name, name)
            elif layout is not None:
                joined.add_edge(node.name, ("relayout", name, layout, plan.stages[node.name]))
    position = {node.name: i for i, node in enumerate(graph.nodes)}
    regions = [
        sorted(position[name] for name in component if name in position)
        for component in nx.connected_components(joined)
    ]
    return [[graph.nodes[i] for i in region] for region in sorted(regions)]


def _unprofitable(graph: Graph, plan: Plan, context: Context) -> dict[str, No]:
    """Regions whose predicted gain does not pay for entering and leaving the planes."""
    banned: dict[str, No] = {}
    for region in _regions(graph, plan):
        reason = _region_refusal(graph, plan, region, context)
        if reason is not None:
            banned |= {node.name: reason for node in region}
    return banned


def _region_refusal(graph: Graph, plan: Plan, region: list[Node], context: Context) -> No | None:
    linears = [node for node in region if isinstance(node.op, Linear)]
    if not linears:
        return No("no_linear", "a region needs a linear with a packed weight")
    if context.force_native:
        return None
    gain = 0.0
    for node in linears:
        times = {c.format: c for c in context.candidates.get(node.name, ())}
        chosen = next((c for c in times.values() if c.refused is None), None)
        if chosen is not None:
            gain += times[TORCH].predicted_ns - chosen.predicted_ns
    cost = CALL_NS + sum(
        relayout_ns(_elements(graph, name, context)) for name in _crossings(graph, plan, region)
    )
    if gain > cost:
        return None
    return No(
        "below_break_even",
        f"the region's linears would gain {gain / 1e3:.0f} us over torch's, and entering and "
        f"leaving it costs {cost / 1e3:.0f} us",
    )


def _crossings(graph: Graph, plan: Plan, region: list[Node]) -> set[tuple[str, str]]:
    """(value, direction) of every relayout at the border of a region."""
    crossings: set[tuple[str, str]] = set()
    for node in region:
        for i, name in enumerate(node.inputs):
            if plan.layouts[node.name][i] is not None and not plan.direct(node, i):
                crossings.add((name, "in"))
        if not node.op.view and _leaves(graph, plan, node.name):
            crossings.add((node.name, "out"))
    return crossings


def _elements(graph: Graph, crossing: tuple[str, str], context: Context) -> int:
    numel = graph.tensor(crossing[0]).numel
    return numel if isinstance(numel, int) else evaluate(numel, context.hints)


class _Rewriter:
    """Builds the laid-out graph: native nodes on planes, relayouts where the plan changes side."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.graph, self.plan = graph, plan
        self.nodes: list[Node] = []
        self.types: dict[str, Type] = dict(graph.types)
        self.planes: dict[tuple[str, Layout, int], str] = {}
        self.rows: dict[str, str] = {}

    def run(self) -> Graph:
        for node in self.graph.nodes:
            layouts = self.plan.layouts.get(node.name)
            if layouts is None:
                inputs = tuple(self._in_rows(name) for name in node.inputs)
                self._append(replace(node, inputs=inputs))
                continue
            inputs = tuple(
                name if self.plan.direct(node, i) else self._arriving(node, name, layouts[i])
                for i, name in enumerate(node.inputs)
            )
            type_ = node.op.infer(tuple(self.types[i] for i in inputs)) or node.type
            self._append(replace(node, inputs=inputs, type=type_))
        outputs = tuple(self._in_rows(name) for name in self.graph.outputs)
        updates = tuple((self._in_rows(v), target) for v, target in self.graph.updates)
        return replace(self.graph, nodes=tuple(self.nodes), outputs=outputs, updates=updates)

    def _arriving(self, node: Node, name: str, layout: Layout | None) -> str:
        rows = self._in_rows(name)
        if layout is None:
            return rows
        key = (name, layout, self.plan.stages[node.name])
        if key not in self.planes:
            suffix = f"{name}.planes"
            count = sum(1 for known in self.planes if known[0] == name)
            new = suffix if count == 0 else f"{suffix}_{count + 1}"
            self.planes[key] = self._relayout(Relayout(layout.order, layout.planes), rows, new)
        return self.planes[key]

    def _in_rows(self, name: str) -> str:
        """The row-major form of a value: itself, one relayout for all its readers, or a view."""
        if name not in self.plan.layouts:
            return name
        node = self.graph.producers[name]
        if name not in self.rows and node.op.view:
            source = self._in_rows(node.inputs[0])
            self._append(replace(node, inputs=(source,), name=f"{name}.rows"))
            self.rows[name] = f"{name}.rows"
        elif name not in self.rows:
            self.rows[name] = self._relayout(Relayout(), name, f"{name}.rows")
        return self.rows[name]

    def _relayout(self, op: Op, source: str, name: str) -> str:
        type_ = op.infer((self.types[source],))
        self._append(Node(op, (source,), type_ or self.types[source], name))
        return name

    def _append(self, node: Node) -> None:
        self.nodes.append(node)
        self.types[node.name] = node.type
