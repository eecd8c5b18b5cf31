"""Movement: weights that training moves towards zero are the ones to remove."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import nn

from sparse_compiler.errors import UnsupportedError
from sparse_compiler.pruning.calibration import Loss, gradients
from sparse_compiler.pruning.layers import Layer
from sparse_compiler.pruning.recipe import CRITERIA, Measure, Recipe


@CRITERIA.register("movement")
@dataclass(frozen=True)
class Movement(Recipe):
    """score(w) = -Σ over steps t of g_t · w_t, g = ∂loss/∂w,   then w_{t+1} = w_t - rate · g_t

    Sanh, Wolf, Rush: Movement Pruning: Adaptive Sparsity by Fine-Tuning, NeurIPS 2020,
    arXiv:2005.07683, equation 5: large where steps lead away from zero. A step per batch of data,
    plain gradient descent on the weights to be pruned, dense (the paper trains under the mask, over
    epochs). The model's weights come back as they were. Scores are shifted by the lowest of all
    layers to be >= 0, which changes no ranking of single weights.

    loss: as of `Taylor`. rate: of the steps, in weight per gradient; > 0.
    """

    _: KW_ONLY
    loss: Loss | None = None
    rate: float = 1e-3

    def _problems(self) -> Iterator[tuple[str, str]]:
        yield from super()._problems()
        if not self.rate > 0:
            yield f"rate {self.rate} is not above 0", "give a learning rate, such as 1e-3"

    def measure(
        self, model: nn.Module, layers: Sequence[Layer], data: Iterable[object] | None
    ) -> Iterator[Measure]:
        stored = [_stored(layer) for layer in layers]
        before = [weight.detach().clone() for weight in stored]
        sums = [torch.zeros_like(layer.values) for layer in layers]
        try:
            for found in gradients(model, layers, data, self.loss, "Movement"):
                for total, layer, gradient in zip(sums, layers, found, strict=True):
                    total -= gradient.to(total.dtype) * layer.values
                for weight, gradient in zip(stored, found, strict=True):
                    weight.sub_(gradient, alpha=self.rate)
        finally:
            for weight, old in zip(stored, before, strict=True):
                weight.copy_(old)
        lowest = min(float(total.min()) for total in sums)
        for total in sums:
            yield Measure(total - lowest)


def _stored(layer: Layer) -> torch.Tensor:
    if not layer.assignable:
        raise UnsupportedError(
            f"{layer.name}: Movement cannot train its weight",
            why="a parametrization other than a mask computes it",
            fix="remove the parametrization first, or exclude the layer",
        )
    return layer.originals[0]
