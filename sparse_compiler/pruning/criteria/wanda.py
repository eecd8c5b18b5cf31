"""Wanda: magnitude times the size of what the weight is multiplied with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sparse_compiler.pruning.activations import observe, samples
from sparse_compiler.pruning.layers import Layer
from sparse_compiler.pruning.recipe import CRITERIA, Measure, Recipe


@CRITERIA.register("wanda")
@dataclass(frozen=True)
class Wanda(Recipe):
    """score(w_ij) = |w_ij| · ‖x_j‖₂ / sqrt(n)

    x_j: the n values of input j over the calibration data (of a convolution: of one channel as one
    tap sees it), here as a root mean square. Sun, Liu, Bair, Kolter: A Simple and Effective Pruning
    Approach for Large Language Models, ICLR 2024, arXiv:2306.11695. As there, weights compete
    within the row of their output (`scope="row"`, the default here). Needs data without targets;
    no gradients.
    """

    scope: str = "row"

    def measure(
        self, model: nn.Module, layers: Sequence[Layer], data: Iterable[object] | None
    ) -> Iterator[Measure]:
        sums: dict[int, torch.Tensor] = {}
        counts = [0] * len(layers)

        def look(at: int, module: nn.Module, seen: torch.Tensor) -> None:
            x = samples(module, seen)
            squares = x.square().sum(dim=1, dtype=torch.float64)
            sums[at] = sums[at] + squares if at in sums else squares
            counts[at] += x.shape[1]

        observe(model, layers, data, look, "Wanda")
        for at, layer in enumerate(layers):
            view, weight = layer.view, layer.values
            size = (sums[at] / max(counts[at], 1)).sqrt().to(weight.dtype)  # [groups, columns]
            by_row = size.repeat_interleave(view.rows // size.shape[0], dim=0)
            yield Measure(weight.abs() * view.weight(by_row.expand(view.rows, -1)))
