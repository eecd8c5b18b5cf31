"""Threads alone on samples, split over the tokens of one, or together: the same numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

import sparse_compiler as sc

pytestmark = pytest.mark.system

WIDTH, HEADS = 48, 4


class Block(nn.Module):
    def __init__(self, kv_heads: int, causal: bool) -> None:
        super().__init__()
        self.kv_heads, self.causal = kv_heads, causal
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key_value = nn.Linear(WIDTH, 2 * WIDTH * kv_heads // HEADS)
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(3 * WIDTH, WIDTH)

    def forward(self, x, mask=None):
        batch, tokens, _ = x.shape
        q = self.query(x).view(batch, tokens, HEADS, -1).transpose(1, 2)
        k, v = (
            part.view(batch, tokens, self.kv_heads, -1).transpose(1, 2)
            for part in self.key_value(x).chunk(2, -1)
        )
        grouped = self.kv_heads != HEADS
        a = F.scaled_dot_product_attention(q, k, v, mask, is_causal=self.causal, enable_gqa=grouped)
        y = self.norm(x + a.transpose(1, 2).reshape(batch, tokens, WIDTH))
        return y + self.down(F.gelu(self.up(y)))


class Two(nn.Module):
    def __init__(self, kv_heads: int, causal: bool) -> None:
        super().__init__()
        self.first, self.second = Block(kv_heads, causal), Block(kv_heads, causal)

    def forward(self, x, mask=None):
        return self.second(self.first(x, mask), mask)


def mask_of(kind: str, batch: int, tokens: int) -> torch.Tensor | None:
    return {
        "none": lambda: None,
        "causal": lambda: None,
        "queries": lambda: torch.rand(batch, 1, tokens, tokens) > 0.3,
        "keys": lambda: torch.rand(batch, 1, 1, tokens) > 0.3,
        "heads": lambda: torch.rand(1, HEADS, tokens, tokens) > 0.3,
        "added": lambda: torch.randn(batch, 1, tokens, tokens),
    }[kind]()


@pytest.mark.parametrize("kind", ["none", "causal", "queries", "keys", "heads", "added"])
def test_every_way_of_sharing_gives_the_same_numbers(kind, cached_kernels):
    torch.manual_seed(0)
    model = Two(2 if kind in ("causal", "none") else HEADS, kind == "causal").eval()
    model = sc.sparsify(model, sc.Magnitude(0.7, min_weights=1))

    def arguments(batch: int, tokens: int) -> tuple[torch.Tensor, ...]:
        x, mask = torch.randn(batch, tokens, WIDTH), mask_of(kind, batch, tokens)
        return (x,) if mask is None else (x, mask)

    batch, tokens = Dim("batch", min=2, max=64), Dim("tokens", min=2, max=512)
    shapes = [{0: batch, 1: tokens}]
    if len(arguments(2, 2)) == 2:
        rows = {} if kind == "heads" else {0: batch}
        shapes.append(rows | ({} if kind == "keys" else {2: tokens}) | {3: tokens})
    before = torch.get_num_threads()
    try:
        with torch.no_grad():
            fast = sc.compile(
                model,
                arguments(3, 40),
                dynamic_shapes=tuple(shapes),
                options={"force_native": True},
            )
            assert len(fast.pipeline.segments) == 1
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                for size in ((2, 2), (3, 33), (5, 49), (2, 70), (8, 130), (3, 197)):
                    given = arguments(*size)
                    expected = model(*given)
                    error = (fast(*given) - expected).abs().max() / expected.abs().max()
                    assert error < 1e-5, (threads, size)
    finally:
        torch.set_num_threads(before)
