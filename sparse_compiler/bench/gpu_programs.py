"""Whole small programs for a GPU that is elsewhere: a layer of BERT-base, a block of ResNet-50.

Their kernels are those of a model's segments: layers with their epilogues, sweeps, norms, softmax.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from sparse_compiler.codegen.gpu.static import StaticFacts
from sparse_compiler.formats.gpu_arch import Arch
from sparse_compiler.frontends.export import export_module
from sparse_compiler.options import Options

SPARSITY = 0.9


@dataclass(frozen=True)
class ProgramKernel:
    """A kernel of a program. computes: the first graph value that it is launched for."""

    program: str
    name: str
    computes: str
    warps: int
    facts: StaticFacts


class _BertLayer(nn.Module):
    """Self-attention and the two linears behind it, as in arXiv:1810.04805."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(768, 768) for _ in range(4))
        self.up, self.down = nn.Linear(768, 3072), nn.Linear(3072, 768)
        self.first, self.second = nn.LayerNorm(768), nn.LayerNorm(768)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [batch, tokens, 768]."""
        heads = [m(x).unflatten(2, (12, 64)).transpose(1, 2) for m in (self.query, self.key)]
        scores = torch.softmax(heads[0] @ heads[1].transpose(2, 3) / 8.0, -1)
        values = self.value(x).unflatten(2, (12, 64)).transpose(1, 2)
        x = self.first(x + self.out((scores @ values).transpose(1, 2).flatten(2)))
        result: torch.Tensor = self.second(x + self.down(torch.nn.functional.gelu(self.up(x))))
        return result


class _ResNetBlock(nn.Module):
    """A bottleneck of ResNet-50's third stage, with its stem's pool before it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(256, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
            *(nn.Conv2d(64, 256, 1, bias=False), nn.BatchNorm2d(256)),
        )
        self.pool = nn.MaxPool2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [batch, 256, 112, 112]."""
        x = self.pool(x)
        return torch.relu(x + self.body(x))


_PROGRAMS = {
    "BERT-base layer, 128 tokens": (_BertLayer, (1, 128, 768)),
    "ResNet-50 block at 56 x 56": (_ResNetBlock, (1, 256, 112, 112)),
}
DTYPES = ("fp32", "tf32", "fp16", "bf16")


def program_kernels(arch: Arch, dtype: str, folder: Path) -> Iterator[ProgramKernel]:
    """Every kernel of every program, compiled for `arch`; figures are kept in `folder`.

    Raises as `compile_kernel`.
    """
    for name, (build, shape) in _PROGRAMS.items():
        torch.manual_seed(0)
        model = build().eval().requires_grad_(False)
        for p in model.parameters():
            if p.dim() > 1:
                p.mul_(torch.rand_like(p) > SPARSITY)
        yield from _kernels(name, model, torch.randn(shape), arch, dtype, folder)


def _kernels(
    name: str, model: nn.Module, x: torch.Tensor, arch: Arch, dtype: str, folder: Path
) -> Iterator[ProgramKernel]:
    from sparse_compiler.runtime.gpu_offline import segments_for

    from .gpu_static import facts_of

    exported = export_module(model, (x,), None, None)
    options = Options.from_env(
        target=arch.name, weights=dtype, format="csr", force_native=True, calibrate=False
    )
    graph, params = exported.imported.graph, exported.imported.params
    lowered, _, segments = segments_for(arch, graph, params, options, {})
    for segment in segments:
        for launch, kernel in segment.offline(lowered.context.hints):
            facts = facts_of(kernel, arch, folder)
            yield ProgramKernel(name, launch.kernel, launch.label, launch.warps, facts)
