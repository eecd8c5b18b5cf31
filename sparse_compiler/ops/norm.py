"""Norms over the last dimension: layer norm (arXiv:1607.06450) and RMS norm (arXiv:1910.07467)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Layout, TensorType, Type
from .pointwise import same_dtype


def down_the_planes(
    op: Op, types: tuple[Type, ...], weight_time: tuple[bool, ...]
) -> tuple[Layout | None, ...] | No:
    """What an op that reduces over the last dimension needs: that this one counts planes.

    Its other inputs are vectors along that dimension.
    """
    tensors = tensor_inputs(op, types, 1, 3)
    x = tensors[0]
    if x.layout is None:
        return No("outside_region", "the input is not computed in planes")
    if x.layout.outer != (x.rank - 1,):
        return No("layout", "the last dimension does not count planes")
    if not all(weight_time[1:]):
        return No("weight_is_computed", "a vector that it reads changes from call to call")
    return (x.layout, *(None for _ in tensors[1:]))


def _like_first(op: Op, types: tuple[Type, ...], count: int) -> TensorType:
    """The type of a norm: its first input's; the others are vectors along the last dimension."""
    tensors = tensor_inputs(op, types, count, count)
    for vector in tensors[1:]:
        if vector.shape != tensors[0].shape[-1:]:
            raise VerifyError(f"{op.name} of {tensors[0].shape} with {vector.shape}")
    return TensorType(same_dtype(op.name, tensors), tensors[0].shape, tensors[0].layout)


@OPS.register("layer_norm")
@dataclass(frozen=True)
class LayerNorm(Op):
    """(x - mean) / sqrt(var + eps) over the last dimension C, times gamma [C], plus beta [C].

    Inputs: x [..., C], then gamma if `scale`, then beta if `shift`. The variance is the biased one.
    """

    name: ClassVar[str] = "layer_norm"
    eps: float = 1e-5
    scale: bool = True
    shift: bool = True

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        return _like_first(self, types, 1 + self.scale + self.shift)

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        return down_the_planes(self, types, weight_time)

    def reference(self, *inputs: Any) -> Any:
        gamma = inputs[1] if self.scale else None
        beta = inputs[-1] if self.shift else None
        return F.layer_norm(inputs[0], inputs[0].shape[-1:], gamma, beta, self.eps)


@OPS.register("rms_norm")
@dataclass(frozen=True)
class RmsNorm(Op):
    """x / sqrt(mean(x^2) + eps) over the last dimension C, times gamma [C] if `scale`."""

    name: ClassVar[str] = "rms_norm"
    eps: float = 1e-6
    scale: bool = True

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        return _like_first(self, types, 1 + self.scale)

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        return down_the_planes(self, types, weight_time)

    def reference(self, *inputs: Any) -> Any:
        gamma = inputs[1] if self.scale else None
        return F.rms_norm(inputs[0], inputs[0].shape[-1:], gamma, self.eps)
