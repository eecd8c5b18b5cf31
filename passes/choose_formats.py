"""Gives every weight its storage format, by predicted time; dense is always a candidate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sparse_compiler.formats.base import FORMATS, LinearShape, torch_linear_ns
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.types import TensorType, evaluate, product
from sparse_compiler.ops.linear import Linear
from sparse_compiler.ops.pack import Pack, is_packed
from sparse_compiler.passes.base import TORCH, Candidate, Context, Pass


@dataclass(frozen=True)
class ChooseFormats(Pass):
    """linear(x, w)  =>  linear(x, pack[format](w))   for each parameter, by predicted time."""

    name: ClassVar[str] = "choose-formats"
    min_gain: float = 1.05  # a sparse format must beat dense by this much in the cost model

    def run(self, graph: Graph, context: Context) -> Graph:
        nodes: list[Node] = []
        packed: dict[tuple[str, str], str] = {}
        for node in graph.nodes:
            reason = self._refusal(graph, node, context)
            if reason is not None or not context.spend():
                if reason is not None and isinstance(node.op, Linear):
                    context.refuse(node.name, reason)
                nodes.append(node)
                continue
            weight = node.inputs[1]
            format_ = self._choose(graph, node, context)
            name = packed.get((weight, format_))
            if name is None:
                name = packed[weight, format_] = f"{weight}.{format_}"
                op = Pack(format_)
                nodes.append(Node(op, (weight,), op.infer((graph.tensor(weight),)), name))
            nodes.append(replace(node, inputs=(node.inputs[0], name, *node.inputs[2:])))
        return graph.with_nodes(nodes)

    def _refusal(self, graph: Graph, node: Node, context: Context) -> No | None:
        if not isinstance(node.op, Linear):
            return No("op_unsupported", f"{node.op.name} takes no packed weight")
        weight = node.inputs[1]
        if is_packed(graph, weight):
            return No("packed", "the weight has its format")
        if weight not in graph.weight_time:
            return No("weight_is_computed", "the weight changes from call to call")
        if weight not in context.facts:
            return No("no_facts", f"the numbers of %{weight} are not known")
        if graph.tensor(weight).dtype != "f32":
            return No(
                "dtype_unsupported", f"kernels compute in f32, not {graph.tensor(weight).dtype}"
            )
        return None

    def _choose(self, graph: Graph, node: Node, context: Context) -> str:
        facts = context.facts[node.inputs[1]]
        columns = columns_hint(graph.tensor(node.inputs[0]), context)
        shape = LinearShape(facts.rows, facts.columns, facts.nnz, columns)
        times = {
            name: format_.linear_ns(shape, context.machine, context.threads)
            for name, format_ in FORMATS.items()
        }
        best = min(times, key=lambda name: times[name] * (1 if name == "dense" else self.min_gain))
        times[TORCH] = torch_linear_ns(shape, context.machine, context.threads)
        context.candidates[node.name] = tuple(
            Candidate(name, time, _slower(name, best, times, facts.density))
            for name, time in sorted(times.items())
        )
        return best


def _slower(name: str, best: str, times: dict[str, float], density: float) -> No | None:
    """Why a candidate was not taken; None for the best."""
    if name == best:
        return None
    code = "below_break_even" if best == "dense" and name != TORCH else "slower"
    return No(
        code,
        f"{name} is predicted to take {times[name] / 1e3:.0f} us at {density:.1%} density, "
        f"{best} {times[best] / 1e3:.0f} us",
    )


def columns_hint(x: TensorType, context: Context) -> int:
    """How many columns a layer works on, with the compiled example's sizes for symbols."""
    columns = product(x.shape[:-1])
    return max(1, evaluate(columns, context.hints) if not isinstance(columns, int) else columns)
