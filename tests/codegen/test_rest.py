"""Tokens that do not divide evenly among threads: each has the rest, all share the work on it."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparse_compiler as sc
from sparse_compiler.codegen.plan import share
from sparse_compiler.ir.types import evaluate


class Block(nn.Module):
    """A transformer block of 4 heads; keys and values of 2, each for two heads."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.query, self.key, self.value = nn.Linear(64, 64), nn.Linear(64, 32), nn.Linear(64, 32)
        self.out, self.wide, self.narrow = nn.Linear(64, 64), nn.Linear(64, 96), nn.Linear(96, 64)
        self.norm = nn.LayerNorm(64)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        heads = (t.unflatten(2, (-1, 16)).transpose(1, 2) for t in self.projected(x))
        a = F.scaled_dot_product_attention(
            *heads, attn_mask=mask, is_causal=self.kind == "causal", enable_gqa=True
        )
        x = x + self.out(a.transpose(1, 2).flatten(2))
        return x + self.narrow(F.gelu(self.wide(self.norm(x))))

    def projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.norm(x)
        return self.query(y), self.key(y), self.value(y)


class Encoder(nn.Module):
    def __init__(self, tokens: int, kind: str) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, tokens, 64))
        self.blocks = nn.ModuleList(Block(kind) for _ in range(2))
        query = tokens if kind == "mask" else 1
        hidden = torch.rand(1, 1, query, tokens) < 0.3
        mask = torch.randn(hidden.shape).masked_fill(hidden, -torch.inf)
        self.register_buffer("mask", mask if "mask" in kind else None)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.place
        for block in self.blocks:
            x = block(x, self.mask)
        return x


@pytest.mark.system
@pytest.mark.parametrize("kind", ["mask", "plain", "causal", "mask of keys"])
def test_a_rest_gives_the_same_numbers(kind: str) -> None:
    tokens = 197
    torch.manual_seed(3)
    model = Encoder(tokens, kind).eval()
    with torch.no_grad():
        for p in itertools.chain(*(block.parameters() for block in model.blocks)):
            p *= torch.rand_like(p) < (0.1 if p.dim() == 2 and len(p) == 96 else 0.9)
        x = torch.randn(1, tokens, 64)
        want, fast = model(x), sc.compile(model, (x,))
        segment = fast.pipeline.lowered.program.segments[0]
        columns = [evaluate(space.columns, {}) for space in segment.spaces]
        before = torch.get_num_threads()
        try:
            for threads, rest in ((1, 0), (2, 5), (5, 37)):
                torch.set_num_threads(threads)
                assert max(share(segment, 1, columns, threads).rest) == rest
                torch.testing.assert_close(fast(x), want, rtol=0, atol=1e-5)
        finally:
            torch.set_num_threads(before)
