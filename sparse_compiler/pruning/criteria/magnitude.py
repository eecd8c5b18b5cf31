"""Magnitude: what is small matters little. Needs neither data nor gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sparse_compiler.pruning.layers import Layer
from sparse_compiler.pruning.recipe import Recipe


@dataclass(frozen=True)
class Magnitude(Recipe):
    """score(w) = |w|.

    Han, Pool, Tran, Dally: Learning both Weights and Connections for Efficient Neural Networks,
    NeurIPS 2015, arXiv:1506.02626. Blocks are ranked by their sum of |w|, channels by the L2 norm
    of their row. Calibration data is not read. A NaN counts as infinitely large: it is kept, so
    that the defect stays visible.
    """

    def scores(
        self, model: nn.Module, layers: Sequence[Layer], data: Iterable[object] | None
    ) -> Iterator[torch.Tensor]:
        for layer in layers:
            weight = layer.weight.detach().abs()
            half = weight.dtype in (torch.float16, torch.bfloat16)
            yield weight.float() if half else weight  # sums over blocks outgrow half precision
