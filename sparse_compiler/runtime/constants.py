"""Values that depend on parameters and on sizes of inputs: computed once per set of sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..ir.graph import Graph, Node
from ..ir.interpret import run_node

_KEPT = 64


class BoundConstants:
    """Calls with the sizes of symbols; gives every constant by name, weight-time values among them.

    nodes: those that need sizes, in order; values: what depends on weights alone; device: where
    those lie, and what is made for sizes does.
    """

    def __init__(
        self,
        graph: Graph,
        nodes: Sequence[Node],
        values: Mapping[str, torch.Tensor],
        device: torch.device | None = None,
    ) -> None:
        self.graph, self.nodes, self.values = graph, tuple(nodes), values
        self.device = device or torch.device("cpu")
        self._known: dict[tuple[tuple[str, int], ...], Mapping[str, torch.Tensor]] = {}

    def __call__(self, symbols: Mapping[str, int]) -> Mapping[str, torch.Tensor]:
        if not self.nodes:
            return self.values
        key = tuple(sorted((n, s) for n, s in symbols.items() if n in self.graph.symbols))
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _KEPT:
                self._known.pop(next(iter(self._known)), None)
            found = self._known[key] = self._compute(dict(symbols))
        return found

    def _compute(self, symbols: dict[str, int]) -> Mapping[str, torch.Tensor]:
        values: dict[str, Any] = dict(self.values)
        with torch.no_grad(), self.device:
            for node in self.nodes:
                inputs = [values[name] for name in node.inputs]
                values[node.name] = run_node(node, inputs, symbols, self.graph.objects)
        return values
