"""A segment as a callable: its compiled library, its packed weights, its memory.

Everything that depends on shapes is computed once per shape; a call fills two pointer arrays and
enters the library, which runs without Python's lock.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..codegen.cpu.arguments import ld_of_constant, numbers_of
from ..codegen.cpu.build import Toolchain, build, load_library
from ..codegen.cpu.source import print_segment
from ..codegen.plan import Arena, Sharing, arrange, share
from ..codegen.operands import ld_of
from ..codegen.program import Segment, WeightEntry
from ..errors import CodegenError, InputError, UnsupportedError
from ..ir.interpret import bind_shape, dim_values
from ..ir.types import evaluate, torch_dtype
from .packing import (
    additive_mask,
    aligned_bytes,
    in_planes,
    lines,
    packer_for,
    raw_bytes,
    stream_of,
)

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
class _Bound:
    """What one set of input shapes determines; ready: per number of threads."""

    symbols: dict[str, int]
    outputs: tuple[tuple[tuple[int, ...], torch.dtype], ...]
    empty: bool
    ready: dict[int, _Ready] = field(default_factory=dict)


@dataclass(frozen=True)
class _Weights:
    """The weights of a segment: those in `stream` by number, all by name for what sizes change."""

    stream: torch.Tensor
    starts: dict[int, int]
    values: Mapping[str, torch.Tensor]


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
        self.library_path = build(print_segment(segment, profile=profile), toolchain)
        self._packer = packer_for(toolchain)
        self._library = load_library(self.library_path)
        self._scratch = self._library.sc_scratch_floats
        self._scratch.restype = ctypes.c_int64
        self._scratch.argtypes = [_POINTERS, _NUMBERS]
        self._run = self._library.sc_run
        self._run.restype = ctypes.c_int
        self._run.argtypes = [
            _POINTERS,
            _POINTERS,
            _POINTERS,
            _NUMBERS,
            ctypes.c_void_p,
            _NUMBERS,
            ctypes.c_void_p,
        ]
        self._expressions = numbers_of(segment)
        self._weights: _Weights | None = None
        self._bound: dict[tuple[Any, ...], _Bound] = {}
        self._arenas: list[torch.Tensor] = []
        self.clock = (ctypes.c_double * (len(segment.calls) + 1))() if profile else None
        """When the first thread passed each call, in seconds; last, when the chunk began."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed weights and vectors."""
        return 0 if self._weights is None else self._weights.stream.numel()

    # --- weights ----------------------------------------------------------------------------------

    def load_weights(self, values: Mapping[str, torch.Tensor], hints: Mapping[str, int]) -> None:
        """Packs this segment's weights into one contiguous stream, in the order of their use.

        hints: expected sizes of symbols, for the choice of tiles.
        """
        columns = self._expected_columns(hints)
        numbers, blobs = [], []
        for i, entry in enumerate(self.segment.weights):
            if entry.per_shape:
                continue
            numbers.append(i)
            blobs.append(self._blob(entry, values[entry.name], columns.get(i, 1)))
        stream, starts = stream_of(blobs)
        self._weights = _Weights(stream, dict(zip(numbers, starts, strict=True)), values)
        self._bound.clear()

    def _blob(self, entry: WeightEntry, value: torch.Tensor, columns: int) -> torch.Tensor:
        if entry.kind == "packed":
            format_ = entry.type.format
            return self._packer.pack(format_, value, columns, entry.groups, entry.taps)
        return raw_bytes(value)

    def _expected_columns(self, hints: Mapping[str, int]) -> dict[int, int]:
        """Columns of a chunk that each packed weight is applied to, with the hinted sizes."""
        columns = [max(1, evaluate(s.columns, hints)) for s in self.segment.spaces]
        samples = max(1, evaluate(self.segment.samples, hints))
        sharing = share(self.segment, samples, columns, torch.get_num_threads())
        found = {}
        for call in self.segment.calls:
            weight = call.weight
            if weight is not None and call.space is not None:
                part = sharing.part[call.space]
                found[weight] = part or sharing.per * columns[call.space]
        return found

    # --- calls ------------------------------------------------------------------------------------

    def run(
        self, tensors: Sequence[torch.Tensor], symbols: Mapping[str, int] | None = None
    ) -> list[torch.Tensor]:
        """Results for inputs in the order of `inputs`; new row-major tensors each time.

        symbols: values that the inputs' shapes do not determine. Raises `InputError` on shapes
        that do not fit, and on an index out of the range of what it indexes.
        """
        ready = [t if t.is_contiguous() else t.contiguous() for t in tensors]
        key = (*(t.shape for t in ready), *(symbols.values() if symbols else ()))
        bound = self._bound.get(key) or self._bind(key, [t.shape for t in ready], symbols or {})
        results = [torch.empty(shape, dtype=dtype) for shape, dtype in bound.outputs]
        if bound.empty:
            return results
        self._enter(bound, ready, results, 1 if _in_forked_child else torch.get_num_threads())
        return results

    def _enter(
        self,
        bound: _Bound,
        tensors: Sequence[torch.Tensor],
        results: Sequence[torch.Tensor],
        threads: int,
    ) -> None:
        ready = bound.ready.get(threads) or self._prepare(bound, threads)
        arena = self._take_arena(ready.floats)
        errors = self.segment.checked
        found = (ctypes.c_int64 * max(1, len(errors)))(*(-1 for _ in errors))
        fewer = self._run(
            (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors)),
            (ctypes.c_void_p * len(results))(*(t.data_ptr() for t in results)),
            ready.pointers,
            ready.numbers,
            arena.data_ptr(),
            found,
            self.clock,
        )
        self._arenas.append(arena)
        if fewer:  # OpenMP gave fewer threads than it was asked for, and nothing was done
            self._enter(bound, tensors, results, fewer)
        for name, place in zip(errors, found, strict=False):
            if place >= 0:
                raise InputError(
                    "an index is out of range",
                    node=f"%{name}",
                    why=f"index number {place} lies outside of what it indexes",
                    fix="check the ids, and the size of the table",
                )

    def _take_arena(self, floats: int) -> torch.Tensor:
        """Memory that no other call is using; calls from several threads each get their own."""
        try:
            while (arena := self._arenas.pop()).numel() < floats * 4:
                pass
            return arena
        except IndexError:  # none left; asking first would race with other threads
            return aligned_bytes(floats * 4)

    # --- sizes ------------------------------------------------------------------------------------

    def _bind(
        self, key: tuple[Any, ...], shapes: Sequence[torch.Size], known: Mapping[str, int]
    ) -> _Bound:
        symbols = dict(known)
        for (name, type_), shape in zip(self.segment.inputs, shapes, strict=True):
            problem = bind_shape(type_, shape, symbols)
            if problem:
                raise InputError(f"%{name} has shape {tuple(shape)}", why=problem)
        outputs = tuple(
            (dim_values(t.shape, symbols), torch_dtype(t.dtype)) for _, t in self.segment.outputs
        )
        if len(self._bound) >= _SHAPES_KEPT:
            self._bound.pop(next(iter(self._bound)), None)
        bound = _Bound(symbols, outputs, self._is_empty(symbols, outputs))
        self._bound[key] = bound
        return bound

    def _is_empty(self, symbols: Mapping[str, int], outputs: Sequence[Any]) -> bool:
        """True where nothing is to be computed. Raises `InputError` on sizes that cannot be."""
        sizes = [evaluate(self.segment.samples, symbols)]
        sizes += [evaluate(space.columns, symbols) for space in self.segment.spaces]
        if min(sizes) > 0:
            return False
        if all(0 in shape for shape, _ in outputs):
            return True
        raise InputError(
            "an input has a dimension of size 0",
            why="the model computes something of it that is not empty",
            fix="call the model itself for such inputs",
        )

    def _prepare(self, bound: _Bound, threads: int) -> _Ready:
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
        for size, part, ld in zip(columns, sharing.part, sharing.ld, strict=True):
            numbers += [size, part, ld]
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
        self, weights: _Weights, sharing: Sharing, known: dict[str, int]
    ) -> tuple[Any, tuple[torch.Tensor, ...]]:
        """A pointer for each constant; enters the floats between planes into `known`."""
        base = weights.stream.data_ptr()
        keep = [weights.stream]
        found: list[int] = []
        values = weights.values
        if self.constants is not None and any(w.per_shape for w in self.segment.weights):
            values = self.constants(known)
        for i, entry in enumerate(self.segment.weights):
            if i in weights.starts:
                found.append(base + weights.starts[i])
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
