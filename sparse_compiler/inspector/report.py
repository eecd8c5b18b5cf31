"""The ledger: an entry for every layer, with the candidates, the choice and the reasons."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..analysis.sparsity import SparsityFacts
from ..codegen.program import TorchStep
from ..ir.expr import functions_of
from ..ir.graph import Graph, Node
from ..ir.refusal import No
from ..ops.embedding import Embedding
from ..ops.epilogue import TakesEpilogue
from ..ops.pack import packs_weight
from ..ops.torch_call import TorchCall
from ..passes.base import TORCH, Context
from ..passes.provenance import weight_sources
from ..runtime.pipeline import Lowered

_LAYER_CALLS = (
    "aten.conv",
    "aten.linear",
    "aten.addmm",
    "aten.bmm",
    "aten.mm",
    "aten.matmul",
    "aten.lstm",
    "aten.gru",
    "aten.rnn",
    "aten.embedding",
    "aten.einsum",
)


@dataclass(frozen=True)
class CandidateEntry:
    """predicted_ms: by the cost model; measured_ms: where it was timed; reason: of a refusal."""

    format: str
    predicted_ms: float | None
    measured_ms: float | None
    reason: str | None


@dataclass(frozen=True)
class LayerEntry:
    """One layer. name: its module path; native: our kernel runs it; fused: ops in its epilogue."""

    name: str
    op: str
    pattern: str
    density: float
    format: str
    kernel: str
    native: bool
    fused: tuple[str, ...]
    reason: str | None
    candidates: tuple[CandidateEntry, ...] = ()
    layout: str | None = None
    """Order of the result's dimensions, planes left of the bar; None where torch holds it."""
    gain: float | None = None
    """Predicted time of torch's dense layer over ours; None where torch runs it."""


@dataclass(frozen=True)
class Report:
    """layers in execution order; fallback_calls: nodes run by torch at each call; passes: a line
    for each pass; graph, program: their texts."""

    layers: tuple[LayerEntry, ...]
    fallback_calls: int
    passes: tuple[str, ...] = ()
    graph: str = field(default="", repr=False)
    program: str = field(default="", repr=False)

    def json(self) -> dict[str, Any]:
        """`{"layers": [...], "fallback_calls": int}`, made of plain values."""
        layers = [{k: _plain(v) for k, v in asdict(layer).items()} for layer in self.layers]
        return {"layers": layers, "fallback_calls": self.fallback_calls}

    def text(self) -> str:
        """A table, a line for every layer that is not sparse, and a summary sentence."""
        header = ("layer", "op", "pattern", "density", "format", "layout", "gain", "fused")
        rows = [header, *(_row(layer) for layer in self.layers)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows
        ]
        lines.insert(1, "  ".join("-" * w for w in widths))
        reasons = [f"{layer.name}: {layer.reason}" for layer in self.layers if layer.reason]
        return "\n".join([*lines, "", *reasons, *([""] if reasons else []), self.summary()]) + "\n"

    def summary(self) -> str:
        """One sentence for people."""
        sparse = [layer for layer in self.layers if layer.native and layer.format != "dense"]
        native = [layer for layer in self.layers if layer.native]
        return (
            f"{len(sparse)} of {len(self.layers)} layers run sparse, {len(native) - len(sparse)} "
            f"dense in our kernels, {len(self.layers) - len(native)} in torch; "
            f"{self.fallback_calls} calls into torch at each run."
        )


def report_of(lowered: Lowered) -> Report:
    """The report of what the compiler decided."""
    entries = []
    for node in lowered.graph.nodes:
        if node.name in lowered.graph.weight_time:
            continue
        weight = layer_weight(lowered.graph, node)
        if weight is not None:
            entries += _entries(lowered, node, weight)
    calls = sum(isinstance(step, TorchStep) for step in lowered.program.steps)
    return Report(
        tuple(entries),
        calls,
        tuple(map(str, lowered.records)),
        str(lowered.graph),
        str(lowered.program),
    )


def layer_weight(graph: Graph, node: Node) -> str | None:
    """The weight-time value that makes a node a layer; None for other nodes."""
    if node.op.weight_input is not None:
        return node.inputs[node.op.weight_input]
    called = isinstance(node.op, TorchCall) and node.op.target.startswith(_LAYER_CALLS)
    if called or isinstance(node.op, Embedding):
        params = {param.name for param in graph.params}
        weights = [i for i in node.inputs if i in graph.weight_time and _root(graph, i) in params]
        return next((i for i in weights if graph.tensor(i).rank >= 2), None)
    return None


def _root(graph: Graph, value: str) -> str:
    """What a weight-time value was made of first: a parameter, or a constant."""
    while value in graph.producers and graph.producers[value].inputs:
        value = graph.producers[value].inputs[0]
    return value


def _entries(lowered: Lowered, node: Node, weight: str) -> list[LayerEntry]:
    """One entry, or one for each layer that a merged matrix was made of."""
    graph, facts = lowered.graph, lowered.context.facts
    sources = weight_sources(graph, weight, facts)
    entries = [_entry(lowered, node, weight, source) for source in sources]
    rows = [facts[source].rows if source in facts else 1 for source in sources]
    if len(entries) == 1:
        return entries
    return [_share(e, r / sum(rows)) for e, r in zip(entries, rows, strict=True)]


def _share(entry: LayerEntry, share: float) -> LayerEntry:
    """The entry with its part of the time that the merged layers take."""

    def part(ms: float | None) -> float | None:
        return None if ms is None else ms * share

    candidates = tuple(
        replace(c, predicted_ms=part(c.predicted_ms), measured_ms=part(c.measured_ms))
        for c in entry.candidates
    )
    return replace(entry, candidates=candidates)


def _entry(lowered: Lowered, node: Node, weight: str, source: str) -> LayerEntry:
    graph, context = lowered.graph, lowered.context
    facts = context.facts.get(source) or context.facts.get(weight)
    layout = getattr(node.type, "layout", None)
    native = layout is not None
    format_ = graph.tensor(weight).format if native else "dense"
    candidates = tuple(
        CandidateEntry(c.format, c.predicted_ns / 1e6, None, str(c.refused) if c.refused else None)
        for c in context.candidates.get(node.name, ())
    )
    return LayerEntry(
        name=module_name(graph, source),
        op=node.op.target if isinstance(node.op, TorchCall) else node.op.name,
        pattern=facts.pattern if facts else "unknown",
        density=facts.density if facts else 1.0,
        format=format_,
        kernel=_kernel(graph, node, format_) if native else "torch",
        native=native,
        layout=f"{{{layout}}}" if native else None,
        fused=_fused(node),
        reason=_reason(node, native, format_, facts, context),
        candidates=candidates,
        gain=_gain(context, node.name, format_) if native else None,
    )


def _kernel(graph: Graph, node: Node, format_: str) -> str:
    """What runs the layer: a kernel for its format, or the one for weights that are not packed."""
    if node.op.weight_input is None:
        return node.op.name
    return f"{node.op.name}_{format_}" if packs_weight(graph, node) else "depthwise"


def module_name(graph: Graph, value: str) -> str:
    """Path of the module that holds a weight-time value's parameter: `encoder.fc1`."""
    value = _root(graph, value)
    path = value.split(".")
    for i, part in enumerate(path):
        last = i == len(path) - 1
        if part == "parametrizations" or (last and part.startswith("weight")):
            return ".".join(path[:i]) or value
    return value


def _fused(node: Node) -> tuple[str, ...]:
    if not isinstance(node.op, TakesEpilogue):
        return ()
    bias = ("bias",) if node.op.operands > 2 else ()
    return bias + tuple(sorted(functions_of(node.op.tree)))


def _reason(
    node: Node, native: bool, format_: str, facts: SparsityFacts | None, context: Context
) -> str | None:
    """Why a layer is not sparse; None where it is."""
    if native and format_ != "dense":
        return None
    if isinstance(node.op, TorchCall):
        return str(node.op.planar((), ()))
    refusals = context.refusals.get(node.name, [])
    if native:
        others = context.candidates.get(node.name, ())
        refused = [c.refused for c in others if c.refused and c.format != TORCH]
        refused += [r for r in refusals if r.code == "depthwise"]
        refused += [No("table", "whole rows are read from it")] * isinstance(node.op, Embedding)
        return str(refused[0]) if refused else None
    useful = [r for r in refusals if r.code not in ("not_packed", "outside_region", "packed")]
    if useful:
        return str(useful[-1])
    left_out = No("passes_left_out", "options stopped the compiler before it reached this layer")
    return str(refusals[-1] if refusals else left_out)


def _gain(context: Context, name: str, format_: str) -> float | None:
    times = {c.format: c.predicted_ns for c in context.candidates.get(name, ())}
    return times[TORCH] / times[format_] if times.get(format_) and TORCH in times else None


def _row(layer: LayerEntry) -> tuple[str, ...]:
    return (
        layer.name,
        layer.op,
        layer.pattern,
        f"{layer.density:.1%}",
        layer.format if layer.native else "torch",
        layer.layout or "-",
        f"{layer.gain:.1f}x" if layer.gain else "-",
        " ".join(layer.fused) or "-",
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
