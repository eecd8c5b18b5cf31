"""Live parameters: notices what changed, and computes what depends on weights alone.

An in-place change bumps a tensor's `_version`; a replaced parameter or module is another object in
the same slot. Both are compared at each call, about 50 ns a tensor. Writes through `.data` bypass
the version counter: `refit()` is for those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ..errors import InputError
from ..ir.graph import Graph, Node
from ..ir.interpret import run_node
from ..ir.types import tensor_type


class LiveWeights:
    """The tensors behind a graph's parameters, by name."""

    def __init__(
        self, params: Mapping[str, torch.Tensor], module: torch.nn.Module | None = None
    ) -> None:
        self.module = module
        self.tensors = dict(params)
        self._aliases = {} if module is None else _aliases(module, self.tensors)
        self._slots: list[tuple[dict[str, Any], str, Any]] = []
        self._versions: list[tuple[torch.Tensor, int]] = []
        self._untied: list[str] = []
        self.mark()

    @property
    def trackable(self) -> bool:
        """False where a parameter was made in inference mode and has no version."""
        return not any(t.is_inference() for t in self.tensors.values())

    def mark(self) -> None:
        """Takes the present state as known, and finds replaced parameters again."""
        if self.module is not None:
            self._slots, found = _slots(self.module, {**self.tensors, **self._aliases})
            self.tensors |= {name: found[name] for name in self.tensors if name in found}
            self._untied = [n for n, of in self._aliases.items() if found.get(n) is not found[of]]
        if self.trackable:
            self._versions = [(t, t._version) for t in self.tensors.values()]

    def changed(self) -> bool:
        """True if a parameter was replaced or written to since `mark`."""
        for holder, key, value in self._slots:
            if holder.get(key) is not value:
                return True
        return any(tensor._version != version for tensor, version in self._versions)

    def check(self, graph: Graph) -> None:
        """Raises `InputError` where the weights are no longer those that `graph` was made for."""
        fix = "compile the model again"
        for param in graph.params:
            tensor = self.tensors[param.name]
            if tensor_type(tensor) != param.type:
                raise InputError(
                    f"the parameter {param.name} is now {tensor.dtype} {list(tensor.shape)}",
                    why=f"the model was compiled for {param.type.dtype} {list(param.type.shape)}",
                    fix=fix,
                )
        if self._untied:
            name = self._untied[0]
            raise InputError(
                f"the parameters {name} and {self._aliases[name]} are two now",
                why="the model was compiled while they were one",
                fix=f"tie them again, or {fix}",
            )

    def needs_grad(self) -> bool:
        """True if any parameter asks for gradients."""
        return any(t.requires_grad for t in self.tensors.values())


def _aliases(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Further names of tied parameters -> the first under which the graph knows them."""
    names: dict[int, str] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), name)
    everything = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    return {n: names[id(t)] for n, t in everything if names.get(id(t), n) != n}


def _slots(
    module: torch.nn.Module, names: Iterable[str]
) -> tuple[list[tuple[dict[str, Any], str, Any]], dict[str, torch.Tensor]]:
    """Every dictionary entry on the way from the root to a parameter, and the parameters found."""
    slots: dict[tuple[int, str], tuple[dict[str, Any], str, Any]] = {}
    found: dict[str, torch.Tensor] = {}
    for name in names:
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
                    found[name] = holder[leaf]
                    slots[id(owner), leaf] = (holder, leaf, holder[leaf])
    return list(slots.values()), found


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
