"""The code of a program for a GPU that is elsewhere: every kernel of its segments, compiled.

The segments are bound to the sizes of the example, as they would be there: triton specialises a
kernel on sizes, so those of other inputs are compiled where they are met.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..codegen.gpu.prebuilt import Prebuilt, prebuild
from ..formats.gpu_arch import Arch
from ..ir.graph import Graph
from ..options import Options
from .gpu import GpuSegment
from .gpu_place import Place, dtype_of
from .gpu_road import gpu_segments
from .pipeline import Lowered, lower_graph, program_values
from .weights import LiveWeights


@dataclass(frozen=True)
class KernelCode:
    """A kernel of segment number `segment`; calls: the graph values that it computes or helps to
    compute."""

    segment: int
    kernel: str
    calls: tuple[str, ...]
    warps: int
    compiled: Prebuilt

    def json(self) -> dict[str, Any]:
        """As the manifest of a saved model has it; binary: the key under which triton looks."""
        return {
            "segment": self.segment,
            "kernel": self.kernel,
            "calls": list(self.calls),
            "warps": self.warps,
            "binary": self.compiled.key,
        }


@dataclass(frozen=True)
class OfflineCode:
    """What a model is for a GPU elsewhere. dtype: of products; sources: of each segment's kernels
    in triton."""

    dtype: str
    lowered: Lowered
    kernels: tuple[KernelCode, ...]
    sources: tuple[str, ...]


def code_for(
    arch: Arch,
    graph: Graph,
    params: Mapping[str, torch.Tensor],
    options: Options,
    hints: Mapping[str, int],
) -> OfflineCode:
    """Lowers the model for that GPU and compiles its kernels. options: with that target.

    Raises `UnsupportedError` for fp64, `OptionError` without triton, `CodegenError` where triton
    refuses a kernel.
    """
    lowered, dtype, segments = segments_for(arch, graph, params, options, hints)
    sizes = lowered.context.hints
    found = [code for i, s in enumerate(segments) for code in _kernels(i, s, sizes, arch)]
    return OfflineCode(dtype, lowered, tuple(found), tuple(s.module.text for s in segments))


def segments_for(
    arch: Arch,
    graph: Graph,
    params: Mapping[str, torch.Tensor],
    options: Options,
    hints: Mapping[str, int],
) -> tuple[Lowered, str, list[GpuSegment]]:
    """The program of a model for that GPU, the type of its products and its segments, unbound."""
    live = LiveWeights(dict(params))
    dtype = dtype_of(options, params)
    lowered = lower_graph(graph, live, options, hints)
    values = program_values(lowered.program, lowered.source, live.on_cpu().tensors)
    place = Place(torch.device("cpu"), arch, runs=False)
    segments = gpu_segments(lowered.graph, lowered.program, values, place, dtype, options)
    return lowered, dtype, segments


def _kernels(
    number: int, segment: GpuSegment, sizes: Mapping[str, int], arch: Arch
) -> Iterator[KernelCode]:
    labels = _labels(segment.module.launches)
    for launch, kernel in segment.offline(sizes):
        compiled = prebuild(kernel, arch)
        yield KernelCode(number, launch.kernel, labels[launch.kernel], launch.warps, compiled)


def _labels(launches: Sequence[Any]) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for launch in launches:
        found.setdefault(getattr(launch, "kernel", ""), {})[launch.label] = None
    return {kernel: tuple(labels) for kernel, labels in found.items()}


__all__ = ["KernelCode", "OfflineCode", "code_for", "segments_for"]
