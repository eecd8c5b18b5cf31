"""Layer norm over the last dimension (Ba, Kiros, Hinton 2016, arXiv:1607.06450)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Layout, TensorType, Type
from .pointwise import same_dtype


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
        count = 1 + self.scale + self.shift
        tensors = tensor_inputs(self, types, count, count)
        for vector in tensors[1:]:
            if vector.shape != tensors[0].shape[-1:]:
                raise VerifyError(f"layer_norm of {tensors[0].shape} with {vector.shape}")
        return TensorType(same_dtype(self.name, tensors), tensors[0].shape, tensors[0].layout)

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        tensors = tensor_inputs(self, types, 1, 3)
        x = tensors[0]
        if x.layout is None:
            return No("outside_region", "the input is not computed in planes")
        if x.layout.outer != (x.rank - 1,):
            return No("layout", "the normalised dimension does not count planes")
        if not all(weight_time[1:]):
            return No("weight_is_computed", "gamma or beta changes from call to call")
        return (x.layout, *(None for _ in tensors[1:]))

    def reference(self, *inputs: Any) -> Any:
        gamma = inputs[1] if self.scale else None
        beta = inputs[-1] if self.shift else None
        return F.layer_norm(inputs[0], inputs[0].shape[-1:], gamma, beta, self.eps)
