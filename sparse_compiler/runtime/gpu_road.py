"""What target "cuda" does otherwise: weights are read and packed on the host, run on the device."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch

from ..codegen.program import Program
from ..errors import UnsupportedError
from ..ir.graph import Graph
from ..options import Options
from .clock import StepClock
from .constants import BoundConstants
from .executor import Executor
from .gpu import GpuSegment, gpu_device
from .weights import LiveWeights, WeightTimeValues


def dtype_of(options: Options, params: Mapping[str, torch.Tensor]) -> str:
    """The dtype of products: the option `weights`; of fp32, tf32 where torch was told that it may
    (`torch.set_float32_matmul_precision`). Raises `UnsupportedError` for a model of fp64."""
    if any(p.dtype == torch.float64 and p.ndim >= 2 for p in params.values()):
        raise UnsupportedError(
            "a model of fp64 cannot be compiled for a GPU",
            why="its kernels compute in fp32, tf32, fp16 and bf16",
            fix="model.float()",
        )
    exact = torch.get_float32_matmul_precision() == "highest"
    return options.weights if options.weights != "fp32" or exact else "tf32"


def on_cpu(weights: LiveWeights) -> LiveWeights:
    """The same weights as passes and packers read them."""
    if all(t.is_cpu for t in weights.tensors.values()):
        return weights
    found = copy.copy(weights)
    found.tensors = {name: t.detach().cpu() for name, t in weights.tensors.items()}
    return found


def gpu_segments(
    graph: Graph, program: Program, values: WeightTimeValues, dtype: str
) -> list[GpuSegment]:
    """The segments of a program with their weights on the device."""
    device = gpu_device()
    constants = BoundConstants(graph, program.bind, values.kept)
    segments = [GpuSegment(s, device, constants, dtype) for s in program.segments]
    for segment in segments:
        segment.load_weights(values)
    return segments


def executor_on(
    graph: Graph,
    program: Program,
    segments: Sequence[GpuSegment],
    values: Mapping[str, torch.Tensor],
    clock: StepClock | None,
) -> Executor:
    """Runs a program whose inputs lie on the device."""
    device = gpu_device()
    moved = {name: value.to(device) for name, value in values.items()}
    return Executor(graph, program, segments, moved, clock, device.type)
