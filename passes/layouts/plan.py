"""Which native nodes stay native: stages keep segments acyclic, and each segment must pay.

A native node joins the stage of its native inputs or opens one after its torch inputs; torch joins
the stage of what it reads. So what a segment hands to torch can only come back to a later one, and
a value that crosses stages travels in a torch tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import networkx as nx

from sparse_compiler.analysis.cost import (
    CALL_NS,
    FUSED_CALL_NS,
    HOSTED_CALL_NS,
    TORCH_CALL_NS,
    Sizes,
    copy_ns,
    sweep_ns,
)
from sparse_compiler.ir.expr import count_calls
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.types import Layout
from sparse_compiler.ops.epilogue import TakesEpilogue
from sparse_compiler.ops.shape import in_planes
from sparse_compiler.passes.base import TORCH, Context
from sparse_compiler.passes.layouts.candidates import Mode


@dataclass(frozen=True)
class Plan:
    """modes: of the native nodes; stages: of every value that is no constant; fixed: constants."""

    graph: Graph
    modes: Mapping[str, Mode]
    fixed: frozenset[str]
    stages: Mapping[str, int] = field(default_factory=dict)

    def joined(self, node: Node, name: str) -> bool:
        """True where native `node` takes its input `name` from a native node of its segment."""
        return name in self.modes and self.stages[name] == self.stages[node.name]

    def arrives(self, node: Node, position: int) -> bool:
        """True where that input lies already as it is wanted."""
        name, wanted = node.inputs[position], self.modes[node.name].inputs[position]
        if name in self.fixed:
            return wanted is None
        return self.joined(node, name) and self.modes[name].type.layout == wanted

    def leaves(self, name: str) -> bool:
        """True where torch, an output or a later segment reads a native value."""
        return name in self.graph.results or any(
            user.name not in self.modes or not self.joined(user, name)
            for user in self.graph.users[name]
        )


def staged(graph: Graph, modes: Mapping[str, Mode], fixed: frozenset[str]) -> Plan:
    """The plan with the earliest possible stage of every value."""
    stages = {value.name: 0 for value in graph.inputs}
    for node in graph.nodes:
        if node.name in fixed:
            continue
        inputs = [name for name in node.inputs if name in stages]
        if node.name in modes:
            after = (stages[name] + (name not in modes) for name in inputs)
        else:
            after = (stages[name] for name in inputs)
        stages[node.name] = max(after, default=1 if node.name in modes else 0)
    return Plan(graph, modes, fixed, stages)


def segments(plan: Plan) -> list[list[Node]]:
    """Native nodes joined by their values or by a shared copy of one, in graph order."""
    joined: nx.Graph[tuple[str, ...]] = nx.Graph()
    nodes = [node for node in plan.graph.nodes if node.name in plan.modes]
    for node in nodes:
        here = ("node", node.name)
        joined.add_node(here)
        for position, name in enumerate(node.inputs):
            if name in plan.fixed:
                continue
            if plan.joined(node, name):
                joined.add_edge(here, ("node", name))
            else:
                layout = plan.modes[node.name].inputs[position]
                shared = ("copy", name, str(layout), str(plan.stages[node.name]))
                joined.add_edge(here, shared)
    number = {
        part: i for i, component in enumerate(nx.connected_components(joined)) for part in component
    }
    found: dict[int, list[Node]] = {}
    for node in nodes:
        found.setdefault(number["node", node.name], []).append(node)
    return list(found.values())


def losses(plan: Plan, context: Context, sizes: Sizes) -> dict[str, No]:
    """Nodes of the segments whose predicted gain does not pay for entering and leaving them."""
    lost: dict[str, No] = {}
    for segment in segments(plan):
        gain = sum(_gain_ns(plan.graph, node, context, sizes) for node in segment)
        cost = _border_ns(plan, segment, sizes)
        cost += HOSTED_CALL_NS - CALL_NS if context.hosted else 0.0
        if gain <= cost:
            reason = No(
                "below_break_even",
                f"the segment would gain {gain / 1e3:.0f} us over torch, and entering and "
                f"leaving it costs {cost / 1e3:.0f} us",
            )
            lost |= {node.name: reason for node in segment}
    return lost


def before_torch(plan: Plan, sizes: Sizes) -> dict[str, No]:
    """Native nodes without a layer that only delay torch, and so cut the model into more segments.

    A mask made natively, finished by torch and read in every layer would put all of them behind it.
    """
    delaying: set[str] = set()
    for node in plan.graph.nodes:
        if plan.stages.get(node.name, 0) > 0 and node.name not in plan.modes:
            sources = _native_sources(plan, node)
            if not any(plan.graph.producers[n].op.weight_input is not None for n in sources):
                delaying |= sources
    if not delaying:
        return {}
    rest = {name: mode for name, mode in plan.modes.items() if name not in delaying}
    if _total_ns(staged(plan.graph, rest, plan.fixed), sizes) >= _total_ns(plan, sizes):
        return {}
    reason = No("before_torch", "torch needs it, and waiting for it would cut the model in two")
    return dict.fromkeys(sorted(delaying), reason)


def _native_sources(plan: Plan, node: Node) -> set[str]:
    """All native nodes that a node depends on."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [node.name]
    while waiting:
        producer = plan.graph.producers.get(waiting.pop())
        for name in producer.inputs if producer is not None else ():
            if name in seen or name in plan.fixed:
                continue
            seen.add(name)
            waiting.append(name)
            found |= {name} & plan.modes.keys()
    return found


def _total_ns(plan: Plan, sizes: Sizes) -> float:
    """Time that the borders of all segments and the dispatch of torch's ops take."""
    calls = sum(
        TORCH_CALL_NS
        for node in plan.graph.nodes
        if node.name in plan.stages and node.name not in plan.modes and not node.op.view
    )
    return calls + sum(_border_ns(plan, segment, sizes) for segment in segments(plan))


def _border_ns(plan: Plan, segment: list[Node], sizes: Sizes) -> float:
    return CALL_NS + sum(copy_ns(size) for size in _copies(plan, segment, sizes))


def _gain_ns(graph: Graph, node: Node, context: Context, sizes: Sizes) -> float:
    """What a native node saves: torch's dispatch, the sweeps over its result that an epilogue takes
    torch, and for a layer the difference predicted."""
    dispatch = FUSED_CALL_NS if context.hosted else TORCH_CALL_NS
    gain = 0.0 if node.op.view else dispatch
    if isinstance(node.op, TakesEpilogue):
        calls = count_calls(node.op.tree)
        sweeps = min(calls, 1) if context.hosted else calls
        gain += sweeps * (dispatch + sweep_ns(2 * sizes.nbytes(graph.tensor(node.name))))
    times = {c.format: c for c in context.candidates.get(node.name, ())}
    chosen = next((c for c in times.values() if c.refused is None), None)
    if chosen is not None:
        gain += times[TORCH].predicted_ns - (chosen.measured_ns or chosen.predicted_ns)
    return gain


def _copies(plan: Plan, segment: list[Node], sizes: Sizes) -> Iterator[int]:
    """Bytes of every tensor that the segment copies into or out of planes, each once."""
    seen: set[tuple[str, Layout | None]] = set()
    for node in segment:
        for name, layout in _changes(plan, node):
            if (name, layout) not in seen:
                seen.add((name, layout))
                yield sizes.nbytes(plan.graph.tensor(name))


def _changes(plan: Plan, node: Node) -> Iterator[tuple[str, Layout | None]]:
    """(value, layout) of the copies around a node; what is row-major on both sides is none."""
    mode = plan.modes[node.name]
    for position, name in enumerate(node.inputs):
        layout = mode.inputs[position]
        if name in plan.fixed or plan.arrives(node, position) or layout is None:
            continue
        if plan.joined(node, name) or layout.planes:
            yield name, layout
    if in_planes(mode.type) is not None and plan.leaves(node.name):
        yield node.name, None
