"""Second order, layer by layer: the optimal brain surgeon on each layer's own output.

A layer's output changes by (w - w0)ᵀ H (w - w0) a row, H = X ᵀX / n over the calibration inputs:
exactly quadratic, so scores and the weights that make up for the removed ones are closed forms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import nn

from sparse_compiler.pruning.activations import Enough, observe, samples
from sparse_compiler.pruning.definite import inverse, solve
from sparse_compiler.pruning.layers import Layer, MatrixView
from sparse_compiler.pruning.recipe import CRITERIA, Measure, Recipe

CHUNK = 1 << 24
"""Numbers of the systems that are solved at once: 64 MB in f32."""


@CRITERIA.register("second_order")
@dataclass(frozen=True)
class SecondOrder(Recipe):
    """score(w_j) = |w_j| / sqrt([H⁻¹]_jj),   H = mean of x xᵀ + damping · mean diag(H) · I

    the root of twice the least rise of the layer's squared error if w_j is removed and the others
    of its row adapt. Then each row's kept weights S become the least-squares optimum

        w_S = (H_SS)⁻¹ (H w0)_S

    Hassibi, Stork: Second order derivatives for network pruning: Optimal Brain Surgeon, NIPS 1992;
    on a layer's output: Frantar, Alistarh: Optimal Brain Compression, NeurIPS 2022,
    arXiv:2208.11580, and SparseGPT, ICML 2023, arXiv:2301.00774, of which the damping is. SparseGPT
    solves for S approximately, column after column; here it is solved exactly, by one Cholesky
    factorisation a row: rows · |S|³ / 3 multiplications, for widths to a few thousand.

    Weights compete within their row (`scope="row"`), and layers are measured in the order of the
    model's modules, on inputs that come through the layers pruned before (with `scope="global"`:
    of the dense model). The weights under the mask change, those kept by the refit; what is masked
    keeps its value. Needs data without targets, read once for each layer: a generator is read once
    and kept.

    damping: relative to the mean of H's diagonal; > 0.
    """

    scope: str = "row"
    _: KW_ONLY
    damping: float = 0.01

    sequential: ClassVar[bool] = True
    refits: ClassVar[bool] = True

    def _problems(self) -> Iterator[tuple[str, str]]:
        yield from super()._problems()
        if not self.damping > 0:
            yield f"damping {self.damping} is not above 0", "give a small share, such as 0.01"

    def measure(
        self, model: nn.Module, layers: Sequence[Layer], data: Iterable[object] | None
    ) -> Iterator[Measure]:
        kept = list(data) if isinstance(data, Iterator) else data
        grams: dict[int, torch.Tensor] = {}
        for at, layer in enumerate(layers):
            if at not in grams:
                grams |= _grams(model, layers, at, kept)
            hessian = damped(grams.pop(at), self.damping)
            view, matrix = layer.view, layer.view.matrix(layer.values)
            least = inverse(hessian).diagonal(dim1=1, dim2=2).clamp_min(1e-30)
            scale = least.rsqrt().repeat_interleave(view.rows // hessian.shape[0], dim=0)
            score = view.weight(matrix.abs() * scale.to(matrix.dtype))
            yield Measure(score, partial(_refit, view, matrix, hessian))


def damped(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """hessian [groups, n, n] with `damping` times the mean of its diagonal added to the diagonal.

    An input that is always zero has no say: its diagonal alone stands there.
    """
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    extra = damping * diagonal.mean(dim=1, keepdim=True)
    extra = torch.where(extra > 0, extra, torch.ones_like(extra))
    return hessian + torch.diag_embed(extra.expand_as(diagonal))


def _grams(
    model: nn.Module, layers: Sequence[Layer], at: int, data: Iterable[object] | None
) -> dict[int, torch.Tensor]:
    """Mean of x xᵀ over what reaches layer `at`, f64 [groups, columns, columns]; and the same for
    the layers after it that read the very same tensor, as query, key and value do.

    A forward pass ends at the first layer that reads something else, if `at` is called but once.
    """
    rest = layers[at:]
    once = all(len(layer.modules) == 1 for layer in rest)
    total = torch.zeros((), dtype=torch.float64)
    count = 0
    current: torch.Tensor | None = None
    sharing: set[int] | None = None  # those that read what the first reads, in every batch
    here: set[int] = set()

    def look(which: int, module: nn.Module, x: torch.Tensor) -> None:
        nonlocal total, count, current
        if which == 0:
            current = x
            seen = samples(module, x)
            total = total.to(x.device) + (seen.transpose(1, 2) @ seen).double()
            count += seen.shape[1]
            here.add(0)
        elif x is current and _alike(rest[0].module, module):
            here.add(which)
        elif current is not None and once:
            raise Enough

    def batch_ended() -> None:
        nonlocal sharing, current
        sharing = set(here) if sharing is None else sharing & here
        here.clear()
        current = None

    observe(model, rest, data, look, f"SecondOrder {layers[at].name}", needed=1, after=batch_ended)
    mean = total / max(count, 1)
    return {at + which: mean for which in sharing or {0}}


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two layers see the same windows of the same input."""
    names = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return type(one).__name__ == type(other).__name__ and all(
        getattr(one, name, None) == getattr(other, name, None) for name in names
    )


def _refit(
    view: MatrixView, matrix: torch.Tensor, hessian: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    keep = view.matrix(mask)
    per_group = view.rows // hessian.shape[0]
    new = matrix.clone()
    for group, h in enumerate(hessian):
        rows = slice(group * per_group, (group + 1) * per_group)
        new[rows] = least_squares(matrix[rows], keep[rows], h)
    return view.weight(new)


def least_squares(matrix: torch.Tensor, keep: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """Rows w of [rows, n], zero outside `keep`, that minimise (w - w0)ᵀ H (w - w0) each.

    Entries outside `keep` come back as they were. Rows are sorted by what they keep, so that each
    batch of systems is hardly padded.
    """
    counts = keep.sum(dim=1)
    new = matrix.clone()
    hessian = hessian.to(torch.promote_types(matrix.dtype, torch.float32))
    target = matrix.to(hessian.dtype) @ hessian
    order = counts.argsort(stable=True)
    changed = order[(counts[order] > 0) & (counts[order] < keep.shape[1])]
    start = 0
    while start < len(changed):
        most = int(counts[changed[-1]])
        stop = start + max(1, CHUNK // most**2)
        rows = changed[start:stop]
        most = int(counts[rows[-1]])
        # kept columns first, in order; rows that keep fewer are filled up by equations x = 0
        columns = keep[rows].to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        real = keep[rows].gather(1, columns)
        system = hessian[columns[:, :, None], columns[:, None, :]]
        system *= real[:, :, None] & real[:, None, :]
        system.diagonal(dim1=1, dim2=2).add_((~real).to(system.dtype))
        right = target[rows].gather(1, columns) * real
        solution = solve(system, right)
        at = rows[:, None].expand_as(columns)
        new[at[real], columns[real]] = solution[real].to(new.dtype)
        start = stop
    return new
