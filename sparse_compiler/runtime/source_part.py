"""The part of the imported graph that a hosted segment stands for, and whether it still may.

A segment without dead channels is right only while they are dead. When a weight changes, the
elimination is run again on the new numbers: where it comes to another graph, torch runs the
imported nodes themselves until the weights fit again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..ir.graph import Graph, Node
from ..ir.interpret import bind_shape, run_node
from ..passes.base import Context
from ..passes.eliminate_dead_channels import EliminateDeadChannels
from .pipeline import Lowered


class SourcePart:
    """The nodes of the imported graph from the values `inputs` to the values `outputs`."""

    def __init__(self, lowered: Lowered, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self._context, self.graph = lowered.context, lowered.source
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self._nodes = _between(self.graph, self.inputs, self.outputs)

    def holds(self, params: Mapping[str, torch.Tensor]) -> bool:
        """True if the same channels are dead with these weights."""
        structure = self._context.structure
        if structure is None:
            return True
        context = Context(params=params, pinned=self._context.pinned)
        return EliminateDeadChannels().run(structure.before, context).nodes == structure.after.nodes

    def run(
        self,
        tensors: Sequence[torch.Tensor],
        params: Mapping[str, torch.Tensor],
        symbols: Mapping[str, int],
    ) -> list[torch.Tensor]:
        """The results by torch, contiguous and new."""
        known = dict(symbols)
        values: dict[str, Any] = {**params, **dict(zip(self.inputs, tensors, strict=True))}
        for name, tensor in zip(self.inputs, tensors, strict=True):
            bind_shape(self.graph.tensor(name), tensor.shape, known)
        with torch.no_grad():
            for node in self._nodes:
                arguments = [values[name] for name in node.inputs]
                values[node.name] = run_node(node, arguments, known, self.graph.objects)
        return [values[name].clone(memory_format=torch.contiguous_format) for name in self.outputs]


def _between(graph: Graph, inputs: Sequence[str], outputs: Sequence[str]) -> list[Node]:
    wanted, kept = set(outputs) - set(inputs), []
    for node in reversed(graph.nodes):
        if node.name in wanted:
            kept.append(node)
            wanted.update(set(node.inputs) - set(inputs))
    return kept[::-1]
