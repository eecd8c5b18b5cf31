"""Rotary position embedding (arXiv:2104.09864): pairs of features turned by an angle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Layout, TensorType, Type, result_layout
from .attention import PLANES
from .pointwise import broadcast, same_dtype
from .shape import OUTSIDE, in_planes

ANGLES = Layout((2, 0, 1), 1)


@OPS.register("rotary")
@dataclass(frozen=True)
class Rotary(Op):
    """x [B, H, S, D], cos and sin [B or 1, S, R] -> y [B, H, S, D]: x cos + turn(x) sin.

    The first R (even) of the D features turn, the others stay. turn pairs feature i with i + R/2,
    as Hugging Face's rotate_half: (-x[R/2:], x[:R/2]); if `interleaved`, 2i with 2i + 1: (-x1, x0).
    """

    name: ClassVar[str] = "rotary"
    interleaved: bool = False

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        x, cos, sin = tensors = tensor_inputs(self, types, 3, 3)
        if x.rank != 4 or cos.shape != sin.shape or cos.rank != 3:
            raise VerifyError(f"rotary of {x.shape} by {cos.shape} and {sin.shape}")
        size, features = cos.shape[2], x.shape[3]
        if not isinstance(size, int) or size % 2 or not isinstance(features, int):
            raise VerifyError(f"rotary turns {size} of {features} features")
        places = (x.shape[0], x.shape[2])
        if size > features or broadcast(cos.shape[:2], places) != places:
            raise VerifyError(f"rotary of {x.shape} by {cos.shape}")
        layout = result_layout(tensors, 4, PLANES)
        return TensorType(same_dtype(self.name, tensors), x.shape, layout)

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        x, *angles = tensor_inputs(self, types, 3, 3)
        if in_planes(x) is None:
            return OUTSIDE
        if x.dtype != "f32":
            return No("dtype_unsupported", f"planes hold f32, this tensor {x.dtype}")
        places = (x.shape[0], x.shape[2])
        for angle, fixed in zip(angles, weight_time[1:], strict=True):
            if not fixed and angle.shape[:2] != places:
                return No("broadcast", f"angles of {angle.shape} are spread over {x.shape}")
        return (PLANES, ANGLES, ANGLES)

    def row_major(self, types: tuple[Type, ...]) -> No | None:
        x, cos, _ = tensor_inputs(self, types, 3, 3)
        if (x.shape[0], x.shape[2]) != (1, 1) or not isinstance(x.shape[1], int):
            return No("many_columns", f"{x.shape} has many positions: planes are for them")
        if x.dtype != "f32" or cos.numel != cos.shape[2]:
            return No("dtype_unsupported", f"angles of {cos.shape} for {x.dtype} of {x.shape}")
        return None

    def reference(self, *inputs: Any) -> Any:
        x, cos, sin = inputs
        turned, kept = x.split([cos.shape[2], x.shape[3] - cos.shape[2]], -1)
        if self.interleaved:
            partner = torch.stack((-turned[..., 1::2], turned[..., ::2]), -1).flatten(-2)
        else:
            first, second = turned.chunk(2, -1)
            partner = torch.cat((-second, first), -1)
        return torch.cat((turned * cos[:, None] + partner * sin[:, None], kept), -1)
