"""A segment as a callable: its compiled library, its packed weights, its memory.

Everything that depends on shapes is computed once per shape; a call fills two pointer arrays and
enters the library, which runs without Python's lock.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from ..codegen.cpu.arguments import ld_of_constant, numbers_of
from ..codegen.cpu.build import Toolchain, build, interruptible, load_library
from ..codegen.cpu.source import print_segment
from ..codegen.operands import ld_of
from ..codegen.plan import Arena, Sharing, arrange, lines, share
from ..codegen.program import Segment
from ..errors import CodegenError, InputError, UnsupportedError
from ..ir.interpret import bind_shape, dim_values
from ..ir.types import evaluate, torch_dtype
from .clock import SegmentClock
from .entry import Frame, Frames, Maker, maker_of
from .packing import (
    additive_mask,
    in_planes,
    packer_for,
)
from .stream import HeldWeights, hold_weights, weight_for
from .weights import WeightTimeValues

_POINTERS = ctypes.POINTER(ctypes.c_void_p)
_NUMBERS = ctypes.POINTER(ctypes.c_int64)
_SHAPES_KEPT = 64
_INT32 = 2**31 - 1

Constants = Callable[[Mapping[str, int]], Mapping[str, torch.Tensor]]
"""Values that depend on parameters and sizes, for the sizes of symbols."""

# OpenMP's worker threads do not survive a fork: a child that asked for them would wait for ever.
_in_forked_child = False


def _after_fork() -> None:
    global _in_forked_child
    _in_forked_child = True


os.register_at_fork(after_in_child=_after_fork)


@dataclass(frozen=True)
class _Ready:
    """A segment bound to sizes and a number of threads. keep: tensors behind the pointers."""

    numbers: Any
    pointers: Any
    floats: int
    keep: tuple[torch.Tensor, ...]
    sharing: Sharing
    arena: Arena


@dataclass
class Bound:
    """What one set of input shapes determines; makers: of the results; ready: per thread count."""

    symbols: dict[str, int]
    makers: tuple[Maker, ...]
    empty: bool
    ready: dict[int, _Ready] = field(default_factory=dict)


class NativeSegment:
    """Runs one segment. `inputs` and `outputs` name graph values, in calling order.

    constants: gives the values that depend on sizes too.
    """

    def __init__(
        self,
        segment: Segment,
        toolchain: Toolchain,
        constants: Constants | None = None,
        *,
        profile: bool = False,
    ) -> None:
        self.segment = segment
        self.constants = constants
        self.inputs = tuple(name for name, _ in segment.inputs)
        self.outputs = tuple(name for name, _ in segment.outputs)
        # Two compilers at a time, where neither result is cached.
        with ThreadPoolExecutor(1) as pool, interruptible():
            packer = pool.submit(packer_for, toolchain)
            self.library_path = build(print_segment(segment, profile=profile), toolchain)
            self._packer = packer.result()
        self._library = load_library(self.library_path)
        self._scratch = self._library.sc_scratch_floats
        self._scratch.restype = ctypes.c_int64
        self._scratch.argtypes = [_POINTERS, _NUMBERS]
        self._run = self._library.sc_run
        self._run.restype = ctypes.c_int
        self._run.argtypes = [ctypes.c_void_p] * 7  # the fastest to convert, from integers
        self._expressions = numbers_of(segment)
        self._weights: HeldWeights | None = None
        self._bound: dict[tuple[Any, ...], Bound] = {}
        self._frames = Frames(len(segment.inputs), len(segment.outputs), len(segment.checked))
        self.clock = SegmentClock(len(segment.calls)) if profile else None

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed weights and vectors."""
        if self._weights is None:
            return 0
        return sum(held.bytes for held in self._weights.held.values())

    def weight_work(self, index: int) -> tuple[float, int]:
        """(share of non-zeros, bytes as kernels read them) of a constant."""
        weights = self._weights
        if weights is None or index not in weights.held:
            return 1.0, 0
        return weights.held[index].density, weights.held[index].bytes

    # --- weights ----------------------------------------------------------------------------------

    def load_weights(self, values: WeightTimeValues, hints: Mapping[str, int]) -> None:
        """Packs this segment's weights into one contiguous stream, in the order of their use.

        values: read once for each of `constants_read`. hints: expected sizes of symbols, for the
        choice of tiles.
        """
        columns = expected_columns(self.segment, hints)
        self._weights = hold_weights(self.segment, values, columns, self._packer, hints)
        self._bound.clear()

    def share_weights(self, other: NativeSegment) -> None:
        """Takes the packed weights of another one for the same segment."""
        self._weights = other._weights
        self._bound.clear()

    # --- calls ------------------------------------------------------------------------------------

    def run(
        self, tensors: Sequence[torch.Tensor], symbols: Mapping[str, int] | None = None
    ) -> list[torch.Tensor]:
        """Results for inputs in the order of `inputs`; new row-major tensors each time.

        symbols: values that the inputs' shapes do not determine. Raises `InputError` on shapes
        that do not fit, and on an index out of the range of what it indexes.
        """
        return self.call(self._bound_for(tensors, symbols or {}), tensors)

    def call(self, bound: Bound, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """As `run`, for inputs known to have the shapes that `bound` is for."""
        results = [make() for make in bound.makers]
        self._fill(bound, tensors, results)
        return results

    def run_into(self, tensors: Sequence[torch.Tensor], results: Sequence[torch.Tensor]) -> None:
        """As `run`, into memory of the caller: row-major, and of the results' shapes."""
        self._fill(self._bound_for(tensors, {}), tensors, results)

    def _bound_for(self, tensors: Sequence[torch.Tensor], symbols: Mapping[str, int]) -> Bound:
        shapes = [t.shape for t in tensors]
        key = (*shapes, *symbols.values())
        return self._bound.get(key) or self._bind(key, shapes, symbols)

    def _fill(
        self, bound: Bound, tensors: Sequence[torch.Tensor], results: Sequence[torch.Tensor]
    ) -> None:
        if bound.empty:
            return
        threads = 1 if _in_forked_child else torch.get_num_threads()
        tensors = [t if t.is_contiguous() else t.contiguous() for t in tensors]
        while threads:  # OpenMP may give fewer than it was asked for; then nothing was done
            threads = self._enter(bound, tensors, results, threads)

    def _enter(
        self,
        bound: Bound,
        tensors: Sequence[torch.Tensor],
        results: Sequence[torch.Tensor],
        threads: int,
    ) -> int:
        """0, or the number of threads that there were, where it is not `threads`."""
        clock, began = self.clock, 0.0
        counters = None
        if clock:
            began, counters = time.perf_counter(), clock.counters()
        ready = bound.ready.get(threads) or self._prepare(bound, threads)
        frame = self._frames.take(ready.floats, tensors, results)
        fewer: int = self._run(
            frame.inputs,
            frame.outputs,
            ready.pointers,
            ready.numbers,
            frame.memory,
            frame.errors,
            counters,
        )
        if clock and not fewer:
            clock.add(bound.symbols, threads, counters, time.perf_counter() - began)
        if self.segment.checked:
            self._check(frame)
        self._frames.give_back(frame)
        return fewer

    def _check(self, frame: Frame) -> None:
        """Raises `InputError` where a kernel found an index out of range."""
        for name, place in zip(self.segment.checked, frame.numbers[frame.pointers :], strict=True):
            if place >= 0:
                frame.forget_errors()
                self._frames.give_back(frame)
                raise InputError(
                    "an index is out of range",
                    node=f"%{name}",
                    why=f"index number {place} lies outside of what it indexes",
                    fix="check the ids, and the size of the table",
                )

    # --- sizes ------------------------------------------------------------------------------------

    def _bind(
        self, key: tuple[Any, ...], shapes: Sequence[torch.Size], known: Mapping[str, int]
    ) -> Bound:
        symbols = dict(known)
        for (name, type_), shape in zip(self.segment.inputs, shapes, strict=True):
            problem = bind_shape(type_, shape, symbols)
            if problem:
                raise InputError(f"%{name} has shape {tuple(shape)}", why=problem)
        if len(self._bound) >= _SHAPES_KEPT:
            self._bound.pop(next(iter(self._bound)), None)
        bound = self._bound[key] = self.bind(symbols)
        return bound

    def bind(self, symbols: Mapping[str, int]) -> Bound:
        """What follows from the sizes of symbols. Raises `InputError` on sizes that cannot be."""
        shapes = [dim_values(type_.shape, symbols) for _, type_ in self.segment.outputs]
        dtypes = [torch_dtype(type_.dtype) for _, type_ in self.segment.outputs]
        makers = tuple(map(maker_of, shapes, dtypes))
        return Bound(dict(symbols), makers, self._is_empty(symbols, shapes))

    def _is_empty(self, symbols: Mapping[str, int], shapes: Sequence[tuple[int, ...]]) -> bool:
        """True where nothing is to be computed."""
        sizes = [evaluate(self.segment.samples, symbols)]
        sizes += [evaluate(space.columns, symbols) for space in self.segment.spaces]
        if min(sizes) > 0:
            return False
        if all(0 in shape for shape in shapes):
            return True
        raise InputError(
            "an input has a dimension of size 0",
            why="the model computes something of it that is not empty",
            fix="call the model itself for such inputs",
        )

    def _prepare(self, bound: Bound, threads: int) -> _Ready:
        """Sharing, memory and constants for these sizes and threads."""
        weights = self._weights  # held here: another thread may load new weights meanwhile
        if weights is None:
            raise CodegenError(f"segment %{self.segment.name} runs before it has weights")
        segment, symbols = self.segment, bound.symbols
        columns = [evaluate(space.columns, symbols) for space in segment.spaces]
        sharing = share(segment, evaluate(segment.samples, symbols), columns, threads)
        if max(sharing.ld, default=0) > _INT32:
            raise UnsupportedError(
                f"a plane of {max(sharing.ld)} numbers is too long",
                why="kernels count inside a plane with 32 bits",
                fix="call with fewer samples or smaller images",
            )
        known = dict(symbols) | {str(ld_of(i)): ld for i, ld in enumerate(sharing.ld)}
        pointers, keep = self._pointers(weights, sharing, known)
        floats = [self._floats(i, sharing, known) for i in range(len(segment.buffers))]
        arena = arrange(segment, sharing, floats)
        values = [evaluate(e, known) for e in self._expressions]
        numbers = [sharing.samples, sharing.per, int(sharing.alone), 0, arena.local_floats, threads]
        for space in zip(columns, sharing.part, sharing.ld, sharing.rest, strict=True):
            numbers += space
        for local, offset in zip(arena.local, arena.offsets, strict=True):
            numbers += [int(local), offset]
        bound_numbers = (ctypes.c_int64 * (len(numbers) + len(values)))(*numbers, *values)
        scratch = int(self._scratch(pointers, bound_numbers))
        bound_numbers[3] = scratch
        total = threads * (scratch + arena.local_floats) + arena.shared_floats
        ready = _Ready(bound_numbers, pointers, total, keep, sharing, arena)
        bound.ready[threads] = ready
        return ready

    def _floats(self, index: int, sharing: Sharing, known: Mapping[str, int]) -> int:
        """Size of a buffer for a chunk."""
        buffer = self.segment.buffers[index]
        size = evaluate(buffer.size, known)
        if buffer.space is not None:
            return size * sharing.ld[buffer.space]
        samples = 1 if buffer.shared else sharing.per
        bytes_ = samples * size * torch_dtype(buffer.dtype).itemsize
        return lines(-(-bytes_ // 4))

    def _pointers(
        self, weights: HeldWeights, sharing: Sharing, known: dict[str, int]
    ) -> tuple[Any, tuple[torch.Tensor, ...]]:
        """A pointer for each constant; enters the floats between planes into `known`."""
        columns = columns_of_weights(self.segment, sharing)
        keep: list[torch.Tensor] = []
        found: list[int] = []
        values = weights.values
        if self.constants is not None and any(w.per_shape for w in self.segment.weights):
            with torch.device("cpu"):  # whatever the default device is at the moment
                values = self.constants(known)
        for i, entry in enumerate(self.segment.weights):
            if i in weights.held:
                held = weight_for(weights, self.segment, i, columns.get(i, 1), self._packer)
                keep += (held.value, *held.parts)
                found.append(held.value.data_ptr())
                continue
            value = values[entry.name]
            if entry.kind == "planes":
                shape = dim_values(entry.type.shape, known)
                repeats = 1 if entry.carried else sharing.per
                value, ld = in_planes(value.expand(shape), entry.type, repeats)
                known[str(ld_of_constant(i))] = ld
            elif entry.kind == "mask":
                value = additive_mask(value)
            else:
                value = value.detach().contiguous()
            keep.append(value)
            found.append(value.data_ptr())
        return (ctypes.c_void_p * len(found))(*found), tuple(keep)


def expected_columns(segment: Segment, hints: Mapping[str, int]) -> dict[int, int]:
    """Columns of a chunk that each packed weight is applied to, with the hinted sizes."""
    columns = [max(1, evaluate(s.columns, hints)) for s in segment.spaces]
    samples = max(1, evaluate(segment.samples, hints))
    sharing = share(segment, samples, columns, torch.get_num_threads())
    return columns_of_weights(segment, sharing)


def columns_of_weights(segment: Segment, sharing: Sharing) -> dict[int, int]:
    """The most columns that each packed weight is applied to at a time; 1 outside of planes."""
    found: dict[int, int] = {}
    for call in segment.calls:
        weight = call.weight
        if weight is not None and call.space is not None:
            space = call.space
            whole = min(sharing.per, max(1, sharing.samples)) * sharing.columns[space]
            here = sharing.part[space] + sharing.rest[space] or whole
            found[weight] = max(found.get(weight, 1), here)
    return found
