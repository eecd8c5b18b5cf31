"""The laid-out graph: native nodes in their modes, a relayout wherever a value changes layout.

A copy is named after its value: `x.planes`, `x.flat` (native row-major), `x.rows` (a torch tensor).
"""

from __future__ import annotations

from dataclasses import replace

from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.types import Layout, Type
from sparse_compiler.ops.shape import Relayout
from sparse_compiler.passes.layouts.plan import Plan


def laid_out(plan: Plan) -> Graph:
    """The graph of `plan`; each copy stands before its first reader and is shared by all."""
    return _Rewriter(plan).run()


class _Rewriter:
    def __init__(self, plan: Plan) -> None:
        self.plan, self.graph = plan, plan.graph
        self.nodes: list[Node] = []
        self.types: dict[str, Type] = dict(plan.graph.types)
        self.copies: dict[tuple[str, Layout | None, int], str] = {}

    def run(self) -> Graph:
        for node in self.graph.nodes:
            mode = self.plan.modes.get(node.name)
            if mode is None:
                inputs = tuple(self._in_torch(name) for name in node.inputs)
                self._append(node if inputs == node.inputs else replace(node, inputs=inputs))
                continue
            inputs = tuple(self._arriving(node, i) for i in range(len(node.inputs)))
            self._append(replace(node, inputs=inputs, type=mode.type))
        outputs = tuple(self._in_torch(name) for name in self.graph.outputs)
        updates = tuple((self._in_torch(v), target) for v, target in self.graph.updates)
        return replace(self.graph, nodes=tuple(self.nodes), outputs=outputs, updates=updates)

    def _arriving(self, node: Node, position: int) -> str:
        """The value that a native node reads: as it is, or a copy in the layout wanted."""
        name, layout = node.inputs[position], self.plan.modes[node.name].inputs[position]
        if self.plan.arrives(node, position):
            return name
        if name in self.plan.fixed:
            return self._copy(name, name, layout, 0)
        inside = self.plan.joined(node, name)
        source = name if inside else self._in_torch(name)
        return self._copy(name, source, layout, self.plan.stages[node.name])

    def _in_torch(self, name: str) -> str:
        """The value as torch reads it: itself, or one copy for all such readers."""
        return self._copy(name, name, None, 0) if name in self.plan.modes else name

    def _copy(self, name: str, source: str, layout: Layout | None, stage: int) -> str:
        """Copy of `source`, which holds value `name`, shared within a stage."""
        key = (name, layout, stage)
        if key not in self.copies:
            op = Relayout(layout.order, layout.planes) if layout is not None else Relayout()
            type_ = self.types[source]
            new = self._unused(f"{name}.{_suffix(layout)}")
            self.copies[key] = new
            self._append(Node(op, (source,), op.infer((type_,)), new))
        return self.copies[key]

    def _unused(self, name: str) -> str:
        count, new = 1, name
        while new in self.types:
            count += 1
            new = f"{name}_{count}"
        return new

    def _append(self, node: Node) -> None:
        self.nodes.append(node)
        self.types[node.name] = node.type


def _suffix(layout: Layout | None) -> str:
    if layout is None:
        return "rows"
    return "planes" if layout.planes else "flat"
