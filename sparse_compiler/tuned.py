"""`sc.compile(mode="max-autotune")`: layers tuned, then the whole model against dense rivals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from .compiled import Compiled
from .frontends.contest import contest, least_dense_ms
from .frontends.export import ExportedModel
from .frontends.frozen import Frozen, flat_module, freeze
from .options import Options
from .runtime.pipeline import Pipeline, environment_refusal
from .runtime.tune import example_inputs, tune
from .runtime.weights import LiveWeights


def tuned(
    exported: ExportedModel,
    live: LiveWeights,
    settings: Options,
    hints: Mapping[str, int],
    eager: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Compiled:
    """The compiled model of measured formats, in which the fastest way to run it has won.

    args, kwargs: example arguments; numbers are made up where there are none.
    """
    graph = exported.imported.graph
    given = bool(args or kwargs)
    inputs = exported.call.flatten(args, kwargs) if given else example_inputs(graph, hints)
    measured = {}
    if environment_refusal(settings, live) is None:
        measured = tune(graph, live, settings, hints, inputs)
    pipeline = Pipeline(graph, live, settings, hints, measured=measured)
    compiled = Compiled(pipeline, exported.call, eager)
    results = set(graph.results)
    if graph.updates or results & (graph.weight_time | {v.name for v in graph.inputs}):
        return compiled  # a rival would write to buffers, or hand out its own constants

    def make_frozen() -> Frozen | None:
        program = exported.program
        module = None if program is None else flat_module(program, live.tensors)
        return None if module is None else freeze(module, inputs)

    with torch.no_grad():
        outcome = contest(
            lambda: compiled(*args, **kwargs) if given else pipeline.executor(inputs),
            (lambda: eager(*args, **kwargs)) if given else None,
            make_frozen,
            inputs,
            least_dense_ms(pipeline.lowered),
            settings.timing_lock,
        )
    compiled.settle(outcome)
    return compiled
