"""Gives every weight its storage format, by predicted or measured time; dense is always asked."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from sparse_compiler.analysis.sparsity import NEARLY_ALL, SparsityFacts
from sparse_compiler.formats.base import (
    FORMATS,
    Format,
    candidates,
    torch_conv_ns,
    torch_linear_ns,
)
from sparse_compiler.formats.cost import ConvShape, LinearShape, Machine, Shape
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.types import Dim, evaluate, product
from sparse_compiler.ops.conv import Conv
from sparse_compiler.ops.pack import Pack, is_packed, packs_weight
from sparse_compiler.passes.base import TORCH, Candidate, Context, Pass
from sparse_compiler.passes.provenance import module_path, weight_facts, weight_sources

log = logging.getLogger(__name__)

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
        times, unfit = _predicted(graph, node, context)
        taken = {f: ns for f in times if (ns := context.measured.get((node.name, f))) is not None}
        wanted = _wanted(graph, node, context)
        best = best_format(taken or times, self.min_gain if not taken else 1.0)
        best = wanted if wanted in times else best
        for name in times:
            if (limit := context.machine.limit(FORMATS[name], shape)) is not None:
                context.refuse(node.name, limit)
        times[TORCH] = torch_ns(shape, context.machine, context.threads)
        density = shape.nnz / max(1, shape.rows * shape.columns)
        weight = node.inputs[node.op.weight_input or 0]
        facts = weight_facts(graph, weight, context.facts)
        judge = _Judge(best, times, taken, wanted, density, shape, facts, context)
        found = [
            Candidate(name, time, judge.refusal(name), taken.get(name))
            for name, time in sorted(times.items())
        ]
        found += [Candidate(name, float("nan"), reason) for name, reason in sorted(unfit.items())]
        context.candidates[node.name] = tuple(found)
        log.info("%s: %s, predicted %.1f us", node.name, best, times[best] / 1e3)
        for candidate in found:
            log.debug("%s: %s", node.name, candidate.refused or f"taken: {candidate.format}")
        return best


@dataclass(frozen=True)
class _Judge:
    """Says why a candidate was not taken."""

    best: str
    times: Mapping[str, float]
    taken: Mapping[str, float]
    wanted: str | None
    density: float
    shape: Shape
    facts: Sequence[SparsityFacts]
    context: Context

    def refusal(self, name: str) -> No | None:
        """None for the candidate taken."""
        best, times = self.best, self.times
        if name == best:
            return None
        if best == self.wanted:
            return No("other_wanted", f"the options ask for {best}")
        if name in self.taken:
            return No(
                "measured_slower",
                f"{name} takes {self.taken[name] / 1e3:.1f} us inside the program, "
                f"{best} {self.taken[best] / 1e3:.1f} us",
            )
        if self.taken and name != TORCH:
            return No(
                "not_measured",
                f"{name} is predicted to take {times[name] / 1e3:.0f} us, too much to be tried",
            )
        limit = None if name == TORCH else self.context.machine.limit(FORMATS[name], self.shape)
        if limit is not None:
            return limit
        code = "below_break_even" if best == "dense" and name != TORCH else "slower"
        why = (
            f"{name} is predicted to take {times[name] / 1e3:.0f} us at {self.density:.1%} "
            f"density, {best} {times[best] / 1e3:.0f} us"
        )
        if name != TORCH and self._streams(name):
            return No("bandwidth_bound", f"{why}; reading the weight from memory takes that long")
        return No(code, why)

    def _streams(self, name: str) -> bool:
        """True where the weight's bytes, not the arithmetic, set the predicted time."""
        filled = stored_shape(self.shape, FORMATS[name], self.facts)
        fast = self.context.machine.without_memory()
        time = format_ns(FORMATS[name], filled, fast, self.context.threads)
        return time < 0.999 * self.times[name]


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
    if not weight_facts(graph, weight, context.facts):
        return No("no_facts", f"the numbers of %{weight} are not known")
    if graph.tensor(weight).dtype != "f32":
        return No("dtype_unsupported", f"kernels compute in f32, not {graph.tensor(weight).dtype}")
    return None


def _wanted(graph: Graph, node: Node, context: Context) -> str | None:
    """The format that the caller asks for, by graph value, by module path, or for all layers."""
    weight = node.inputs[node.op.weight_input or 0]
    sources = weight_sources(graph, weight, context.facts)
    keys = (node.name, *(module_path(graph, source) for source in sources), "")
    return next((context.formats[key] for key in keys if key in context.formats), None)


def layer_shape(graph: Graph, node: Node, context: Context) -> LinearShape | ConvShape:
    """The layer as a matrix of counted non-zeros and the columns that it works on.

    Raises `KeyError` where nothing is known of the weight's numbers.
    """
    weight = node.inputs[node.op.weight_input or 0]
    facts = weight_facts(graph, weight, context.facts)
    if not facts:
        raise KeyError(weight)
    rows, nnz = sum(f.rows for f in facts), sum(f.nnz for f in facts)
    columns = columns_hint(graph, node, context)
    if isinstance(node.op, Conv):
        taps = evaluate(product(graph.tensor(weight).shape[2:]), context.hints)
        source, result = (graph.tensor(name).shape[2:] for name in (node.inputs[0], node.name))
        strided = any(s > 1 for s in node.op.stride) or source[1:] != result[1:]
        groups = node.op.groups
        image = node.op.plain_image(graph.tensor(weight), graph.tensor(node.name))
        sizes = tuple(evaluate(size, context.hints) for size in image)
        counts = rows, facts[0].columns, nnz, columns
        return ConvShape(*counts, taps, groups, strided, image=sizes)
    return LinearShape(rows, facts[0].columns, nnz, columns)


def stored_shape(shape: Shape, format_: Format, facts: Sequence[SparsityFacts]) -> Shape:
    """The shape with the elements that a format stores for such weights."""
    stored, apart = (sum(map(count, facts)) for count in (format_.stored, format_.apart))
    return replace(shape, stored=stored, apart=apart)


def format_ns(format_: Format, shape: Shape, machine: Machine, threads: int) -> float:
    """Predicted nanoseconds of a layer; infinite where the format has no kernel for it."""
    return machine.format_ns(format_, shape, threads)


def torch_ns(shape: Shape, machine: Machine, threads: int) -> float:
    """Predicted nanoseconds of the layer left to torch."""
    ideal = machine.ideal_ns(shape)
    if ideal is not None:
        return ideal
    if isinstance(shape, ConvShape):
        return torch_conv_ns(shape, machine, threads)
    return torch_linear_ns(shape, machine, threads)


def predicted_times(graph: Graph, node: Node, context: Context) -> dict[str, float]:
    """Predicted nanoseconds of a layer by format; empty where its weight is not known."""
    return _predicted(graph, node, context)[0]


def _predicted(
    graph: Graph, node: Node, context: Context
) -> tuple[dict[str, float], dict[str, No]]:
    """Nanoseconds by format, and why a format that was asked for does not fit."""
    weight = node.inputs[node.op.weight_input or 0]
    facts = weight_facts(graph, weight, context.facts)
    if not facts:
        return {}, {}
    shape = layer_shape(graph, node, context)
    names = dict.fromkeys(name for f in facts for name in candidates(f))
    wanted = _wanted(graph, node, context)
    if wanted is not None:
        names[wanted] = None
    times: dict[str, float] = {}
    unfit: dict[str, No] = {}
    for name in names:
        format_ = FORMATS[name]
        reason = next((r for f in facts if (r := format_.fits(f)) is not None), None)
        if reason is not None:
            unfit[name] = reason
            continue
        filled = stored_shape(shape, format_, facts)
        if name not in ("dense", wanted) and _saves_nothing(filled):
            continue
        time = format_ns(format_, filled, context.machine, context.threads)
        if time == float("inf"):
            unfit[name] = No("op_unsupported", f"{name} has no kernel for {node.op.name}")
            continue
        times[name] = time
    return times, unfit


def _saves_nothing(shape: Shape) -> bool:
    """True for a format that would store as many numbers as there are, and an index beside them."""
    return (shape.stored or 0) >= NEARLY_ALL * shape.rows * shape.columns


def best_format(times: Mapping[str, float], min_gain: float = MIN_GAIN) -> str:
    """The fastest format, or dense where that is not slower by `min_gain`."""
    return min(times, key=lambda name: times[name] * (1 if name == "dense" else min_gain))


def pattern_of(format_: str) -> str:
    """The format where it lives by a pattern; "any" for all that take zeros as they come.

    Weights that agree in it may share a matrix: their densities differ, not where zeros may lie.
    """
    family = FORMATS[format_].family
    return format_ if family in ("dense", "block", "nm", "compact", "split") else "any"


def columns_hint(graph: Graph, node: Node, context: Context) -> int:
    """How many columns a layer works on, with the compiled example's sizes for symbols."""
    return max(1, evaluate(columns_of(graph, node), context.hints))


def columns_of(graph: Graph, node: Node) -> Dim:
    """The columns that a layer works on, of all samples: every dimension but that of channels."""
    result = graph.tensor(node.name)
    channel = node.op.channel_dim % result.rank
    return product(dim for i, dim in enumerate(result.shape) if i != channel)
