"""What became of each parameter of a shrunk model: where it comes from and what was kept of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..ir.graph import Graph, Node
from ..ops.take import Take

Plan = dict[str, dict[str, Any]]
"""By name of the shrunk model's tensor: "from", the original's; "shape"; "kept", for each dimension
the ranges [start, stop) of it that are left; "computed" where it holds folded constants."""

_PARAMETRIZED = re.compile(r"\.?parametrizations\.(\w+)\.original\d*$")


def plain_path(name: str) -> str:
    """`fc.parametrizations.weight.original` -> `fc.weight`."""
    return _PARAMETRIZED.sub(r".\1", name).lstrip(".")


@dataclass(frozen=True)
class Roots:
    """Finds the parameter that a weight-time value was made of."""

    graph: Graph

    def root(self, name: str) -> tuple[str | None, dict[int, Any], bool]:
        """The parameter, what was kept of its dimensions, and whether its numbers are its own."""
        params = {p.name for p in self.graph.params}
        kept: dict[int, Any] = {}
        own = True
        while name not in params:
            node = self.graph.producers.get(name)
            if node is None or not node.inputs:
                return None, kept, False
            if isinstance(node.op, Take):
                kept[node.op.dim] = [list(pair) for pair in node.op.ranges]
            elif self.graph.types[name] != self.graph.types[node.inputs[0]]:
                own = False
            name = self._same(node)
        return name, kept, own

    def _same(self, node: Node) -> str:
        """The input that the value is a version of: that of its own shape, floating point first."""
        types = self.graph.types
        like = [i for i in node.inputs if types[i] == types[node.name]]
        return like[0] if like else node.inputs[0]

    def path(self, node: Node, index: int) -> str:
        """Where a weight that `node` reads as input number `index` stands in the new module."""
        name = node.inputs[index]
        root, _, _ = self.root(name)
        place = node.op.weight_input
        biased = place is not None and index == place + 1 and getattr(node.op, "bias", False)
        if biased:  # it stands beside its weight
            weight = self.root(node.inputs[index - 1])[0]
            if weight is not None:
                return f"{plain_path(weight).rpartition('.')[0]}.bias".lstrip(".")
        made = name != root and place is not None and index > place
        if root is None or made:
            return f"constants.{re.sub(r'[^0-9A-Za-z_]', '_', name)}"
        return plain_path(root)


def plan_of(
    graph: Graph, roots: Roots, names: Mapping[str, str], params: Mapping[str, torch.Tensor]
) -> Plan:
    """The plan of a shrunk model. names: its tensor behind each weight-time value."""
    plan: Plan = {}
    for value, path in names.items():
        root, kept, own = roots.root(value)
        entry: dict[str, Any] = {"shape": [int(s) for s in graph.tensor(value).shape]}
        if root is not None and own:
            entry["from"] = plain_path(root)
            entry["original_shape"] = list(params[root].shape)
            entry["kept"] = {str(d): ranges for d, ranges in sorted(kept.items())}
        else:
            entry["computed"] = True
        plan[path] = entry
    return plan
