"""Random: what every other criterion has to beat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import nn

from sparse_compiler.pruning.layers import Layer
from sparse_compiler.pruning.recipe import CRITERIA, Measure, Recipe


@CRITERIA.register("random")
@dataclass(frozen=True)
class Random(Recipe):
    """score(w) drawn from the uniform distribution on [0, 1), with `seed`: the baseline of

    Blalock, Gonzalez Ortiz, Frankle, Guttag: What is the State of Neural Network Pruning?, MLSys
    2020, arXiv:2003.03033. Units of several weights are drawn by their sum or norm, which favours
    none of them. Calibration data is not read.
    """

    _: KW_ONLY
    seed: int = 0

    def measure(
        self, model: nn.Module, layers: Sequence[Layer], data: Iterable[object] | None
    ) -> Iterator[Measure]:
        generator = torch.Generator().manual_seed(self.seed)
        for layer in layers:
            score = torch.rand(layer.weight.shape, generator=generator)
            yield Measure(score.to(layer.weight.device))
