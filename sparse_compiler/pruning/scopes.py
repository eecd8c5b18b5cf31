"""Scopes: how many units each layer gives up.

A scope takes the unit scores of every layer (any shape, -inf for a unit that is dead already) and
the share to drop, and gives one bool tensor per layer: True is kept. It never empties a layer.
Ties go by position, the first is dropped first, so that the same model gives the same masks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import numpy as np
import torch

Scope: TypeAlias = Callable[[Iterable[torch.Tensor], float], Iterator[torch.Tensor]]


def uniform(layers: Iterable[torch.Tensor], sparsity: float) -> Iterator[torch.Tensor]:
    """round(sparsity · units) of each layer are dropped; of a layer's last unit, none."""
    for scores in layers:
        count = min(round(sparsity * scores.numel()), scores.numel() - 1)
        yield keep_highest(scores.flatten(), count).reshape(scores.shape)


def across_layers(layers: Iterable[torch.Tensor], sparsity: float) -> Iterator[torch.Tensor]:
    """One threshold for all: round(sparsity · all units) are dropped, whichever score lowest.

    Scores are compared as they are, not scaled by a layer's size. Each layer's best unit is kept;
    where that binds, other layers give up more.
    """
    parts = list(layers)
    if not parts:
        return
    flat = torch.cat([part.flatten().cpu() for part in parts])
    start = 0
    for part in parts:
        best = start + int(flat[start : start + part.numel()].argmax())
        flat[best] = math.inf
        start += part.numel()
    count = min(round(sparsity * flat.numel()), flat.numel() - len(parts))
    kept = torch.split(keep_highest(flat, count), [part.numel() for part in parts])
    for part, keep in zip(parts, kept, strict=True):
        yield keep.reshape(part.shape).to(part.device)


SCOPES: dict[str, Scope] = {"uniform": uniform, "global": across_layers}


def keep_highest(scores: torch.Tensor, drop: int) -> torch.Tensor:
    """bool [n]: all but the `drop` lowest of `scores` [n], 0 <= drop < n; ties by position.

    Linear time: the threshold by selection, then the ties at it in order.
    """
    if drop <= 0:
        return torch.ones_like(scores, dtype=torch.bool)
    # numpy's selection is 6 to 18 times as fast as torch.kthvalue on a CPU
    threshold = float(np.partition(scores.cpu().numpy(), drop - 1)[drop - 1])
    below = scores < threshold
    ties = (scores == threshold).nonzero().flatten()
    keep = ~below
    keep[ties[: drop - int(below.sum())]] = False
    return keep
