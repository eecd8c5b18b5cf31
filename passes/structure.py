"""What the elimination of dead channels did: for reports, and to see whether it still holds."""

from __future__ import annotations

from dataclasses import dataclass

from sparse_compiler.ir.graph import Graph


@dataclass(frozen=True)
class Removed:
    """A layer with `nonzero` non-zeros in its weight; `effective`: those that still count."""

    layer: str
    weight: str
    nonzero: int
    effective: int


@dataclass(frozen=True)
class Structure:
    """before, after: the graph around the pass; layers: those with a weight that were kept."""

    before: Graph
    after: Graph
    layers: tuple[Removed, ...]
