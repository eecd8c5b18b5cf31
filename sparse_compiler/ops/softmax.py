"""Softmax over the last dimension, and its logarithm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Layout, TensorType, Type
from .norm import down_the_planes


@OPS.register("softmax")
@dataclass(frozen=True)
class Softmax(Op):
    """exp(x) / sum(exp(x)) over the last dimension; its logarithm if `log`."""

    name: ClassVar[str] = "softmax"
    log: bool = False

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        (x,) = tensor_inputs(self, types, 1, 1)
        if x.rank == 0:
            raise VerifyError("softmax of a single number")
        return x

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        return down_the_planes(self, types, weight_time)

    def reference(self, *inputs: Any) -> Any:
        return F.log_softmax(inputs[0], -1) if self.log else F.softmax(inputs[0], -1)
