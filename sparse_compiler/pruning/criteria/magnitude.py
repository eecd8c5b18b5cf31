"""Magnitude: what is small matters little. Needs neither data nor gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from sparse_compiler.pruning.layers import Layer
from sparse_compiler.pruning.recipe import CRITERIA, Measure, Recipe


@CRITERIA.register("magnitude")
@dataclass(frozen=True)
class Magnitude(Recipe):
    """score(w) = |w|.

    Han, Pool, Tran, Dally: Learning both Weights and Connections for Efficient Neural Networks,
    NeurIPS 2015, arXiv:1506.02626. Blocks are ranked by their sum of |w|, channels by the L2 norm
    of their row. Calibration data is not read. A NaN counts as infinitely large: it is kept, so
    that the defect stays visible.
    """

    def measure(
        self, model: nn.Module, layers: Sequence[Layer], data: Iterable[object] | None
    ) -> Iterator[Measure]:
        for layer in layers:
            yield Measure(layer.values.abs())
