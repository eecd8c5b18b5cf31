"""Graph and live weights -> native segments and an executor: the one road all front ends share.

`Pipeline.refresh` runs it again when weights changed: facts, formats and packing follow the new
numbers; the compiled kernels come from the cache.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..analysis.sparsity import SparsityFacts, sparsity_facts
from ..codegen.cpu.build import (
    Toolchain,
    cpu_features,
    interruptible,
    native_width,
)
from ..codegen.lower import lower
from ..codegen.program import Program, Segment
from ..errors import OptionError, ToolchainError
from ..formats.base import FORMATS
from ..formats.cost import Machine
from ..ir.graph import Graph
from ..ir.refusal import No
from ..ir.types import TensorType
from ..options import Options, nearest
from ..passes.base import Context
from ..passes.compare import Sample
from ..passes.pipeline import PassRecord, run_passes
from .clock import StepClock
from .constants import BoundConstants
from .executor import Executor
from .gpu_place import dtype_of, place_of
from .machine import WIDTHS, machine_for
from .native import NativeSegment
from .packing import PACKED
from .stream import constants_read
from .weights import LiveWeights, WeightTimeValues

log = logging.getLogger(__name__)

_NEEDS = {
    "x86-64-v2": {"sse4_2"},
    "x86-64-v3": {"avx2", "fma", "bmi2"},
    "x86-64-v4": {"avx512f", "avx512vl", "avx512dq", "avx512bw"},
}


@dataclass(frozen=True)
class Lowered:
    """What the compiler decided: everything that reports read."""

    source: Graph
    graph: Graph
    program: Program
    context: Context
    records: tuple[PassRecord, ...]


def toolchain_for(options: Options) -> Toolchain:
    """The compiler and instruction set that the options name.

    Raises `ToolchainError` where there is none, `OptionError` for what this CPU cannot run.
    """
    if options.compiler is None:
        raise ToolchainError(
            "there is no C++ compiler",
            fix="install g++ or clang++, or name one in SPARSE_COMPILER_CXX",
        )
    if options.isa == "native":
        return Toolchain(tuple(shlex.split(options.compiler)), options.cache_dir, native_width())
    missing = sorted(_NEEDS[options.isa] - cpu_features())
    if missing:
        raise OptionError(
            f"option isa is {options.isa!r}",
            why=f"this CPU lacks {', '.join(missing)}, and would stop at the first instruction",
            fix="leave it at native",
        )
    width, arch = WIDTHS[options.isa], f"-march={options.isa}"
    return Toolchain(tuple(shlex.split(options.compiler)), options.cache_dir, width, arch)


class Pipeline:
    """A graph with its live weights, compiled; compiled again by `refresh`.

    hints: sizes of symbolic dimensions in the example, for the cost model. sample: example inputs,
    needed for verify=2 only. measured: nanoseconds of (layer, format), where they were tuned.
    """

    def __init__(
        self,
        graph: Graph,
        weights: LiveWeights,
        options: Options,
        hints: Mapping[str, int] | None = None,
        sample: tuple[torch.Tensor, ...] | None = None,
        measured: Mapping[tuple[str, str], float] | None = None,
    ) -> None:
        self.measured = dict(measured or {})
        self.graph, self.weights, self.options = graph, weights, options
        self.hints, self.sample = dict(hints or {}), sample
        self.refusal = environment_refusal(options, weights)
        self.lowered: Lowered
        self.segments: list[Any]
        self.executor: Executor
        self._stale = True
        self.refresh()

    def refresh(self) -> None:
        """Compiles for the weights as they are now.

        Raises `InputError` where they no longer fit the graph: other shapes, ties undone.
        """
        self._stale = True  # until the end: a failure must not leave the old weights in use
        self.weights.mark()
        self.weights.check(self.graph)
        weights = self.weights.on_cpu()
        machine = None if weights is self.weights else _machine(self.options, self.weights)
        self.lowered = lower_graph(
            self.graph,
            weights,
            self.options,
            self.hints,
            self.sample,
            self.refusal,
            measured=self.measured,
            machine=machine,
        )
        program = self.lowered.program
        self.segments = []
        values = program_values(program, self.graph, weights.tensors)
        if self.options.target != "cpu":
            self._refresh_gpu(values)
            self._stale = False
            return
        if program.segments:
            toolchain = toolchain_for(self.options)
            constants = BoundConstants(self.lowered.graph, program.bind, values.kept)
            profile = self.options.profile
            native = partial(
                NativeSegment, toolchain=toolchain, constants=constants, profile=profile
            )
            with ThreadPoolExecutor(os.cpu_count()) as pool, interruptible():
                self.segments = list(pool.map(native, program.segments))
        for segment in self.segments:
            segment.load_weights(values, self.lowered.context.hints)
        clock = StepClock(program.steps) if self.options.profile else None
        self.executor = Executor(self.graph, program, self.segments, values.kept, clock)
        self._stale = False

    def _refresh_gpu(self, values: WeightTimeValues) -> None:
        """Kernels and packed weights on the device."""
        from .gpu_road import executor_on, gpu_segments

        live, program = self.weights.tensors, self.lowered.program
        place = place_of(self.options.target, live)
        self.segments = gpu_segments(
            self.lowered.graph, program, values, place, dtype_of(self.options, live), self.options
        )
        clock = StepClock(program.steps) if self.options.profile else None
        self.executor = executor_on(
            self.graph, program, self.segments, values.kept, place, clock, live
        )

    @property
    def stored_bytes(self) -> dict[str, int]:
        """Bytes of each packed weight as kernels read it, by graph value."""
        return {
            entry.name: native.weight_work(i)[1]
            for native in self.segments
            for i, entry in enumerate(native.segment.weights)
            if entry.kind in PACKED
        }

    def executor_with_clock(self) -> Executor:
        """An executor of the same program on the same weights that times what it does."""
        program, segments = self.lowered.program, list[Any]()
        clock = StepClock(program.steps)
        if (place := self.executor.place) is not None:
            from .gpu_road import executor_on, timed_copies

            segments = timed_copies(self.segments, self.options)
            return executor_on(self.graph, program, segments, self.executor.values, place, clock)
        for native in self.segments:
            toolchain = toolchain_for(self.options)
            timed = NativeSegment(native.segment, toolchain, native.constants, profile=True)
            timed.share_weights(native)
            segments.append(timed)
        return Executor(self.graph, program, segments, self.executor.values, clock)

    @property
    def outdated(self) -> bool:
        """True if a weight was replaced or written to since the last refresh, or in its course."""
        # In this order: a refresh first says that it goes on, and then takes the change as known.
        return self.weights.changed() or self._stale or not self.weights.trackable

    def refresh_if_changed(self) -> None:
        """Compiles again if a weight was replaced or written to."""
        if self.outdated:
            self.measured = {}  # of other zeros
            self.refresh()


def lower_graph(
    graph: Graph,
    weights: LiveWeights,
    options: Options,
    hints: Mapping[str, int],
    sample: tuple[torch.Tensor, ...] | None = None,
    refusal: No | None = None,
    *,
    formats: Mapping[str, str] | None = None,
    measured: Mapping[tuple[str, str], float] | None = None,
    machine: Machine | None = None,
    hosted: bool = False,
    pinned: frozenset[str] | None = frozenset(),
) -> Lowered:
    """Runs analysis and passes; compiles nothing, calibration apart.

    pinned: as in `Context`, None for all values. formats, measured, hosted: as there too; formats
    of the options come first. machine: what the cost model reckons with, calibrated where it is
    not given.
    """
    machine = machine or _machine(options, weights)
    weights = weights.on_cpu()
    make = partial(
        Context,
        facts=_facts(graph, weights.tensors),
        threads=torch.get_num_threads(),
        machine=machine,
        hints=_all_hints(graph, hints),
        force_native=options.force_native,
        weights=options.weights,
        numbers=weights.tensors,
        formats={**(formats or {}), **_wanted_formats(options)},
        measured=measured or {},
        hosted=hosted,
        params=None if pinned is None else weights.tensors,
        pinned=pinned or frozenset(),
        fuel=options.fuel,
    )
    context = make()
    if refusal is not None:
        for node in graph.nodes:
            if node.op.weight_input is not None:
                context.refuse(node.name, refusal)
        return Lowered(graph, graph, lower(graph), context, ())
    check = None if sample is None else Sample(sample, weights.tensors)
    while True:
        final, records = run_passes(graph, context, options, sample=check)
        lowered = Lowered(graph, final, lower(final), context, records)
        lacks = {**context.lacks, **_lacking(lowered.program, options)}
        if lacks.keys() == context.lacks.keys():
            return lowered
        context = make(lacks=lacks)


def _lacking(program: Program, options: Options) -> dict[str, No]:
    """What the target cannot run of a program, by graph value, and why: torch runs it then."""
    if options.target == "cpu":
        return {}
    from ..codegen.gpu.calls import unprintable

    return {name: no for s in program.segments for name, no in unprintable(s).items()}


def _machine(options: Options, weights: LiveWeights) -> Machine:
    """What the choice of formats reckons with: the target's."""
    if options.target != "cpu":
        from ..formats.gpu_cost import gpu_machine

        place = place_of(options.target, weights.tensors)
        return gpu_machine(place.arch, dtype_of(options, weights.tensors))
    return machine_for(options)


def environment_refusal(options: Options, weights: LiveWeights) -> No | None:
    """Why nothing can run natively here: weights that cannot be watched, or no compiler."""
    if not weights.trackable:
        return No(
            "untracked_weights",
            "a parameter was made in inference mode, so changes to it cannot be seen",
        )
    if options.target != "cpu":
        place_of(options.target, weights.tensors)
        return None
    try:
        toolchain_for(options)
    except ToolchainError as error:
        log.warning("%s; everything runs in torch", error)
        return No("no_compiler", f"{error.what}; {error.fix}")
    return None


def _wanted_formats(options: Options) -> dict[str, str]:
    """The option `format`: "block_8x1" for all layers, or "fc1=nm_2_4,fc2=csr" by module path.

    Raises `OptionError` for what is no format.
    """
    found: dict[str, str] = {}
    for part in (options.format or "").split(","):
        layer, _, name = part.strip().rpartition("=")
        if not name:
            continue
        if name not in FORMATS:
            raise OptionError(
                f"option format names {name!r}", why="there is no such format", fix=_known(name)
            )
        found[layer.strip()] = name
    return found


def _known(name: str) -> str:
    return nearest(name, tuple(FORMATS))


def _facts(graph: Graph, params: Mapping[str, torch.Tensor]) -> dict[str, SparsityFacts]:
    """Facts of every floating point weight of at least two dimensions."""
    read = {name for node in graph.nodes for name in node.inputs} & graph.weight_time
    wanted = []
    for name in sorted(read):
        type_ = graph.types[name]
        if isinstance(type_, TensorType) and type_.rank >= 2:
            wanted.append(name)
    nodes = [node for node in graph.nodes if node.name in graph.weight_time]
    values = WeightTimeValues(graph, nodes, params, wanted)
    found = {}
    for name in wanted:
        value = values.take(name)
        if value.numel() and value.is_floating_point() and value.layout == torch.strided:
            found[name] = sparsity_facts(value)
    return found


def program_values(
    program: Program,
    graph: Graph,
    params: Mapping[str, torch.Tensor],
    *,
    in_place: bool = True,
) -> WeightTimeValues:
    """Weight-time values as a program reads them: its segments while packing, the rest for good."""
    packed: list[str] = []
    lasting = [*program.outputs, *(value for value, _ in program.updates)]
    for step in program.steps:
        if isinstance(step, Segment):
            now, later = constants_read(step)
            packed += now
            lasting += [*later, *(name for name, _ in step.inputs)]
        else:
            lasting += step.node.inputs
    lasting += [name for node in program.bind for name in node.inputs]
    return WeightTimeValues(graph, program.setup, params, packed, lasting, in_place=in_place)


def _all_hints(graph: Graph, hints: Mapping[str, int]) -> dict[str, int]:
    """A size for every symbol: the example's, else a usual one inside the range."""
    found = {name: min(128, r.high or 128) for name, r in graph.symbols.items()}
    for node in graph.nodes:
        if isinstance(node.type, TensorType):
            for dim in node.type.shape:
                if not isinstance(dim, int):
                    found |= {s.name: 128 for s in dim.free_symbols if s.name not in found}
    return found | dict(hints)
