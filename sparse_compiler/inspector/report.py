"""The ledger: an entry for every layer, with the candidates, the choice and the reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from ..analysis.sparsity import SparsityFacts
from ..codegen.program import TorchStep
from ..formats.base import FORMATS
from ..formats.semi_structured import CODE as SEMI_STRUCTURED
from ..frontends.contest import OURS, Outcome
from ..ir.expr import functions_of
from ..ir.graph import Graph, Node
from ..ir.refusal import No
from ..ops.embedding import Embedding
from ..ops.epilogue import TakesEpilogue
from ..ops.pack import packs_weight
from ..ops.torch_call import TorchCall
from ..ops.tvm_call import TvmCall
from ..passes.base import TORCH, Context
from ..passes.choose_values import VALUE_CODES
from ..passes.provenance import module_path, uncut, weight_sources
from ..runtime.pipeline import Lowered
from .crossovers import crossover_text
from .entries import CandidateEntry, LayerEntry, Report
from .html import Details
from .places import layer_weight


def _structure(lowered: Lowered) -> str:
    """Direct and effective non-zeros, where channels were taken out."""
    structure = lowered.context.structure
    if structure is None:
        return ""
    direct = sum(layer.nonzero for layer in structure.layers)
    effective = sum(layer.effective for layer in structure.layers)
    return (
        f"{effective} of {direct} non-zeros read something that varies and feed a result; "
        "the channels of the others were taken out."
    )


def report_of(
    lowered: Lowered,
    outcome: Outcome | None = None,
    stored: Mapping[str, int] | None = None,
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> Report:
    """The report of what the compiler decided.

    outcome: of the contest for the whole model. stored: bytes of packed weights by graph value.
    tensors: the parameters, for the report's page.
    """
    entries = []
    for node in lowered.graph.nodes:
        if node.name in lowered.graph.weight_time:
            continue
        weight = layer_weight(lowered.graph, node)
        if weight is not None:
            entries += _entries(lowered, node, weight, stored or {})
        elif isinstance(node.op, TvmCall):
            entries.append(_run_by_tvm(node))
        elif node.name in lowered.context.lacks:
            entries.append(_left_to_torch(node, str(lowered.context.lacks[node.name])))
    calls = sum(isinstance(step, TorchStep) for step in lowered.program.steps)
    if outcome is not None and outcome.winner != OURS:
        entries = [_taken_over(entry, outcome) for entry in entries]
        calls = max(1, calls)
    return Report(
        tuple(entries),
        calls,
        tuple(map(str, lowered.records)),
        str(lowered.graph),
        str(lowered.program),
        outcome,
        _structure(lowered),
        Details(lowered, tensors or {}),
    )


def _left_to_torch(node: Node, reason: str) -> LayerEntry:
    """An op that the target has no kernel for, by its value."""
    return LayerEntry(node.name, node.op.name, "unknown", 1.0, "dense", "torch", False, (), reason)


def _run_by_tvm(node: Node) -> LayerEntry:
    """The entry of a step that TVM runs; its name is the variable's in the TVM module."""
    reason = str(node.op.planar((), ()))
    op = getattr(node.op, "target", node.op.name)
    return LayerEntry(node.name, op, "unknown", 1.0, "dense", "tvm", False, (), reason)


def _taken_over(entry: LayerEntry, outcome: Outcome) -> LayerEntry:
    """The entry of a layer whose model runs elsewhere as a whole."""
    return replace(
        entry,
        format="dense",
        kernel=outcome.winner,
        native=False,
        layout=None,
        gain=None,
        reason=str(outcome.reason) if outcome.reason else None,
    )


def _entries(
    lowered: Lowered, node: Node, weight: str, stored: Mapping[str, int]
) -> list[LayerEntry]:
    """One entry, or one for each layer that a merged matrix was made of."""
    graph, facts = lowered.graph, lowered.context.facts
    sources = weight_sources(graph, weight, facts)
    entries = [_entry(lowered, node, weight, source, stored) for source in sources]
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
    size = None if entry.stored_bytes is None else round(entry.stored_bytes * share)
    return replace(entry, candidates=candidates, stored_bytes=size)


def _entry(
    lowered: Lowered, node: Node, weight: str, source: str, stored: Mapping[str, int]
) -> LayerEntry:
    graph, context = lowered.graph, lowered.context
    facts = context.facts.get(source) or context.facts.get(weight)
    layout = getattr(node.type, "layout", None)
    native = layout is not None
    own = context.facts.get(uncut(graph, source, context.facts), facts)  # before channels went
    known = node.op.weight_input is not None and facts is not None
    format_ = graph.tensor(weight).format if native else "dense"
    candidates = tuple(
        CandidateEntry(
            c.format,
            c.predicted_ns / 1e6 if math.isfinite(c.predicted_ns) else None,
            None if c.measured_ns is None else c.measured_ns / 1e6,
            str(c.refused) if c.refused else None,
        )
        for c in context.candidates.get(node.name, ())
    )
    return LayerEntry(
        name=module_path(graph, source),
        op=node.op.target if isinstance(node.op, TorchCall) else node.op.name,
        pattern=own.pattern if own else "unknown",
        density=own.density if own else 1.0,
        format=format_,
        kernel=_kernel(graph, node, format_) if native else "torch",
        native=native,
        layout=f"{{{layout}}}" if native else None,
        fused=_fused(node),
        reason=_reason(node, native, format_, facts, context),
        candidates=candidates,
        gain=_gain(context, node.name, format_) if native else None,
        crossover=crossover_text(graph, node, format_, context) if known and native else None,
        ideal_bits=_ideal_bits(format_, facts) if known else None,
        stored_bytes=stored.get(weight),
        values=FORMATS[format_].values,
        value_error=context.value_errors.get(node.name),
    )


def _ideal_bits(format_: str, facts: SparsityFacts | None) -> float | None:
    if facts is None:
        return None
    found = FORMATS[format_]
    bits = 8 * found.value_bytes
    return found.ideal_bits_of(facts, bits)


def _kernel(graph: Graph, node: Node, format_: str) -> str:
    """What runs the layer: a kernel for its format, or the one for weights that are not packed."""
    if node.op.weight_input is None:
        return node.op.name
    return f"{node.op.name}_{format_}" if packs_weight(graph, node) else "depthwise"


def _fused(node: Node) -> tuple[str, ...]:
    if not isinstance(node.op, TakesEpilogue):
        return ()
    bias = ("bias",) if node.op.operands > 2 else ()
    return bias + tuple(sorted(functions_of(node.op.tree)))


def _reason(
    node: Node, native: bool, format_: str, facts: SparsityFacts | None, context: Context
) -> str | None:
    """Why a layer is not sparse; None where it is."""
    refusals = context.refusals.get(node.name, [])
    lesser = [r for r in refusals if r.code in (*VALUE_CODES, SEMI_STRUCTURED)]
    if native and lesser:  # sparse, in a lesser way than it could be
        return str(lesser[0])
    if native and format_ != "dense":
        return None
    if isinstance(node.op, TorchCall):
        return str(node.op.planar((), ()))
    if native:
        others = context.candidates.get(node.name, ())
        refused = [c.refused for c in others if c.refused and c.format != TORCH]
        refused += [r for r in refusals if r.code == "depthwise"]
        refused += [No("table", "whole rows are read from it")] * isinstance(node.op, Embedding)
        full = No("no_zeros", "no format would store fewer numbers than there are")
        return str(refused[0] if refused else full)
    useful = [r for r in refusals if r.code not in ("not_packed", "outside_region", "packed")]
    if useful:
        return str(useful[-1])
    left_out = No("passes_left_out", "options stopped the compiler before it reached this layer")
    return str(refusals[-1] if refusals else left_out)


def _gain(context: Context, name: str, format_: str) -> float | None:
    times = {c.format: c.predicted_ns for c in context.candidates.get(name, ())}
    plain = format_.removesuffix("_fp16").removesuffix("_bf16")
    return times[TORCH] / times[plain] if times.get(plain) and TORCH in times else None


__all__ = ["CandidateEntry", "LayerEntry", "Report", "layer_weight", "report_of"]
