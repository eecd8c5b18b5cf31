"""What a pass is: a frozen dataclass whose fields are its options, with `run(graph, context)`.

The context carries what passes read (facts about weights) and write (refusals for the ledger).
Every rewrite asks `context.spend()` first, so `fuel=N` applies only the first N rewrites and a
miscompile can be bisected to a single one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from sparse_compiler.analysis.sparsity import SparsityFacts
from sparse_compiler.formats.cost import Machine
from sparse_compiler.ir.graph import Graph
from sparse_compiler.ir.refusal import No
from sparse_compiler.passes.structure import Structure

TORCH = "torch"
"""The candidate that is no format of ours: the layer left to torch."""


@dataclass(frozen=True)
class Candidate:
    """One way to run a layer. predicted_ns: by the cost model; refused: why it was not taken;
    measured_ns: inside the program, where it was tuned."""

    format: str
    predicted_ns: float
    refused: No | None = None
    measured_ns: float | None = None


@dataclass
class Context:
    """facts: per weight-time value, those of its numbers. threads, machine: what the cost model
    assumes. hints: sizes of symbols in the example. force_native: skip the profit test of regions.

    weights: values in which packed weights are stored, "fp32", "fp16" or "bf16". formats: what to
    store a layer's weight in whatever the model predicts, by graph value of the layer, by module
    path, or under "" for all. measured: nanoseconds of a layer by format, as (layer, format).
    hosted: Inductor runs what we leave, not torch's eager mode.

    lacks: why the target has no kernel for a node, which is left to torch then, by its value.

    numbers: of the parameters, for what is stored of them. params: the same where what the graph
    computes may depend on them, None where it may not. pinned: values that a host
    reads, which keep their shape. structure: what was taken out of the graph.

    value_errors: of a layer's stored weight, relative, where it is rounded.
    refusals: per graph value, in the order in which passes gave them. candidates: per layer.
    fuel: rewrites left, None for no limit.
    """

    facts: Mapping[str, SparsityFacts] = field(default_factory=dict)
    threads: int = 1
    machine: Machine = field(default_factory=Machine)
    hints: Mapping[str, int] = field(default_factory=dict)
    force_native: bool = False
    weights: str = "fp32"
    formats: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[tuple[str, str], float] = field(default_factory=dict)
    hosted: bool = False
    lacks: Mapping[str, No] = field(default_factory=dict)
    value_errors: dict[str, float] = field(default_factory=dict)
    numbers: Mapping[str, torch.Tensor] | None = None
    params: Mapping[str, torch.Tensor] | None = None
    pinned: frozenset[str] = frozenset()
    structure: Structure | None = None
    refusals: dict[str, list[No]] = field(default_factory=dict)
    candidates: dict[str, tuple[Candidate, ...]] = field(default_factory=dict)
    fuel: int | None = None

    def refuse(self, value: str, reason: No) -> None:
        """Notes why a rule left the node that gives `value` alone; repeated reasons count once."""
        reasons = self.refusals.setdefault(value, [])
        if reason not in reasons:
            reasons.append(reason)

    def spend(self) -> bool:
        """True if one more rewrite may be made."""
        if self.fuel is None:
            return True
        self.fuel -= 1
        return self.fuel >= 0


@dataclass(frozen=True)
class Pass:
    """Base of all passes. The first line of a subclass's docstring is `before  =>  after`."""

    name: ClassVar[str] = ""
    exact: ClassVar[bool] = True
    """False for a pass after which results are rounded less often than before."""

    def run(self, graph: Graph, context: Context) -> Graph:
        """The rewritten graph, or `graph` itself where nothing fits."""
        raise NotImplementedError(f"{type(self).__name__} has no rule")
