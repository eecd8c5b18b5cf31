"""`max-autotune`: the leading formats of every layer, timed inside the program on its real weights.

A program is compiled for the best format of each layer, one for the second best of each, and so on:
so a few programs time all candidates of all layers, each among its real neighbours. What was
measured is remembered on disk under all that it depends on, the pattern of the zeros included.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from filelock import FileLock, Timeout

from ..codegen.cpu.build import kernel_version
from ..files import replacing
from ..ir.graph import Graph
from ..ir.types import TensorType, evaluate, torch_dtype
from ..options import Options
from ..passes.base import TORCH, Candidate
from ..passes.choose_formats import layer_shape
from ..passes.provenance import weight_facts
from .gpu_place import gpu_facts
from .machine import machine_facts
from .measure import layer_times, machine_to_itself, timed_executor
from .pipeline import Lowered, lower_graph
from .weights import LiveWeights

log = logging.getLogger(__name__)

SCHEMA = 1
BUDGET_S = 55.0
"""Seconds after which no further program is compiled and measured."""
LEADING = 4
"""Candidates of a layer that are measured, dense among them."""
WITHIN = 1.8
"""Candidates predicted to take longer than the best by this factor are not measured."""
_RUNS = 8
_LOCK_S = 10.0

Times = dict[tuple[str, str], float]
"""Nanoseconds by (layer, format)."""


@dataclass
class TuningCache:
    """Nanoseconds by layer key and format. path: of the file for this machine and these kernels."""

    path: Path
    facts: Mapping[str, Any]
    known: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def open(
        cls, options: Options, threads: int, gpu: Mapping[str, str] | None = None
    ) -> TuningCache:
        """What the file on disk knows; nothing where it is damaged, stale or of another machine.

        gpu: what is known of the one on which layers run, if they do.
        """
        facts = {
            "schema": SCHEMA,
            "isa": options.isa,
            "threads": threads,
            "kernels": kernel_version(),
            **machine_facts(),
            **(gpu or {}),
        }
        name = f"{gpu['arch']}-{gpu['dtype']}" if gpu else f"{options.isa}-{threads}"
        path = options.cache_dir / f"tuning-{name}.json"
        cache = cls(path, facts)
        cache.known = cache.read()
        return cache

    def read(self) -> dict[str, dict[str, float]]:
        """The file's figures, each checked; empty, with a message, where it cannot be used."""
        try:
            data = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.warning("%s is no tuning cache (%s); measuring again", self.path, error)
            return {}
        if not isinstance(data, dict) or data.get("facts") != dict(self.facts):
            log.info("%s is of another machine or version; measuring again", self.path)
            return {}
        layers = data.get("layers")
        if not isinstance(layers, dict) or not all(map(_sound, layers.values())):
            log.warning("%s is damaged; measuring again", self.path)
            return {}
        return layers

    def add(self, found: Mapping[str, Mapping[str, float]]) -> None:
        """Enters figures, beside those that another process has written meanwhile."""
        for key, times in found.items():
            self.known.setdefault(key, {}).update(times)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock"), timeout=_LOCK_S):
                layers = self.read()
                for key, times in self.known.items():
                    layers[key] = {**layers.get(key, {}), **times}
                data = {"facts": dict(self.facts), "layers": layers}
                with replacing(self.path) as beside:
                    beside.write_text(json.dumps(data))
        except (OSError, Timeout) as error:
            log.warning("cannot keep %s: %s", self.path, error)


def _sound(times: Any) -> bool:
    return isinstance(times, dict) and all(
        isinstance(ns, float) and math.isfinite(ns) and ns > 0 for ns in times.values()
    )


class Progress(Protocol):
    """Shows how far tuning is."""

    def step(self, text: str, done: int, total: int) -> None:
        """`done` of `total` steps are over; `text` says what goes on now."""


class _Logged:
    def step(self, text: str, done: int, total: int) -> None:
        log.info("tuning: %s (%d of %d)", text, done, total)


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """A bar on a terminal, lines in the log elsewhere."""
    if not sys.stderr.isatty():
        yield _Logged()
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("tuning")

        class Shown:
            def step(self, text: str, done: int, total: int) -> None:
                bar.update(task, description=f"tuning: {text}", completed=done, total=total)

        yield Shown()


def tune(
    graph: Graph,
    weights: LiveWeights,
    options: Options,
    hints: Mapping[str, int],
    inputs: Sequence[torch.Tensor] | None = None,
    progress: Progress | None = None,
) -> Times:
    """Measured nanoseconds of the leading candidates of each layer that runs natively.

    inputs: of the graph; made up where they are not given. What the budget leaves out is missing.
    """
    began = time.monotonic()
    if progress is None:
        with shown_progress() as shown:
            return tune(graph, weights, options, hints, inputs, shown)
    lowered = lower_graph(graph, weights, options, hints)
    gpu = gpu_facts(options, weights.tensors)
    cache = TuningCache.open(options, torch.get_num_threads(), gpu)
    keys = {name: layer_key(lowered, name) for name in _native_layers(lowered)}
    tried = {name: leading(lowered.context.candidates[name]) for name in keys}
    missing = {
        name: [f for f in names if f not in cache.known.get(keys[name], {})]
        for name, names in tried.items()
    }
    rounds = max(map(len, missing.values()), default=0)
    inputs = list(inputs) if inputs is not None else example_inputs(graph, hints)
    for number in range(rounds):
        spent = time.monotonic() - began
        if spent > BUDGET_S * number / (number + 1) and number:
            log.info("tuning stops after %d of %d programs and %.0f s", number, rounds, spent)
            break
        progress.step(f"program {number + 1} of {rounds}", number, rounds)
        wanted = {n: (left or tried[n])[min(number, len(left) - 1)] for n, left in missing.items()}
        found = _measured(graph, weights, options, hints, inputs, wanted)
        cache.add({keys[n]: {wanted[n]: ns} for n, ns in found.items() if n in keys})
    return {
        (name, format_): ns
        for name, key in keys.items()
        for format_, ns in cache.known.get(key, {}).items()
        if format_ in tried[name]
    }


def _measured(
    graph: Graph,
    weights: LiveWeights,
    options: Options,
    hints: Mapping[str, int],
    inputs: Sequence[torch.Tensor],
    wanted: Mapping[str, str],
) -> dict[str, float]:
    lowered = lower_graph(graph, weights, options, hints, formats=wanted)
    executor = timed_executor(lowered, weights, options)
    with machine_to_itself(options.timing_lock):
        times = layer_times(executor, inputs, _RUNS)
    chosen = {
        name: next((c.format for c in found if c.refused is None), None)
        for name, found in lowered.context.candidates.items()
    }
    return {name: ns for name, ns in times.items() if chosen.get(name) == wanted.get(name)}


def _native_layers(lowered: Lowered) -> list[str]:
    native = {name for segment in lowered.program.segments for name in segment.nodes}
    return [name for name in lowered.context.candidates if name in native]


def leading(candidates: Sequence[Candidate]) -> list[str]:
    """The formats of a layer worth measuring, the best by prediction first; dense is one."""
    times = {c.format: c.predicted_ns for c in candidates if c.format != TORCH}
    times = {name: ns for name, ns in times.items() if math.isfinite(ns)}
    ranked = sorted(times, key=lambda name: times[name])
    near = [name for name in ranked if times[name] <= WITHIN * times[ranked[0]]][:LEADING]
    if "dense" in times and "dense" not in near and times["dense"] <= 4 * times[ranked[0]]:
        near = [*near[: LEADING - 1], "dense"]
    return near


def layer_key(lowered: Lowered, name: str) -> str:
    """Hash of a layer's shape and of what is known about the zeros of its weights.

    The facts count zeros in rows, columns, groups and blocks of twelve shapes: patterns that agree
    in all of them take the same time.
    """
    graph, context = lowered.graph, lowered.context
    node = graph.producers[name]
    weight = node.inputs[node.op.weight_input or 0]
    facts = [f.as_dict() for f in weight_facts(graph, weight, context.facts)]
    shape = astuple(layer_shape(graph, node, context))
    text = json.dumps([node.op.name, shape, facts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def example_inputs(graph: Graph, hints: Mapping[str, int]) -> list[torch.Tensor]:
    """Normal numbers, zeros for integers (an index that is always valid), true for booleans."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for value in graph.inputs:
        type_ = value.type
        shape = [evaluate(dim, hints) for dim in type_.shape]
        found.append(_example(type_, shape, generator))
    return found


def _example(type_: TensorType, shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    dtype = torch_dtype(type_.dtype)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator, device="cpu").to(dtype)
    return torch.full(shape, dtype == torch.bool, dtype=dtype, device="cpu")
