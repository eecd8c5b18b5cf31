"""A model's groups of channels as text and JSON, before anything is changed.

Behind the groups stand the nodes that keep channels which are constant already, and why: the
statistics of a norm, a gate that depends on data, an op without a channel rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparse_compiler.analysis.channels.flow import analyse
from sparse_compiler.analysis.channels.groups import Group, Member, channel_groups
from sparse_compiler.frontends.export import import_program
from sparse_compiler.frontends.foreign import import_foreign
from sparse_compiler.ir.refusal import No
from sparse_compiler.ops.take import ranges_of

from .coupled import recognised, traced


@dataclass(frozen=True, eq=False)
class Structure:
    """groups: what goes together; kept: node -> why it keeps channels that are constant."""

    groups: tuple[Group, ...]
    kept: Mapping[str, No]

    def text(self) -> str:
        """A paragraph for each group, then a line for each node that keeps channels."""
        lines = [f"group {i}: {group}" for i, group in enumerate(self.groups, 1)]
        if self.kept:
            lines.append("kept although constant:")
            lines += [f"  {name}: {why}" for name, why in self.kept.items()]
        return "\n".join(lines) + "\n"

    def json(self) -> dict[str, Any]:
        """The same for programs: indices as ranges (start, stop) of a dimension of a weight."""
        return {
            "groups": [
                {
                    "channels": group.size,
                    "fixed": group.fixed,
                    "writers": [_member(m) for m in group.writers],
                    "readers": [_member(m) for m in group.readers],
                    "through": list(group.through),
                }
                for group in self.groups
            ],
            "kept": {name: {"code": w.code, "reason": w.why} for name, w in self.kept.items()},
        }


def _member(member: Member) -> dict[str, Any]:
    marks = torch.zeros(int(member.index.max()) + 1, dtype=torch.bool)
    marks[member.index] = True
    spans = [list(span) for span in ranges_of(marks)]
    return {"layer": member.layer, "weight": member.weight, "dim": member.dim, "ranges": spans}


def structure_of(
    model: nn.Module | torch.export.ExportedProgram | Path,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
) -> Structure:
    """The groups of a model's channels. Changes nothing, compiles nothing.

    model: also the path of an ONNX or Relax file. args, kwargs: example arguments.
    Raises UnsupportedError for what cannot be traced or imported.
    """
    if isinstance(model, torch.export.ExportedProgram):
        graph, params = recognised(import_program(model).imported)
    elif isinstance(model, Path):
        found = import_foreign(model, args, kwargs, dynamic_shapes)
        graph, params = recognised(found.imported)
    else:
        graph, params = traced(model, args, kwargs)
    return Structure(channel_groups(graph, params), analyse(graph, params).reasons())
