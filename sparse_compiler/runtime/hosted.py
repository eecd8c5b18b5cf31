"""Native segments for a host that runs the rest itself, such as a graph under Inductor.

The host fixes which values a segment reads and gives, so a changed weight is packed again in the
format it has; `torch.compiler.reset()` lets the compiler choose anew.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..codegen.program import Segment
from ..ir.graph import Graph, Node
from ..ops.shape import Relayout
from ..options import Options
from .constants import BoundConstants
from .gpu_place import dtype_of, place_of
from .native import NativeSegment
from .pipeline import Lowered, environment_refusal, lower_graph, toolchain_for
from .source_part import SourcePart
from .stream import constants_read
from .tune import tune
from .weights import LiveWeights, WeightTimeValues

log = logging.getLogger(__name__)

_ATTEMPTS = 4  # at giving values that the host reads all of their channels, before all get them


class HostedSegment:
    """A native segment under the names of the imported graph; repacks its weights by itself."""

    def __init__(
        self,
        segment: Segment,
        lowered: Lowered,
        params: Mapping[str, torch.Tensor],
        options: Options,
    ) -> None:
        names = _source_names(lowered)
        self.device = torch.device("cpu")
        self.native: Any
        if options.target == "cpu":
            toolchain = toolchain_for(options)
            self.native = NativeSegment(segment, toolchain, profile=options.profile)
        else:
            from .gpu_road import gpu_segment

            place = place_of(options.target, params)
            self.device = place.device
            self.native = gpu_segment(segment, place, dtype_of(options, params), options)
        self.inputs = tuple(names.get(name, name) for name in self.native.inputs)
        self.outputs = tuple(names.get(name, name) for name in self.native.outputs)
        self._graph, self._hints = lowered.graph, lowered.context.hints
        program = lowered.program
        weights = [entry.name for entry in segment.weights]
        self._bind, needed = _slice(program.bind, weights)
        self._setup, needed = _slice(program.setup, [*weights, *sorted(needed)])
        watched = lowered.context.structure is not None  # all weights say what is dead
        self.weights = LiveWeights({n: t for n, t in params.items() if watched or n in needed})
        self._source = SourcePart(lowered, self.inputs, self.outputs)
        self._fits = True
        self._packed_once = False
        self._lock = threading.Lock()
        self._pack()

    def run(
        self, tensors: Sequence[torch.Tensor], symbols: Mapping[str, int] | None = None
    ) -> list[torch.Tensor]:
        """Results for inputs in the order of `inputs`, with the weights as they are now."""
        if self._outdated:
            with self._lock:  # a thread that finds the weights changed makes the others wait
                if self._outdated:
                    self._pack()
        if not self._fits:
            return self._source.run(tensors, self.weights.tensors, symbols or {})
        results: list[torch.Tensor] = self.native.run(tensors, symbols)
        return results

    @property
    def _outdated(self) -> bool:
        # In this order: packing first says that it goes on, and then takes the change as known.
        return self.weights.changed() or self._stale

    def _pack(self) -> None:
        self._stale = True  # until the end: a failure must not leave the old weights in use
        self.weights.mark()
        read = self.weights.on_cpu().tensors
        self._fits = not self._packed_once or self._source.holds(read)
        self._packed_once = True
        if not self._fits:
            log.warning("other channels are dead now; torch runs them until torch.compiler.reset()")
            self._stale = False
            return
        packed, later = constants_read(self.native.segment)
        later += [name for node in self._bind for name in node.inputs]
        values = WeightTimeValues(self._graph, self._setup, read, packed, later)
        self.native.constants = BoundConstants(self._graph, self._bind, values.kept)
        self.native.load_weights(values, self._hints)
        self._stale = False


def build_segments(
    graph: Graph,
    params: Mapping[str, torch.Tensor],
    options: Options,
    hints: Mapping[str, int] | None = None,
) -> tuple[list[HostedSegment], Lowered]:
    """The native segments of a graph in execution order, and what was decided for each layer."""
    weights = LiveWeights(params)
    refusal = environment_refusal(options, weights)
    hints = hints or {}
    measured = None
    if options.mode == "max-autotune" and refusal is None:
        measured = tune(graph, weights, options, hints)
    pinned: frozenset[str] | None = frozenset()
    for attempt in range(_ATTEMPTS):
        lowered = lower_graph(
            graph,
            weights,
            options,
            hints,
            None,
            refusal,
            measured=measured,
            hosted=True,
            pinned=pinned,
        )
        narrowed = _narrowed(lowered)
        if not narrowed or pinned is None:
            break
        pinned = pinned | narrowed if attempt + 2 < _ATTEMPTS else None
    segments = [HostedSegment(s, lowered, params, options) for s in lowered.program.segments]
    return segments, lowered


def _narrowed(lowered: Lowered) -> frozenset[str]:
    """Values between a segment and its host that lost channels, which the host still has."""
    if lowered.context.structure is None:
        return frozenset()
    names, source = _source_names(lowered), lowered.source.types
    found = set()
    for segment in lowered.program.segments:
        for name, type_ in (*segment.inputs, *segment.outputs):
            own = names.get(name, name)
            shape = getattr(source.get(own), "shape", None)
            if shape != type_.shape:
                found.add(own)
    return frozenset(found)


def _source_names(lowered: Lowered) -> dict[str, str]:
    """Values that layout made -> the value of the imported graph that they are a copy of."""
    known = lowered.source.types
    names: dict[str, str] = {}
    for node in lowered.graph.nodes:
        if node.name in known:
            continue
        if isinstance(node.op, Relayout):
            names[node.name] = names.get(node.inputs[0], node.inputs[0])
        elif node.op.view:
            names[node.name] = node.name.removesuffix(".rows")
    return names


def _slice(setup: Sequence[Node], wanted: Sequence[str]) -> tuple[list[Node], set[str]]:
    """The setup nodes that `wanted` needs, and all names that they and `wanted` read."""
    needed = set(wanted)
    kept = []
    for node in reversed(setup):
        if node.name in needed:
            kept.append(node)
            needed.update(node.inputs)
    return kept[::-1], needed
