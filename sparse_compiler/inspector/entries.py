"""What the ledger holds, and how it is shown: as a table, as sentences, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import UnsupportedError
from ..frontends.contest import Outcome
from ..passes.base import TORCH
from .explorer import explorer_graphs
from .html import Details, page
from .places import layer_values
from .profile import Profile


@dataclass(frozen=True)
class CandidateEntry:
    """predicted_ms: by the cost model; measured_ms: where it was timed; reason: of a refusal."""

    format: str
    predicted_ms: float | None
    measured_ms: float | None
    reason: str | None


@dataclass(frozen=True)
class LayerEntry:
    """One layer. name: its module path; native: our kernel runs it; fused: ops in its epilogue."""

    name: str
    op: str
    pattern: str
    density: float
    format: str
    kernel: str
    native: bool
    fused: tuple[str, ...]
    reason: str | None
    candidates: tuple[CandidateEntry, ...] = ()
    layout: str | None = None
    """Order of the result's dimensions, planes left of the bar; None where torch holds it."""
    gain: float | None = None
    """Time of torch's dense layer over ours, predicted; None where torch runs it."""
    crossover: str | None = None
    """From how many columns on the format beats dense weights, as "csr for B*S >= 4"."""
    ideal_bits: float | None = None
    """Size of the non-zeros in this format without padding (Hoefler et al., JMLR 22(241), 2.2)."""
    stored_bytes: int | None = None
    """Size of the packed weight, padding included; None before it is packed."""
    values: str = "fp32"
    value_error: float | None = None
    """max |stored - weight| / max |weight|; None where numbers are stored as they are."""


@dataclass(frozen=True)
class Report:
    """layers in execution order; fallback_calls: nodes run by torch at each call; passes: a line
    for each pass; graph, program: their texts."""

    layers: tuple[LayerEntry, ...]
    fallback_calls: int
    passes: tuple[str, ...] = ()
    graph: str = field(default="", repr=False)
    program: str = field(default="", repr=False)
    outcome: Outcome | None = None
    """How the whole model compares with its dense rivals, where `max-autotune` measured them."""
    structure: str = ""
    """What was taken out of the model because nothing reads it, or it is constant; a sentence."""
    details: Details | None = field(default=None, repr=False, compare=False)
    """What the page shows beside the ledger."""

    def json(self) -> dict[str, Any]:
        """`{"layers": [...], "fallback_calls": int, "summary": str, "whole_model": ...}`, made of
        plain values; "whole_model" is None unless the whole model was measured."""
        layers = [{k: _plain(v) for k, v in asdict(layer).items()} for layer in self.layers]
        whole = None
        if self.outcome is not None:
            reason = str(self.outcome.reason) if self.outcome.reason else None
            whole = {"runs": self.outcome.winner, "ms": dict(self.outcome.ms), "reason": reason}
        return {
            "layers": layers,
            "fallback_calls": self.fallback_calls,
            "summary": self.summary(),
            "whole_model": whole,
        }

    def html(self, path: str | Path | None = None, *, profile: Profile | None = None) -> str:
        """One page that needs nothing else: layers, weights, passes, time and generated code.

        path: where to write it too. profile: of `Compiled.profile`, for the times of kernel calls.
        """
        details = self._known()
        places = layer_values(details.lowered)
        layers = [entry | places.get(entry["name"], {}) for entry in self.json()["layers"]]
        text = page(layers, self.summary(), replace(details, profile=profile))
        if path is not None:
            Path(path).write_text(text, "utf-8")
        return text

    def model_explorer(self) -> dict[str, Any]:
        """The graphs before and after all passes in Model Explorer's JSON, for its viewer."""
        return explorer_graphs(self._known().lowered)

    def _known(self) -> Details:
        if self.details is None:
            raise UnsupportedError(
                "this report has no graphs", fix="take it from sc.inspect, or from a Compiled"
            )
        return self.details

    def candidates(self) -> str:
        """A line for each candidate of each layer: predicted and measured time, and why not."""
        lines = []
        for layer in self.layers:
            where = f", {layer.crossover}" if layer.crossover else ""
            lines.append(f"{layer.name}: {layer.format if layer.native else 'torch'}{where}")
            for c in layer.candidates:
                times = f"predicted {_ms(c.predicted_ms)}, measured {_ms(c.measured_ms)}"
                lines.append(f"    {c.format:<12} {times}  {c.reason or 'chosen'}")
        return "\n".join(lines) + "\n"

    def text(self) -> str:
        """A table, a line for every layer that is not sparse, and a summary."""
        header = ("layer", "op", "pattern", "density", "format", "layout", "gain", "fused")
        rows = [header, *(_row(layer) for layer in self.layers)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows
        ]
        lines.insert(1, "  ".join("-" * w for w in widths))
        reasons = [f"{layer.name}: {layer.reason}" for layer in self.layers if layer.reason]
        end = [self.summary(), *([self.structure] if self.structure else [])]
        return "\n".join([*lines, "", *reasons, *([""] if reasons else []), *end]) + "\n"

    def summary(self) -> str:
        """What became of the layers, and what it brings, in a few sentences for people."""
        sparse = [layer for layer in self.layers if layer.native and layer.format != "dense"]
        native = [layer for layer in self.layers if layer.native]
        tvm = sum(layer.kernel == "tvm" for layer in self.layers)
        said = (
            f"{len(sparse)} of {len(self.layers)} layers run sparse, {len(native) - len(sparse)} "
            f"dense in our kernels, {len(self.layers) - len(native) - tvm} in torch"
            f"{f', {tvm} in TVM' if tvm else ''}; "
            f"{self.fallback_calls} calls into torch{' or TVM' if tvm else ''} at each run."
        )
        return " ".join([said, *filter(None, [self._gain(native), self._whole()])])

    def _gain(self, native: Sequence[LayerEntry]) -> str | None:
        pairs = [(_chosen_ms(e), _ms_of(e, TORCH)) for e in native]
        known = [(ours, dense) for ours, dense in pairs if ours and dense]
        ours, dense = (sum(p[i] for p in known) for i in (0, 1))
        if not known or dense < 1.05 * ours:
            return None
        return f"The native layers are expected to run {dense / ours:.1f} times as fast as torch's."

    def _whole(self) -> str | None:
        if self.outcome is None or not self.outcome.ms:
            return None
        times = ", ".join(f"{ms:.2f} ms in {name}" for name, ms in self.outcome.ms.items())
        return f"The whole model takes {times}: {self.outcome.winner} runs it."


def _chosen_ms(entry: LayerEntry) -> float | None:
    chosen = next((c for c in entry.candidates if c.reason is None), None)
    return chosen.measured_ms or chosen.predicted_ms if chosen else None


def _ms_of(entry: LayerEntry, format_: str) -> float | None:
    return next((c.predicted_ms for c in entry.candidates if c.format == format_), None)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f} ms"


def _row(layer: LayerEntry) -> tuple[str, ...]:
    return (
        layer.name,
        layer.op,
        layer.pattern,
        f"{layer.density:.1%}",
        layer.format if layer.native else "tvm" if layer.kernel == "tvm" else "torch",
        layer.layout or "-",
        f"{layer.gain:.1f}x" if layer.gain else "-",
        " ".join(layer.fused) or "-",
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
