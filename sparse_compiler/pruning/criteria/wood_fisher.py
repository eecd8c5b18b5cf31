"""WoodFisher: second order on the model's loss, with the Fisher matrix in place of the Hessian."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from sparse_compiler.pruning.calibration import Loss, gradients
from sparse_compiler.pruning.definite import inverse, solve
from sparse_compiler.pruning.layers import Layer, MatrixView
from sparse_compiler.pruning.recipe import CRITERIA, Measure, Recipe

CHUNK = 1 << 24
"""Numbers of the blocks that are inverted at once: 64 MB in f32."""


@CRITERIA.register("wood_fisher")
@dataclass(frozen=True)
class WoodFisher(Recipe):
    """score(w_j) = |w_j| / sqrt([F⁻¹]_jj),   F = 1/N Σ g gᵀ + damping · mean g² · I

    by blocks of `block` consecutive weights of a row, g the loss's gradient of one batch. Removing
    the weights Q of a block moves the others of the block by the optimal

        δ = -F⁻¹ E_Q ([F⁻¹]_QQ)⁻¹ w_Q

    Singh, Alistarh: WoodFisher: Efficient Second-Order Approximation for Neural Network
    Compression, NeurIPS 2020, arXiv:2004.14340 (there the inverse grows by Woodbury's formula, one
    gradient at a time; here F is inverted once, block by block, which gives the same matrix). The
    weights under the mask change as of `SecondOrder`. Keeps the gradients of all batches, batches ·
    weights · 4 bytes. A few dozen small batches serve.

    loss: as of `Taylor`. block: weights of a block, >= 1. damping: relative to the layer's mean g².
    update: move the kept weights.
    """

    _: KW_ONLY
    loss: Loss | None = None
    block: int = 32
    damping: float = 0.1
    update: bool = True

    refits: ClassVar[bool] = True

    def _problems(self) -> Iterator[tuple[str, str]]:
        yield from super()._problems()
        if not self.damping > 0:
            yield f"damping {self.damping} is not above 0", "give a small share, such as 0.1"
        if not self.block >= 1:
            yield f"block {self.block} is not at least 1", "give a size, such as 32"

    def measure(
        self, model: nn.Module, layers: Sequence[Layer], data: Iterable[object] | None
    ) -> Iterator[Measure]:
        found = gradients(model, layers, data, self.loss, "WoodFisher")
        by_layer = list(zip(*found, strict=True))
        for at, layer in enumerate(layers):
            view, weight = layer.view, layer.values
            inverse = self._inverse([view.matrix(g) for g in by_layer[at]], weight.dtype)
            by_layer[at] = ()  # the gradients of a large model: let go one layer at a time
            blocks = to_blocks(view.matrix(weight), self.block)
            least = inverse.diagonal(dim1=1, dim2=2).clamp_min(1e-30)
            score = from_blocks(blocks.abs() * least.rsqrt(), view)
            refit = partial(_refit, view, weight, inverse) if self.update else None
            yield Measure(view.weight(score), refit)

    def _inverse(self, gradients: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """F⁻¹ of each block, [blocks, block, block]."""
        g = torch.stack([to_blocks(x.to(dtype), self.block) for x in gradients], dim=1)
        count, size = g.shape[0], g.shape[2]
        extra = self.damping * float(g.square().mean()) or 1.0
        eye = extra * torch.eye(size, dtype=dtype, device=g.device)
        step = max(1, CHUNK // size**2)
        parts = []
        for part in torch.split(g, step) if count else ():
            parts.append(inverse(part.transpose(1, 2) @ part / g.shape[1] + eye))
        return torch.cat(parts)


def to_blocks(matrix: torch.Tensor, block: int) -> torch.Tensor:
    """[rows, columns] -> [blocks, block], rows filled up with zeros."""
    block = min(block, matrix.shape[1])
    return F.pad(matrix, (0, -matrix.shape[1] % block)).reshape(-1, block)


def from_blocks(blocks: torch.Tensor, view: MatrixView) -> torch.Tensor:
    """The inverse: [rows, columns] without the filling."""
    return blocks.reshape(view.rows, -1)[:, : view.columns]


def _refit(
    view: MatrixView, weight: torch.Tensor, inverse: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    block = inverse.shape[1]
    w = to_blocks(view.matrix(weight), block)
    gone = to_blocks((~view.matrix(mask)).to(weight.dtype), block).bool()
    new = w.clone()
    step = max(1, CHUNK // block**2)
    for start in range(0, len(w), step):
        part = slice(start, start + step)
        # ([F⁻¹]_QQ)⁻¹ w_Q with equations x = 0 in the places of what is kept
        pairs = gone[part, :, None] & gone[part, None, :]
        system = inverse[part] * pairs
        system.diagonal(dim1=1, dim2=2).add_((~gone[part]).to(system.dtype))
        lagrange = solve(system, w[part] * gone[part])
        new[part] -= (inverse[part] @ lagrange[..., None])[..., 0]
    kept = torch.where(gone, w, new)  # what is masked keeps its value
    return view.weight(from_blocks(kept, view))
