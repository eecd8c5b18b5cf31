"""Pruned by `sc.sparsify`, trained on under the masks, then fast through `torch.compile`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparse_compiler as sc
from tests.speed.documented import FIGURES
from tests.speed.test_speedup import reaches

pytestmark = pytest.mark.speed


def test_three_epochs_and_torch_compile() -> None:
    figure = FIGURES["MLP 768-3072-768 trained on, 128 tokens, 90 %"]
    before = torch.get_num_threads()
    torch.set_num_threads(figure.threads)
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(768, 3072), nn.GELU(), nn.Linear(3072, 768))
    inputs = torch.randn(512, 768)
    masked = sc.sparsify(dense, sc.Wanda(0.9), [inputs])
    zeros = [masked[at].weight == 0 for at in (0, 2)]
    steps = torch.optim.AdamW(masked.parameters(), lr=1e-4, weight_decay=0.05)
    for _ in range(3):
        for part in torch.randperm(512).split(128):
            steps.zero_grad()
            F.mse_loss(masked(inputs[part]), inputs[part]).backward()
            steps.step()
    for at, gone in zip((0, 2), zeros, strict=True):
        assert torch.equal(masked[at].weight == 0, gone)
    fast = torch.compile(masked.eval(), backend="sparse_compiler")
    x = inputs[:128]
    with torch.no_grad():
        torch.testing.assert_close(fast(x), masked(x), rtol=1e-4, atol=1e-5)
        problem = reaches(figure, lambda: dense(x), lambda: fast(x))
    torch.set_num_threads(before)
    assert not problem, problem
