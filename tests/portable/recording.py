"""Calls of native segments as files: all that a generated unit reads, and what it should give."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sparse_compiler.codegen.cpu.build import Toolchain
from sparse_compiler.compiled import Compiled
from sparse_compiler.runtime.native import NativeSegment
from sparse_compiler.runtime.pipeline import program_values


def native_for(compiled: Compiled, toolchain: Toolchain) -> NativeSegment:
    """The one segment of a compiled model, for another toolchain. Its weights are all packed, none
    referred to where the module holds it."""
    (segment,) = compiled.pipeline.segments
    pipeline = compiled.pipeline
    values = program_values(pipeline.lowered.program, pipeline.graph, pipeline.weights.tensors)
    values.parts = lambda name: None  # type: ignore[method-assign]
    native = NativeSegment(segment.segment, toolchain, segment.constants)
    native.load_weights(values, pipeline.lowered.context.hints)
    return native


def record(
    native: NativeSegment,
    inputs: Sequence[Tensor],
    expected: Sequence[Tensor],
    threads: int,
    path: Path,
) -> None:
    """Writes the call of a segment with float32 results; replay.cpp reads it."""
    tensors = [t.contiguous() for t in inputs]
    bound = native._bind((), [t.shape for t in tensors], {})
    ready = native._prepare(bound, threads)
    numbers = list(ready.numbers)
    parts = [_numbers([len(numbers), *numbers, ready.floats, len(native.segment.checked)])]
    weights = native._weights
    assert weights is not None
    entries = range(len(native.segment.weights))
    others = iter(ready.keep[len(ready.keep) - sum(i not in weights.held for i in entries) :])
    blobs = [weights.held[i].value if i in weights.held else next(others) for i in entries]
    for group in (tensors, blobs, expected):
        parts.append(_numbers([len(group)]))
        for blob in map(_bytes, group):
            parts += [_numbers([len(blob)]), blob]
    path.write_bytes(b"".join(parts))


def _numbers(values: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
