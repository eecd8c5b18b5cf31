"""Gives every weight its storage format, by predicted time; dense is always a candidate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from sparse_compiler.formats.base import (
    FORMATS,
    ConvShape,
    LinearShape,
    torch_conv_ns,
    torch_linear_ns,
)
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.types import evaluate, product
from sparse_compiler.ops.conv import Conv
from sparse_compiler.ops.pack import Pack, is_packed, packs_weight
from sparse_compiler.passes.base import TORCH, Candidate, Context, Pass
from sparse_compiler.passes.provenance import weight_counts

MIN_GAIN = 1.05
"""A sparse format must beat dense by this much in the cost model."""


@dataclass(frozen=True)
class ChooseFormats(Pass):
    """linear(x, w)  =>  linear(x, pack[format](w))   for each layer's weight, by predicted time."""

    name: ClassVar[str] = "choose-formats"
    min_gain: float = MIN_GAIN

    def run(self, graph: Graph, context: Context) -> Graph:
        nodes: list[Node] = []
        packed: dict[tuple[str, Pack], str] = {}
        for node in graph.nodes:
            reason = _refusal(graph, node, context)
            if reason is not None or not context.spend():
                if reason is not None and node.op.weight_input is not None:
                    context.refuse(node.name, reason)
                nodes.append(node)
                continue
            place = node.op.weight_input or 0
            weight = node.inputs[place]
            groups = node.op.groups if isinstance(node.op, Conv) else 1
            op = Pack(self._choose(graph, node, context), groups)
            name = packed.get((weight, op))
            if name is None:
                name = f"{weight}.{op.format}" if groups == 1 else f"{weight}.{op.format}_{groups}"
                packed[weight, op] = name
                nodes.append(Node(op, (weight,), op.infer((graph.tensor(weight),)), name))
            inputs = (*node.inputs[:place], name, *node.inputs[place + 1 :])
            nodes.append(replace(node, inputs=inputs))
        return graph.with_nodes(nodes)

    def _choose(self, graph: Graph, node: Node, context: Context) -> str:
        shape = layer_shape(graph, node, context)
        times = predicted_times(graph, node, context)
        best = best_format(times, self.min_gain)
        density = shape.nnz / max(1, shape.rows * shape.columns)
        if isinstance(shape, ConvShape):
            times[TORCH] = torch_conv_ns(shape, context.machine, context.threads)
        else:
            times[TORCH] = torch_linear_ns(shape, context.machine, context.threads)
        context.candidates[node.name] = tuple(
            Candidate(name, time, _slower(name, best, times, density))
            for name, time in sorted(times.items())
        )
        return best


def _refusal(graph: Graph, node: Node, context: Context) -> No | None:
    if node.op.weight_input is None:
        return No("op_unsupported", f"{node.op.name} takes no packed weight")
    weight = node.inputs[node.op.weight_input]
    if is_packed(graph, weight):
        return No("packed", "the weight has its format")
    if weight not in graph.weight_time:
        return No("weight_is_computed", "the weight changes from call to call")
    if not packs_weight(graph, node):
        return No("depthwise", "a channel has one filter, which has a dense kernel of its own")
    if weight_counts(graph, weight, context.facts) is None:
        return No("no_facts", f"the numbers of %{weight} are not known")
    if graph.tensor(weight).dtype != "f32":
        return No("dtype_unsupported", f"kernels compute in f32, not {graph.tensor(weight).dtype}")
    return None


def layer_shape(graph: Graph, node: Node, context: Context) -> LinearShape | ConvShape:
    """The layer as a matrix of counted non-zeros and the columns that it works on.

    Raises `KeyError` where nothing is known of the weight's numbers.
    """
    weight = node.inputs[node.op.weight_input or 0]
    counts = weight_counts(graph, weight, context.facts)
    if counts is None:
        raise KeyError(weight)
    columns = columns_hint(graph, node, context)
    if isinstance(node.op, Conv):
        taps = evaluate(product(graph.tensor(weight).shape[2:]), context.hints)
        source, result = (graph.tensor(name).shape[2:] for name in (node.inputs[0], node.name))
        strided = any(s > 1 for s in node.op.stride) or source[1:] != result[1:]
        return ConvShape(
            counts.rows, counts.columns, counts.nnz, columns, taps, node.op.groups, strided
        )
    return LinearShape(counts.rows, counts.columns, counts.nnz, columns)


def predicted_times(graph: Graph, node: Node, context: Context) -> dict[str, float]:
    """Predicted nanoseconds of a layer by format; empty where its weight is not known."""
    weight = node.inputs[node.op.weight_input or 0]
    if weight_counts(graph, weight, context.facts) is None:
        return {}
    shape = layer_shape(graph, node, context)
    found = {}
    for name, format_ in FORMATS.items():
        if isinstance(shape, ConvShape):
            found[name] = format_.conv_ns(shape, context.machine, context.threads)
        else:
            found[name] = format_.linear_ns(shape, context.machine, context.threads)
    return found


def best_format(times: Mapping[str, float], min_gain: float = MIN_GAIN) -> str:
    """The fastest format, or dense where that is not slower by `min_gain`."""
    return min(times, key=lambda name: times[name] * (1 if name == "dense" else min_gain))


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


def columns_hint(graph: Graph, node: Node, context: Context) -> int:
    """How many columns a layer works on, with the compiled example's sizes for symbols."""
    result = graph.tensor(node.name)
    channel = node.op.channel_dim % result.rank
    columns = product(dim for i, dim in enumerate(result.shape) if i != channel)
    return max(1, evaluate(columns, context.hints))
