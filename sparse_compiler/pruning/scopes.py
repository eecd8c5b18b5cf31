"""Scopes: how many units each layer gives up, and which of its units compete with one another.

A scope takes the unit scores of every layer (any shape, -inf for a unit that is dead already) and
the share each is to drop, and gives one bool tensor per layer: True is kept. It never empties a
layer. Ties go by position, the first is dropped first, so that the same model gives the same masks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import torch

Scope: TypeAlias = Callable[[Iterable[torch.Tensor], Sequence[float]], Iterator[torch.Tensor]]


def uniform(layers: Iterable[torch.Tensor], shares: Sequence[float]) -> Iterator[torch.Tensor]:
    """round(share · units) of each layer are dropped; of a layer's last unit, none."""
    for scores, share in zip(layers, shares, strict=True):
        count = min(round(share * scores.numel()), scores.numel() - 1)
        yield keep_highest(scores.flatten(), count).reshape(scores.shape)


def by_row(layers: Iterable[torch.Tensor], shares: Sequence[float]) -> Iterator[torch.Tensor]:
    """The same in each row of units, so that every output keeps as many inputs as any other.

    A pattern whose units are no grid (channels) has one row.
    """
    for scores, share in zip(layers, shares, strict=True):
        if scores.dim() != 2:
            yield from uniform([scores], [share])
            continue
        columns = scores.shape[1]
        count = min(round(share * columns), columns - 1)
        drop = scores.argsort(dim=1, stable=True)[:, :count]
        yield torch.ones_like(scores, dtype=torch.bool).scatter_(1, drop, False)


def across_layers(
    layers: Iterable[torch.Tensor], shares: Sequence[float]
) -> Iterator[torch.Tensor]:
    """One threshold for all: round(sum of share · units) are dropped, whichever score lowest.

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
    wanted = sum(share * part.numel() for share, part in zip(shares, parts, strict=True))
    count = min(round(wanted), flat.numel() - len(parts))
    kept = torch.split(keep_highest(flat, count), [part.numel() for part in parts])
    for part, keep in zip(parts, kept, strict=True):
        yield keep.reshape(part.shape).to(part.device)


SCOPES: dict[str, Scope] = {
    "uniform": uniform,
    "row": by_row,
    "global": across_layers,
    "erk": uniform,  # of the shares that `erdos_renyi_kernel` gives
}


def erdos_renyi_kernel(shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float]:
    """The share that each layer drops, so that all together drop `sparsity` of their weights.

        density(layer) = min(1, ε · (n_in + n_out + sum of kernel sizes) / number of weights)

    with the one ε that meets the sum: small layers stay denser. shapes: [outputs, inputs per
    group, kernel...] of each weight. Erdős–Rényi-Kernel of Evci et al.: Rigging the Lottery: Making
    All Tickets Winners, ICML 2020, arXiv:1911.11134, after Mocanu et al. 2018.
    """
    sizes = [math.prod(shape) for shape in shapes]
    raw = [sum(shape) / size if size else 0.0 for shape, size in zip(shapes, sizes, strict=True)]
    dense: set[int] = set()
    while True:
        left = (1.0 - sparsity) * sum(sizes) - sum(sizes[i] for i in dense)
        rest = sum(raw[i] * sizes[i] for i in range(len(sizes)) if i not in dense)
        scale = left / rest if rest > 0 else 0.0
        full = {i for i in range(len(sizes)) if i not in dense and scale * raw[i] >= 1.0}
        if not full:
            return [0.0 if i in dense else 1.0 - scale * raw[i] for i in range(len(sizes))]
        dense |= full


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
