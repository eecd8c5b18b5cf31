"""Live parameters: notices what changed, and computes what depends on weights alone.

An in-place change bumps a tensor's `_version`; a replaced parameter or module is another object in
the same slot. Both are compared at each call, about 50 ns a tensor. Writes through `.data` bypass
the version counter: `refit()` is for those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..ir.graph import Graph, Node
from ..ir.interpret import run_node


class LiveWeights:
    """The tensors behind a graph's parameters, by name."""

    def __init__(
        self, params: Mapping[str, torch.Tensor], module: torch.nn.Module | None = None
    ) -> None:
        self.module = module
        self.tensors = dict(params)
        self._slots: list[tuple[dict[str, Any], str, Any]] = []
        self._versions: list[tuple[torch.Tensor, int]] = []
        self.mark()

    @property
    def trackable(self) -> bool:
        """False where a parameter was made in inference mode and has no version."""
        return not any(t.is_inference() for t in self.tensors.values())

    def mark(self) -> None:
        """Takes the present state as known, and finds replaced parameters again."""
        if self.module is not None:
            self._slots = _slots(self.module, self.tensors)
        if self.trackable:
            self._versions = [(t, t._version) for t in self.tensors.values()]

    def changed(self) -> bool:
        """True if a parameter was replaced or written to since `mark`."""
        for holder, key, value in self._slots:
            if holder.get(key) is not value:
                return True
        return any(tensor._version != version for tensor, version in self._versions)

    def needs_grad(self) -> bool:
        """True if any parameter asks for gradients."""
        return any(t.requires_grad for t in self.tensors.values())


def _slots(
    module: torch.nn.Module, tensors: dict[str, torch.Tensor]
) -> list[tuple[dict[str, Any], str, Any]]:
    """Every dictionary entry on the way from the root to a parameter; refreshes `tensors`."""
    slots: dict[tuple[int, str], tuple[dict[str, Any], str, Any]] = {}
    for name in tensors:
        *path, leaf = name.split(".")
        owner: Any = module
        for part in path:
            child = getattr(owner, "_modules", {}).get(part)
            if child is None:
                break
            slots[id(owner), part] = (owner._modules, part, child)
            owner = child
        else:
            for holder in (owner._parameters, owner._buffers):
                if isinstance(holder.get(leaf), torch.Tensor):
                    tensors[name] = holder[leaf]
                    slots[id(owner), leaf] = (holder, leaf, holder[leaf])
    return list(slots.values())


def weight_time_values(
    graph: Graph, nodes: Sequence[Node], params: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Values of `nodes`, all of which depend on parameters alone, and the parameters themselves."""
    values: dict[str, Any] = {name: tensor.detach() for name, tensor in params.items()}
    with torch.no_grad():
        for node in nodes:
            inputs = [values[name] for name in node.inputs]
            values[node.name] = run_node(node, inputs, {}, graph.objects)
    return values
