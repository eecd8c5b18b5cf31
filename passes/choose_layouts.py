"""Decides what runs natively and in which layout, and puts a copy wherever the layout changes.

Every node gets its native modes (planes, rows), a minimum cut picks between them by the time of
sweeps and copies, stages keep segments from needing one another in a circle, and a segment that
would not pay for entering and leaving it is given back to torch, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sparse_compiler.analysis.cost import Sizes
from sparse_compiler.ir.graph import Graph
from sparse_compiler.ir.refusal import No
from sparse_compiler.ops.shape import Relayout
from sparse_compiler.passes.base import Context, Pass
from sparse_compiler.passes.layouts.candidates import (
    OUTSIDE,
    Choices,
    candidates,
    constants,
)
from sparse_compiler.passes.layouts.cut import cheapest_modes
from sparse_compiler.passes.layouts.plan import Plan, before_torch, losses, staged
from sparse_compiler.passes.layouts.rewrite import laid_out


@dataclass(frozen=True)
class ChooseLayouts(Pass):
    """linear(x, packed)  =>  relayout(linear(relayout[planes](x), packed)), for whole models."""

    name: ClassVar[str] = "choose-layouts"

    def run(self, graph: Graph, context: Context) -> Graph:
        if any(isinstance(node.op, Relayout) for node in graph.nodes):
            return graph
        choices = candidates(graph, context.lacks)
        plan, lost = _plan(graph, choices, context)
        for name, choice in choices.items():
            reason = lost.get(name, choice.refusal)
            if name not in plan.modes and reason is not None and _worth_saying(graph, name, reason):
                context.refuse(name, reason)
        return laid_out(plan) if plan.modes else graph


def _plan(
    graph: Graph, choices: Mapping[str, Choices], context: Context
) -> tuple[Plan, dict[str, No]]:
    """The plan in which every segment pays, and why the others were given up."""
    sizes, fixed = Sizes(context.hints), constants(graph)
    lost: dict[str, No] = {}
    while True:
        left = {name: choice for name, choice in choices.items() if name not in lost}
        plan = staged(graph, cheapest_modes(graph, left, sizes), fixed)
        if context.force_native:
            return plan, lost
        losing = before_torch(plan, sizes) or losses(plan, context, sizes)
        if not losing:
            return plan, lost
        lost |= losing


def _worth_saying(graph: Graph, name: str, reason: No) -> bool:
    """That nothing around an op is in planes is news only for a layer."""
    layer = graph.producers[name].op.weight_input is not None
    return layer or reason.code != OUTSIDE
