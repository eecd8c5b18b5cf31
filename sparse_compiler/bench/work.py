"""The arithmetic and traffic a case cannot do without: the roofline's numerator.

useful operations: two for each non-zero weight and position of linears and convolutions, plus
every other matrix product. compulsory bytes: each non-zero value, input and output once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def _attention_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any
) -> int:
    """Both products of attention; shapes [batch, heads, tokens, width]."""
    batch, heads, tokens, width = query
    return 2 * batch * heads * tokens * key[2] * (width + value[3])


# torch counts the attention kernels of GPUs only
_COUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


def _positions(layer: nn.Module, output: torch.Tensor) -> int:
    """How often each weight is used: output elements per output feature or channel."""
    weight = layer.get_parameter("weight")
    return output.numel() // weight.shape[0]


@torch.no_grad()
def count_work(
    module: nn.Module, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]
) -> dict[str, float]:
    """{"dense_flops", "useful_flops", "bytes"} of one call; a multiply-add is two."""
    layers = [m for m in module.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    dense = useful = 0

    def count(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal dense, useful
        weight = layer.get_parameter("weight")
        positions = _positions(layer, output)
        dense += 2 * weight.numel() * positions
        useful += 2 * int(weight.count_nonzero()) * positions

    hooks = [layer.register_forward_hook(count) for layer in layers]
    with FlopCounterMode(display=False, custom_mapping=_COUNTED) as counter:
        module(*inputs)
    for hook in hooks:
        hook.remove()
    total = max(counter.get_total_flops(), dense)
    weights = {id(m.weight): m.weight for m in layers}.values()
    values = sum(int(w.count_nonzero()) * w.element_size() for w in weights)
    ends = sum(t.numel() * t.element_size() for t in [*inputs, *outputs])
    return {
        "dense_flops": float(total),
        "useful_flops": float(total - dense + useful),
        "bytes": float(values + ends),
    }
