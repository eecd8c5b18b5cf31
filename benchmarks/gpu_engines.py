"""The engines of gpu.py: what each makes of a module with zeros, and how a call is timed."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn

import sparse_compiler as sc
from sparse_compiler.bench.engines.torch_sparse import compress
from sparse_compiler.codegen.gpu.semi_structured import DTYPES
from sparse_compiler.formats.gpu_arch import Arch
from sparse_compiler.formats.semi_structured import limit

Call = Callable[[], torch.Tensor]
FLUSH_BYTES = 512 << 20
"""Written between timed calls, so that no weight waits in the last cache: twice the largest."""


class NotApplicableError(Exception):
    """An engine that cannot run a case; the message says why."""


@dataclass(frozen=True)
class Setup:
    """What an engine is given: a module in eval mode and its inputs, on the device; the block size
    of the zeros, 0 where they lie anywhere."""

    module: nn.Module
    inputs: tuple[torch.Tensor, ...]
    arch: Arch
    block: int = 0
    two_of_four: bool = False


def eager(setup: Setup) -> Call:
    """torch's dense kernels, cuBLAS and cuDNN."""
    return lambda: setup.module(*setup.inputs)


def inductor(setup: Setup) -> Call:
    """torch.compile(mode="max-autotune"), dense, in CUDA graphs."""
    torch.compiler.reset()  # past 8 layers of one class dynamo would run the next one eagerly
    compiled = torch.compile(setup.module, mode="max-autotune")
    return lambda: compiled(*setup.inputs)


def semi_structured(setup: Setup) -> Call:
    """torch's 2:4 kernels in every linear that is 2:4 and within their limits."""
    if not setup.two_of_four:
        raise NotApplicableError("the zeros are not 2:4")
    module, replaced = deepcopy(setup.module), 0
    for child in module.modules():
        if isinstance(child, nn.Linear):
            rows, columns = child.weight.shape
            refused = limit(rows, columns, DTYPES[child.weight.dtype], setup.arch)
            if refused is not None:
                raise NotApplicableError(refused.why)
            sparse = torch.sparse.to_sparse_semi_structured(child.weight.detach())
            child.weight = nn.Parameter(sparse, requires_grad=False)
            replaced += 1
    if not replaced:
        raise NotApplicableError("no linear is there")
    return lambda: module(*setup.inputs)


def bsr(setup: Setup) -> Call:
    """torch's block-sparse rows in every linear."""
    if not setup.block:
        raise NotApplicableError("the zeros are not in blocks")
    module = nn.Sequential(deepcopy(setup.module))
    compress(module, (setup.block, setup.block))
    return lambda: module(*setup.inputs)


def ours(setup: Setup) -> Call:
    """sc.compile(target="cuda")."""
    fast = sc.compile(setup.module, setup.inputs, target="cuda")
    return lambda: fast(*setup.inputs)


ENGINES: Mapping[str, Callable[[Setup], Call]] = {
    "eager": eager,
    "inductor": inductor,
    "semi-structured": semi_structured,
    "bsr": bsr,
    "sparse_compiler": ours,
}
"""Dense ones first."""


def time_all(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each round of each engine, in shuffled order, the last cache flushed."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    for call in calls.values():
        for _ in range(5):
            call()
    order, samples = list(calls), {name: list[float]() for name in calls}
    shuffle = random.Random(0)
    for _ in range(rounds):
        shuffle.shuffle(order)
        for name in order:
            flush.zero_()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            calls[name]()
            end.record()
            torch.cuda.synchronize()
            samples[name].append(begin.elapsed_time(end))
    return samples


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """max|a - b| / max|b|; infinite where places or shapes of non-finite values differ."""
    a, b = found.float().cpu(), wanted.float().cpu()
    if a.shape != b.shape or not torch.equal(a.isfinite(), b.isfinite()):
        return float("inf")
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))


def median(samples: list[float]) -> float:
    """Of the rounds."""
    return statistics.median(samples)
