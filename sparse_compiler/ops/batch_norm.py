"""Batch norm with running statistics (arXiv:1502.03167): one scale and shift per channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Layout, TensorType, Type
from .images import image_in_planes
from .pointwise import same_dtype
from .shape import OUTSIDE, in_planes


@OPS.register("batch_norm")
@dataclass(frozen=True)
class BatchNorm(Op):
    """(x - mean) / sqrt(var + eps) per channel, times gamma, plus beta; inference only.

    Inputs: x [B, C, ...], mean [C], var [C], then gamma [C] if `scale`, then beta [C] if `shift`.
    """

    name: ClassVar[str] = "batch_norm"
    channel_dim: ClassVar[int] = 1
    eps: float = 1e-5
    scale: bool = True
    shift: bool = True

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        count = 3 + self.scale + self.shift
        tensors = tensor_inputs(self, types, count, count)
        x = tensors[0]
        for vector in tensors[1:]:
            if x.rank < 2 or vector.shape != x.shape[1:2]:
                raise VerifyError(f"batch_norm of {x.shape} with {vector.shape}")
        return TensorType(same_dtype(self.name, tensors), x.shape, x.layout)

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        x = tensor_inputs(self, types, 3, 5)[0]
        layout = in_planes(x)
        if layout is None:
            return OUTSIDE
        found = image_in_planes(self, types, weight_time, len(types))
        if isinstance(found, No) or layout.outer != (1,):
            return found
        return (layout, *found[1:])

    def reference(self, *inputs: Any) -> Any:
        gamma = inputs[3] if self.scale else None
        beta = inputs[-1] if self.shift else None
        return F.batch_norm(inputs[0], inputs[1], inputs[2], gamma, beta, False, 0.0, self.eps)
