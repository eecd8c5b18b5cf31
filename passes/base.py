"""What a pass is: a frozen dataclass whose fields are its options, with `run(graph, context)`.

The context carries what passes read (facts about weights) and write (refusals for the ledger).
Every rewrite asks `context.spend()` first, so `fuel=N` applies only the first N rewrites and a
miscompile can be bisected to a single one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from sparse_compiler.analysis.sparsity import SparsityFacts
from sparse_compiler.formats.base import Machine
from sparse_compiler.ir.graph import Graph
from sparse_compiler.ir.refusal import No

TORCH = "torch"
"""The candidate that is no format of ours: the layer left to torch."""


@dataclass(frozen=True)
class Candidate:
    """One way to run a layer. predicted_ns: by the cost model; refused: why it was not taken."""

    format: str
    predicted_ns: float
    refused: No | None = None


@dataclass
class Context:
    """facts: per weight-time value, those of its numbers. threads, machine: what the cost model
    assumes. hints: sizes of symbols in the example. force_native: skip the profit test of regions.

    refusals: per graph value, in the order in which passes gave them. candidates: per layer.
    fuel: rewrites left, None for no limit.
    """

    facts: Mapping[str, SparsityFacts] = field(default_factory=dict)
    threads: int = 1
    machine: Machine = field(default_factory=Machine)
    hints: Mapping[str, int] = field(default_factory=dict)
    force_native: bool = False
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

    def run(self, graph: Graph, context: Context) -> Graph:
        """The rewritten graph, or `graph` itself where nothing fits."""
        raise NotImplementedError(f"{type(self).__name__} has no rule")
