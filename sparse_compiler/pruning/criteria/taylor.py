"""First-order Taylor: how much the loss changes, to first order, if a weight becomes zero."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import nn

from sparse_compiler.pruning.calibration import Loss, gradients
from sparse_compiler.pruning.layers import Layer
from sparse_compiler.pruning.recipe import CRITERIA, Measure, Recipe


@CRITERIA.register("taylor")
@dataclass(frozen=True)
class Taylor(Recipe):
    """score(w) = sqrt(mean over batches of (g · w)²), g = ∂loss/∂w

    Molchanov, Mallya, Tyree, Frosio, Kautz: Importance Estimation for Neural Network Pruning,
    CVPR 2019, arXiv:1906.10771, equation 8 (its root, so that a channel's L2 norm is the root of
    the sum of its weights' importance). Needs data with a loss:

    loss: loss(output, target) for data of pairs (inputs, target). None: the model gives its loss
        itself, as a scalar or in a field `loss`, as transformers do for inputs with `labels`.
    """

    _: KW_ONLY
    loss: Loss | None = None

    def measure(
        self, model: nn.Module, layers: Sequence[Layer], data: Iterable[object] | None
    ) -> Iterator[Measure]:
        sums = [torch.zeros_like(layer.values) for layer in layers]
        count = 0
        for found in gradients(model, layers, data, self.loss, "Taylor"):
            count += 1
            for total, layer, gradient in zip(sums, layers, found, strict=True):
                total += (gradient.to(total.dtype) * layer.values).square_()
        for total in sums:
            yield Measure((total / count).sqrt_())
