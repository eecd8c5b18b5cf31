"""What target "cuda" does otherwise: weights are read and packed on the host, run on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..codegen.program import Program, Segment
from ..ir.graph import Graph
from ..options import Options
from .clock import StepClock
from .constants import BoundConstants
from .executor import Executor
from .gpu import GpuSegment
from .gpu_clock import bench_ms
from .gpu_place import Place, dtype_of, place_of
from .pipeline import Lowered
from .weights import WeightTimeValues


def gpu_segment(
    segment: Segment,
    place: Place,
    dtype: str,
    options: Options,
    constants: Callable[[Mapping[str, int]], Mapping[str, torch.Tensor]] | None = None,
    *,
    profile: bool = False,
) -> GpuSegment:
    """A segment as the options ask for it, without its weights."""
    tuned = options.mode == "max-autotune" and place.device.type == "cuda"
    return GpuSegment(
        segment,
        place,
        constants,
        dtype,
        graphs=options.cuda_graphs,
        profile=profile or options.profile,
        bench=bench_ms if tuned else None,
    )


def gpu_segments(
    graph: Graph,
    program: Program,
    values: WeightTimeValues,
    place: Place,
    dtype: str,
    options: Options,
    *,
    profile: bool = False,
) -> list[GpuSegment]:
    """The segments of a program with their weights on the device."""
    constants = BoundConstants(graph, program.bind, values.kept)
    segments = [
        gpu_segment(s, place, dtype, options, constants, profile=profile) for s in program.segments
    ]
    for segment in segments:
        segment.load_weights(values)
    return segments


def timed_copies(segments: Sequence[GpuSegment], options: Options) -> list[GpuSegment]:
    """The same segments on the same weights, with clocks."""
    found = []
    for segment in segments:
        timed = gpu_segment(
            segment.segment,
            segment.place,
            segment.products,
            options,
            segment.constants,
            profile=True,
        )
        timed.share_weights(segment)
        found.append(timed)
    return found


def timed_on(
    lowered: Lowered,
    values: WeightTimeValues,
    live: Mapping[str, torch.Tensor],
    options: Options,
) -> Executor:
    """A program with a clock in each segment, on the weights as they are now."""
    program, place = lowered.program, place_of(options.target, live)
    dtype = dtype_of(options, live)
    segments = gpu_segments(lowered.graph, program, values, place, dtype, options, profile=True)
    return executor_on(lowered.source, program, segments, values.kept, place, None, live)


def executor_on(
    graph: Graph,
    program: Program,
    segments: Sequence[GpuSegment],
    values: Mapping[str, torch.Tensor],
    place: Place,
    clock: StepClock | None = None,
    live: Mapping[str, torch.Tensor] | None = None,
) -> Executor:
    """Runs a program whose inputs lie on the device. live: parameters, of which those that lie
    there already are not copied again."""
    read = _read_on_device(program)
    here = {n: t.detach() for n, t in (live or {}).items() if t.device == place.device}
    moved = {n: _moved(n, v, here, place) for n, v in values.items() if n in read}
    return Executor(graph, program, segments, moved, clock, place)


def _moved(name: str, value: Any, here: Mapping[str, torch.Tensor], place: Place) -> Any:
    if name in here:
        return here[name]
    return value.to(place.device) if isinstance(value, torch.Tensor) else value


def _read_on_device(program: Program) -> set[str]:
    """Values that steps, results and what is made for shapes may read."""
    found = {*program.outputs, *(value for value, _ in program.updates)}
    for step in program.steps:
        found |= (
            {name for name, _ in step.inputs}
            if isinstance(step, Segment)
            else set(step.node.inputs)
        )
    return found.union(*(node.inputs for node in program.bind))
