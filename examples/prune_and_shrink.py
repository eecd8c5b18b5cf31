"""Prune half of a network's channels, train on, take them out for good, and run what is left fast.

A small residual network learns to tell eight directions of noisy gratings. Masks on the same
channels of every layer that adds to a sum (`sc.sparsify` with `args`); three epochs with a standard
optimizer, which keep every zero; `sc.shrink` gives a plain module of smaller layers with the same
results; `torch.compile` runs it. Exits with 1 where a promise is broken.
"""

from __future__ import annotations

import math
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

import sparse_compiler as sc

CLASSES, SIZE, LIMIT = 8, 16, 1e-4


def gratings(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [count, 1, SIZE, SIZE] of waves in one of eight directions, with noise, and which."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    angle = (labels * math.pi / CLASSES)[:, None, None]
    phase, pace = torch.rand(2, count, 1, 1, generator=generator)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    along = x * angle.cos() + y * angle.sin()
    images = torch.sin(along * (0.6 + 0.6 * pace) + 2 * math.pi * phase)
    return (images + 0.8 * torch.randn(images.shape, generator=generator))[:, None], labels


class Block(nn.Module):
    """x + conv(conv(x)), with batch norms."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, hidden, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.second = nn.Conv2d(hidden, width, 3, padding=1, bias=False)
        self.last = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.last(self.second(torch.relu(self.norm(self.first(x))))))


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        Block(24, 40),
        Block(24, 40),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, CLASSES),
    )


def train(model: nn.Module, epochs: int) -> None:
    images, labels = gratings(512, seed=0)
    steps = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    model.train()
    for _ in range(epochs):
        for part in torch.randperm(len(images)).split(64):
            steps.zero_grad()
            F.cross_entropy(model(images[part]), labels[part]).backward()
            steps.step()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    images, labels = gratings(512, seed=1)
    return float((model(images).argmax(1) == labels).double().mean())


@torch.no_grad()
def milliseconds(model: nn.Module, images: torch.Tensor) -> float:
    """The fastest of some calls."""
    model(images)
    times = []
    for _ in range(20):
        began = time.perf_counter()
        model(images)
        times.append(time.perf_counter() - began)
    return 1e3 * min(times)


def zeros(model: nn.Module) -> list[torch.Tensor]:
    return [m.weight == 0 for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


def main() -> int:
    """0 if every zero was kept and the results are the same throughout, else 1."""
    torch.manual_seed(0)
    images, _ = gratings(32, seed=2)
    dense = network()
    train(dense, epochs=4)
    print(f"dense: accuracy {accuracy(dense):.3f}, {milliseconds(dense, images):.2f} ms")

    for group in sc.find_groups(dense, "channel", (images,)):
        print(f"  {group}")
    recipe = sc.Magnitude(0.5, "channel", keep_first_conv=False, min_weights=0)
    masked = sc.sparsify(dense, recipe, args=(images,))
    print(f"half of the channels masked: accuracy {accuracy(masked):.3f}")
    before = zeros(masked)
    train(masked, epochs=3)
    kept = all(bool(b.le(a).all()) for b, a in zip(before, zeros(masked), strict=True))
    print(f"three epochs of AdamW: accuracy {accuracy(masked):.3f}, every zero kept: {kept}")
    print(sc.metrics(masked, (images,)).text())

    small = sc.shrink(masked, (images,))
    fast = torch.compile(small, backend="sparse_compiler")
    ok = kept
    with torch.no_grad():
        want = masked(images)
        for name, model in (("shrunk", small), ("shrunk and compiled", fast)):
            error = float((model(images) - want).abs().max() / want.abs().max())
            ok &= error <= LIMIT
            print(f"{name}: {milliseconds(model, images):.2f} ms, relative error {error:.1e}")
    weights = [sum(p.numel() for p in m.parameters()) for m in (dense, small)]
    print(f"parameters: {weights[0]:,} -> {weights[1]:,}")
    return 0 if ok and weights[1] < 0.5 * weights[0] else 1


if __name__ == "__main__":
    sys.exit(main())
