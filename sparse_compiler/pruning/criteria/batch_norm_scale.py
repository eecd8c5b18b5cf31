"""Batch-norm scale: a channel whose batch norm multiplies it by almost nothing is not needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparse_compiler.errors import UnsupportedError
from sparse_compiler.pruning.calibration import batches, call, evaluating
from sparse_compiler.pruning.layers import Layer
from sparse_compiler.pruning.recipe import CRITERIA, Measure, Recipe


@CRITERIA.register("batch_norm_scale")
@dataclass(frozen=True)
class BatchNormScale(Recipe):
    """score(channel) = |γ|, the scale of the batch norm that reads the layer's output

    Liu, Li, Shen, Huang, Yan, Zhang: Learning Efficient Convolutional Networks through Network
    Slimming, ICCV 2017, arXiv:1708.06519 (there trained with an L1 penalty on γ, one threshold for
    the whole network: `scope="global"`). For channels, the default here; every weight of a row has
    the same score. One input of `data` shows which norm reads which layer; layers that no batch
    norm reads directly stay dense: exclude them, or an error names them.
    """

    pattern: str = "channel"

    def measure(
        self, model: nn.Module, layers: Sequence[Layer], data: Iterable[object] | None
    ) -> Iterator[Measure]:
        norms = _readers(model, layers, data)
        missing = [layer.name for at, layer in enumerate(layers) if at not in norms]
        if missing:
            raise UnsupportedError(
                f"no batch norm with a scale reads {len(missing)} layer(s): "
                + ", ".join(missing[:10]),
                why="BatchNormScale scores a channel by the batch norm directly behind it",
                fix="exclude these layers: exclude=(...)",
            )
        for at, layer in enumerate(layers):
            view, scale = layer.view, norms[at].detach().abs().to(layer.values.dtype)
            # a row's L2 norm is |γ| itself, so that layers of any width compare
            each = (scale / max(view.columns, 1) ** 0.5)[:, None].expand(view.rows, view.columns)
            yield Measure(view.weight(each))


def _readers(
    model: nn.Module, layers: Sequence[Layer], data: Iterable[object] | None
) -> dict[int, torch.Tensor]:
    """Position of a layer -> γ of the batch norm whose input is that layer's very output."""
    written: dict[int, tuple[int, torch.Tensor]] = {}
    norms: dict[int, torch.Tensor] = {}

    def wrote(at: int) -> Any:
        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            written[id(output)] = (at, output)  # held, so that no other takes its id

        return hook

    def read(module: nn.Module, args: tuple[Any, ...]) -> None:
        found = written.get(id(args[0])) if args else None
        if found is not None and module.weight is not None:
            norms[found[0]] = module.weight  # type: ignore[assignment]

    with ExitStack() as stack, torch.no_grad(), evaluating(model):
        for at, layer in enumerate(layers):
            for module in layer.modules:
                stack.callback(module.register_forward_hook(wrote(at)).remove)
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                stack.callback(module.register_forward_pre_hook(read).remove)
        for at, batch in batches(data, "BatchNormScale"):
            call(model, batch, at)
            break
    return norms
