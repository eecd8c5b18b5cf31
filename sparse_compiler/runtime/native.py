"""A segment as a callable: its compiled library, its packed weights, its memory.

Everything that depends on shapes is computed once per shape; a call fills two pointer arrays and
enters the library, which runs without Python's lock.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from ..codegen.cpu.build import Toolchain, build, load_library, support_source
from ..codegen.cpu.source import print_segment
from ..codegen.program import LinearCall, Segment
from ..errors import CodegenError, InputError
from ..ir.interpret import bind_shape, dim_values
from ..ir.types import evaluate

_POINTERS = ctypes.POINTER(ctypes.c_void_p)
_ALIGN = 64
_SHAPES_KEPT = 64

# OpenMP's worker threads do not survive a fork: a child that asked for them would wait for ever.
_in_forked_child = False


def _after_fork() -> None:
    global _in_forked_child
    _in_forked_child = True


os.register_at_fork(after_in_child=_after_fork)


@dataclass(frozen=True)
class _Packed:
    """Pointers into `stream`, one for each weight, in the order of the segment."""

    pointers: ctypes.Array[ctypes.c_void_p]
    stream: torch.Tensor


@dataclass(frozen=True)
class _Bound:
    """What one set of input shapes determines."""

    samples: int
    unit: int
    outputs: tuple[tuple[int, ...], ...]
    arena_floats: dict[int, int]
    empty: bool


class Packer:
    """The packing functions of one toolchain, found by format name."""

    def __init__(self, toolchain: Toolchain) -> None:
        self.width = toolchain.width
        self.library = load_library(build(support_source(), toolchain))

    def pack(self, format_: str, weight: torch.Tensor, activations: int) -> torch.Tensor:
        """The blob of an fp32 [M, K] weight, as uint8, its tiles right for that many columns.

        Raises `CodegenError` where the packer refuses it.
        """
        matrix = weight.detach().contiguous()
        rows, columns = matrix.shape
        m, k, n = ctypes.c_int64(rows), ctypes.c_int64(columns), ctypes.c_int64(activations)
        nnz = ctypes.c_int64(int(torch.count_nonzero(matrix)))
        tiles = [ctypes.c_int() for _ in range(3)]
        refs = [ctypes.byref(t) for t in tiles]
        self.library[f"sc_{format_}_default_tiles"](m, k, nnz, n, self.width, *refs)
        data = ctypes.c_void_p(matrix.data_ptr())
        bytes_of = self.library[f"sc_{format_}_packed_bytes"]
        bytes_of.restype = ctypes.c_int64
        size = bytes_of(data, m, k, k, *tiles)
        blob = aligned_bytes(size)
        pack = self.library[f"sc_{format_}_pack"]
        if size == 0 or not pack(data, m, k, k, *tiles, ctypes.c_void_p(blob.data_ptr())):
            raise CodegenError(f"the {format_} packer refuses a weight of {rows} x {columns}")
        return blob


@lru_cache(maxsize=8)
def packer_for(toolchain: Toolchain) -> Packer:
    """The packers, compiled once per toolchain."""
    return Packer(toolchain)


def aligned_bytes(size: int) -> torch.Tensor:
    """`size` uninitialised bytes that start at a cache line."""
    memory = torch.empty(size + _ALIGN, dtype=torch.uint8)
    skip = -memory.data_ptr() % _ALIGN
    return memory[skip : skip + size]


class NativeSegment:
    """Runs one segment. `inputs` and `outputs` name graph values, in calling order."""

    def __init__(self, segment: Segment, toolchain: Toolchain) -> None:
        self.segment = segment
        self.inputs = tuple(name for name, _ in segment.inputs)
        self.outputs = tuple(name for name, _ in segment.outputs)
        self.library_path = build(print_segment(segment), toolchain)
        self._packer = packer_for(toolchain)
        self._library = load_library(self.library_path)
        self._size = self._library.sc_arena_floats
        self._size.restype = ctypes.c_int64
        self._size.argtypes = [_POINTERS, ctypes.c_int64, ctypes.c_int64, ctypes.c_int]
        self._columns = self._library.sc_chunk_columns
        self._columns.restype = ctypes.c_int64
        self._columns.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_int]
        self._run = self._library.sc_run
        self._run.restype = None
        self._run.argtypes = [
            _POINTERS,
            _POINTERS,
            _POINTERS,
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_int,
        ]
        self._packed: _Packed | None = None
        self._bound: dict[tuple[Any, ...], _Bound] = {}
        self._arenas: list[torch.Tensor] = []

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed weights and vectors."""
        return 0 if self._packed is None else self._packed.stream.numel()

    def load_weights(self, values: Mapping[str, torch.Tensor], hints: Mapping[str, int]) -> None:
        """Packs this segment's weights into one contiguous stream, in the order of their use.

        hints: expected sizes of symbols, for the choice of tiles.
        """
        segment = self.segment
        sizes = (evaluate(segment.samples, hints), evaluate(segment.unit, hints))
        columns = self._columns(*(max(1, size) for size in sizes), torch.get_num_threads())
        blobs = []
        for name, type_ in self.segment.weights:
            value = values[name].detach()
            if type_.rank == 2 and name in self._packed_names():
                blobs.append(self._packer.pack(type_.format, value, columns))
            else:
                blobs.append(value.to(torch.float32).contiguous().reshape(-1).view(torch.uint8))
        starts, total = [], 0
        for blob in blobs:
            starts.append(total)
            total += -(-blob.numel() // _ALIGN) * _ALIGN
        stream = aligned_bytes(total)
        for start, blob in zip(starts, blobs, strict=True):
            stream[start : start + blob.numel()] = blob
        base = stream.data_ptr()
        pointers = (ctypes.c_void_p * len(blobs))(*(base + start for start in starts))
        self._packed = _Packed(pointers, stream)
        self._bound.clear()

    def _packed_names(self) -> set[str]:
        calls = self.segment.calls
        numbers = {call.weight for call in calls if isinstance(call, LinearCall)}
        return {self.segment.weights[i][0] for i in numbers}

    def run(
        self, tensors: Sequence[torch.Tensor], symbols: Mapping[str, int] | None = None
    ) -> list[torch.Tensor]:
        """Results for inputs in the order of `inputs`; new row-major tensors each time.

        symbols: values that the inputs' shapes do not determine.
        """
        ready = [t if t.is_contiguous() else t.contiguous() for t in tensors]
        key = (*(t.shape for t in ready), *(symbols.values() if symbols else ()))
        bound = self._bound.get(key) or self._bind(key, [t.shape for t in ready], symbols or {})
        results = [torch.empty(shape) for shape in bound.outputs]
        if bound.empty:
            return results
        packed = self._packed  # held here: another thread may load new weights meanwhile
        if packed is None:
            raise CodegenError(f"segment %{self.segment.name} runs before it has weights")
        threads = 1 if _in_forked_child else torch.get_num_threads()
        floats = bound.arena_floats.get(threads)
        if floats is None:
            floats = int(self._size(packed.pointers, bound.samples, bound.unit, threads))
            bound.arena_floats[threads] = floats
        arena = self._take_arena(floats)
        self._run(
            (ctypes.c_void_p * len(ready))(*(t.data_ptr() for t in ready)),
            (ctypes.c_void_p * len(results))(*(t.data_ptr() for t in results)),
            packed.pointers,
            arena.data_ptr(),
            bound.samples,
            bound.unit,
            threads,
        )
        self._arenas.append(arena)
        return results

    def _take_arena(self, floats: int) -> torch.Tensor:
        """Memory that no other call is using; calls from several threads each get their own."""
        try:
            while (arena := self._arenas.pop()).numel() < floats * 4:
                pass
            return arena
        except IndexError:  # none left; asking first would race with other threads
            return aligned_bytes(floats * 4)

    def _bind(
        self, key: tuple[Any, ...], shapes: Sequence[torch.Size], known: Mapping[str, int]
    ) -> _Bound:
        symbols = dict(known)
        for (name, type_), shape in zip(self.segment.inputs, shapes, strict=True):
            problem = bind_shape(type_, shape, symbols)
            if problem:
                raise InputError(f"%{name} has shape {tuple(shape)}", why=problem)
        outputs = tuple(dim_values(t.shape, symbols) for _, t in self.segment.outputs)
        samples = evaluate(self.segment.samples, symbols)
        unit = evaluate(self.segment.unit, symbols)
        if len(self._bound) >= _SHAPES_KEPT:
            self._bound.pop(next(iter(self._bound)), None)
        bound = _Bound(samples, unit, outputs, {}, samples == 0 or unit == 0)
        self._bound[key] = bound
        return bound
