"""What a pass decided about each layer of a TVM module, in the columns of `sc.inspect`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..inspector.entries import LayerEntry, Report
from ..inspector.report import report_of
from ..runtime.pipeline import Lowered


@dataclass(frozen=True)
class Ledger:
    """layers: in the module's order, by the variable that holds the result.

    native: ours runs it; of the others `reason` says why they stay TVM's. str() is a table.
    """

    layers: tuple[LayerEntry, ...]

    def json(self) -> list[dict[str, Any]]:
        """A dictionary of plain values for each layer."""
        layers: list[dict[str, Any]] = Report(self.layers, 0).json()["layers"]
        return layers

    def summary(self) -> str:
        """How many layers call our kernels."""
        ours = sum(layer.native for layer in self.layers)
        return f"{ours} of {len(self.layers)} layers call our kernels, the others stay TVM's."

    def __str__(self) -> str:
        table = Report(self.layers, 0).text().rstrip().splitlines()[:-1]
        return "\n".join([*table, self.summary()])


def entry_of(lowered: Lowered, where: str) -> LayerEntry:
    """The decision about one layer; `native` where its zeros pay in our kernels."""
    layers = report_of(lowered).layers
    if not layers:
        return left_alone(where, "op_unsupported: no rule here knows it")
    entry = replace(layers[0], name=where)
    if entry.native and entry.format != "dense":
        return entry
    return replace(
        entry, native=False, format="dense", kernel="tvm", layout=None, gain=None, fused=()
    )


def left_alone(where: str, reason: str) -> LayerEntry:
    """The entry of a layer that was not judged at all."""
    return LayerEntry(where, "layer", "unknown", 1.0, "dense", "tvm", False, (), reason)
