"""The ledger: an entry for every layer, with the candidates, the choice and the reasons."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ..analysis.sparsity import SparsityFacts
from ..codegen.program import TorchStep
from ..ir.expr import functions_of, parse_expr
from ..ir.graph import Graph, Node
from ..ir.refusal import No
from ..ops.linear import Linear
from ..ops.pack import is_packed
from ..ops.torch_call import TorchCall
from ..passes.base import TORCH, Context
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
        header = ("layer", "op", "pattern", "density", "format", "gain", "fused")
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
            entries.append(_entry(lowered, node, weight))
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
    if isinstance(node.op, TorchCall) and node.op.target.startswith(_LAYER_CALLS):
        weights = [i for i in node.inputs if i in graph.weight_time and _rank(graph, i) >= 2]
        return weights[0] if weights else None
    return None


def _rank(graph: Graph, name: str) -> int:
    return graph.tensor(name).rank


def _entry(lowered: Lowered, node: Node, weight: str) -> LayerEntry:
    graph, context = lowered.graph, lowered.context
    source = weight_source(graph, weight)
    facts = context.facts.get(source) or context.facts.get(weight)
    native = getattr(node.type, "layout", None) is not None
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
        kernel=f"linear_{format_}" if native else "torch",
        native=native,
        fused=_fused(node),
        reason=_reason(node, native, format_, facts, context),
        candidates=candidates,
        gain=_gain(context, node.name, format_) if native else None,
    )


def weight_source(graph: Graph, weight: str) -> str:
    """The value that `pack` and views were applied to, up to the parameter where it is one."""
    while weight in graph.producers:
        node = graph.producers[weight]
        if not (node.op.view or is_packed(graph, weight)) or len(node.inputs) != 1:
            break
        weight = node.inputs[0]
    return weight


def module_name(graph: Graph, value: str) -> str:
    """Path of the module that holds a weight-time value's parameter: `encoder.fc1`."""
    while value in graph.producers and graph.producers[value].inputs:
        value = graph.producers[value].inputs[0]
    path = value.split(".")
    for i, part in enumerate(path):
        last = i == len(path) - 1
        if part == "parametrizations" or (last and part.startswith("weight")):
            return ".".join(path[:i]) or value
    return value


def _fused(node: Node) -> tuple[str, ...]:
    if not isinstance(node.op, Linear):
        return ()
    return ("bias",) * node.op.bias + tuple(sorted(functions_of(parse_expr(node.op.epilogue))))


def _reason(
    node: Node, native: bool, format_: str, facts: SparsityFacts | None, context: Context
) -> str | None:
    """Why a layer is not sparse; None where it is."""
    if native and format_ != "dense":
        return None
    refusals = context.refusals.get(node.name, [])
    if native:
        others = context.candidates.get(node.name, ())
        refused = [c.refused for c in others if c.refused and c.format != TORCH]
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
        f"{layer.gain:.1f}x" if layer.gain else "-",
        " ".join(layer.fused) or "-",
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
