"""The cases of gpu.py: layers and models with zeros in a pattern, the same for every engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from sparse_compiler.bench.case import Case as ModelCase
from sparse_compiler.bench.models import build_model, calibrate_batch_norms, model_named
from sparse_compiler.bench.reference import prune
from sparse_compiler.pruning.patterns import parse_pattern

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
TOLERANCES = {"fp16": 1e-2, "bf16": 5e-2, "fp32": 2e-3}
"""Relative, against fp32: what these types round, and tf32 under fp32."""
SPARSITIES = (0.8, 0.9, 0.95)
PATTERNS = ("unstructured", "16x16", "32x32", "2:4")
LINEARS = ("linear-768x768", "linear-3072x768", "linear-768x3072")
CONVS = ("conv-64x64x3@56", "conv-128x128x3@28", "conv-256x256x3@14", "conv-1024x256x1@14")


@dataclass(frozen=True)
class Case:
    """name: a layer or model as `sparse-compiler bench` knows it. tokens: rows of a linear's input,
    or the length of a text; batch: samples. pattern: as `sc.sparsify` takes it."""

    name: str
    pattern: str
    sparsity: float
    batch: int = 1
    tokens: int | None = None
    dtype: str = "fp16"

    @property
    def title(self) -> str:
        size = f"{self.tokens} tokens" if self.tokens else f"batch {self.batch}"
        return f"{self.name}, {size}, {self.pattern} {self.sparsity:.0%}, {self.dtype}"

    @property
    def block(self) -> int:
        """Side of the square blocks, 0 for other patterns."""
        high, _, wide = self.pattern.partition("x")
        return int(high) if wide and high == wide else 0


def all_cases(dtype: str) -> Iterator[Case]:
    """The rows of the table: layers, then whole models."""
    for pattern in PATTERNS:
        fixed = parse_pattern(pattern).fixed_sparsity
        for sparsity in SPARSITIES if fixed is None else (fixed,):
            for name in LINEARS:
                for tokens in (1, 128, 4096):
                    yield Case(name, pattern, sparsity, tokens=tokens, dtype=dtype)
            for name in CONVS if fixed is None else ():
                for batch in (1, 32):
                    yield Case(name, pattern, sparsity, batch=batch, dtype=dtype)
    for sparsity in SPARSITIES:
        yield Case("bert", "unstructured", sparsity, tokens=128, dtype=dtype)
        yield Case("bert", "32x32", sparsity, tokens=128, dtype=dtype)
        yield Case("resnet50", "unstructured", sparsity, batch=32, dtype=dtype)


def small_cases(dtype: str) -> Iterator[Case]:
    """One of each kind, in shapes that an interpreter gets through."""
    for pattern in PATTERNS:
        sparsity = parse_pattern(pattern).fixed_sparsity or 0.8
        for tokens in (1, 24):
            yield Case("linear-64x128", pattern, sparsity, tokens=tokens, dtype=dtype)
        if pattern != "2:4":
            yield Case("conv-32x16x3@6", pattern, sparsity, dtype=dtype)


def build(case: Case, device: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The pruned module in fp32 and its inputs, the same for a case every time."""
    described = ModelCase(case.name, case.sparsity, case.pattern, case.batch, case.tokens)
    module, inputs = build_model(described), model_named(case.name).inputs(described)
    prune(module, described)
    calibrate_batch_norms(module, inputs)
    on_device = tuple(value.to(device) for value in inputs.values())
    return module.requires_grad_(False).to(device), on_device


def half(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Numbers in the case's dtype; ids as they are."""
    return value.to(dtype) if value.is_floating_point() else value
