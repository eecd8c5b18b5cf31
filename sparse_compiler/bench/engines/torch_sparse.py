"""torch's own compressed sparse tensors in the linear layers: CSR, and BSR where blocks fit."""

from __future__ import annotations

import torch
from torch import nn

from sparse_compiler.bench.case import Case
from sparse_compiler.bench.engine import ENGINES, Engine, EngineRunner, Job
from sparse_compiler.bench.models import model_named
from sparse_compiler.pruning.patterns import Block, parse_pattern

from .eager import TorchRunner, parameter_bytes


class CompressedLinear(nn.Module):
    """y = (W xᵀ)ᵀ + b with W compressed; x [..., k] -> y [..., m]."""

    weight: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        y = torch.mm(self.weight, rows.t()).t()
        if self.bias is not None:
            y = y + self.bias
        return y.reshape(*x.shape[:-1], y.shape[-1])


def compress(module: nn.Module, block: tuple[int, int] | None) -> None:
    """Replace every Linear that has a zero in it, in place; block None means CSR."""
    for name, child in list(module.named_children()):
        if not isinstance(child, nn.Linear):
            compress(child, block)
        elif bool((child.weight == 0).any()):
            dense = child.weight.detach()
            packed = dense.to_sparse_csr() if block is None else dense.to_sparse_bsr(block)
            setattr(module, name, CompressedLinear(packed, child.bias))


class _TorchSparse(Engine):
    def supports(self, case: Case) -> str | None:
        if model_named(case.model).has_convolutions:
            return "torch has no sparse convolution"
        if case.sparsity == 0:
            return "no zeros to compress"
        return None if case.dtype == "float32" else "float32 only"

    def block(self, case: Case) -> tuple[int, int] | None:
        """Rows and columns of a block, or None for CSR."""
        return None

    def prepare(self, job: Job) -> EngineRunner:
        assert job.module is not None
        compress(job.module, self.block(job.case))
        return TorchRunner(job.module, job.inputs, parameter_bytes(job.module))


@ENGINES.register("torch-csr")
class TorchCsr(_TorchSparse):
    """weight.to_sparse_csr()."""

    name = "torch-csr"


@ENGINES.register("torch-bsr")
class TorchBsr(_TorchSparse):
    """weight.to_sparse_bsr(block) for block patterns that torch's CPU product accepts."""

    name = "torch-bsr"

    def supports(self, case: Case) -> str | None:
        pattern = parse_pattern(case.pattern)
        if not isinstance(pattern, Block):
            return "the pattern has no blocks"
        if pattern.height != pattern.width:
            return "torch's BSR product on CPU wants square blocks"
        return super().supports(case)

    def block(self, case: Case) -> tuple[int, int] | None:
        pattern = parse_pattern(case.pattern)
        return (pattern.height, pattern.width) if isinstance(pattern, Block) else None
