"""Group norm (arXiv:1803.08494); with as many groups as channels it is instance norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..errors import VerifyError
from ..ir.op import OPS, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Layout, TensorType, Type, result_layout
from .epilogue import TakesEpilogue, apply_epilogue, check_epilogue
from .images import channel_planes, image_in_planes
from .pointwise import operand_layouts, same_dtype


@OPS.register("group_norm")
@dataclass(frozen=True)
class GroupNorm(TakesEpilogue):
    """(x - mean) / sqrt(var + eps), mean and biased variance over C/groups channels of a sample.

    Inputs: x [B, C, ...], then gamma [C] if `scale`, then beta [C] if `shift`, then operands of the
    epilogue, which sees the result as x0.
    """

    name: ClassVar[str] = "group_norm"
    channel_dim: ClassVar[int] = 1
    groups: int = 1
    eps: float = 1e-5
    scale: bool = True
    shift: bool = True
    epilogue: str = "x0"

    @property
    def operands(self) -> int:
        """Index of the first input that the epilogue reads."""
        return 1 + self.scale + self.shift

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        tensors = tensor_inputs(self, types, self.operands, 64)
        x = tensors[0]
        if x.rank < 2 or self.groups < 1 or x.shape[1] % self.groups != 0:
            raise VerifyError(f"group_norm of {x.shape} in {self.groups} groups")
        for vector in tensors[1 : self.operands]:
            if vector.shape != x.shape[1:2]:
                raise VerifyError(f"group_norm of {x.shape} with {vector.shape}")
        check_epilogue(self, x.shape, tensors)
        layout = result_layout((x,), x.rank, channel_planes(x.rank))
        return TensorType(same_dtype(self.name, tensors), x.shape, layout)

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        first = self.operands
        found = image_in_planes(self, types, weight_time, first)
        if isinstance(found, No):
            return found
        tensors = tensor_inputs(self, types, first, 64)
        shape, layout = tensors[0].shape, channel_planes(tensors[0].rank)
        operands = operand_layouts(shape, layout, tensors[first:], weight_time[first:])
        return operands if isinstance(operands, No) else (*found, *operands)

    def reference(self, *inputs: Any) -> Any:
        gamma = inputs[1] if self.scale else None
        beta = inputs[self.operands - 1] if self.shift else None
        result = torch.group_norm(inputs[0], self.groups, gamma, beta, self.eps)
        return apply_epilogue(self, result, inputs)
