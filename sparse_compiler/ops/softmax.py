"""Softmax over one dimension, and its logarithm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Layout, TensorType, Type
from .shape import OUTSIDE, in_planes


@OPS.register("softmax")
@dataclass(frozen=True)
class Softmax(Op):
    """exp(x) / sum(exp(x)) over dimension `dim` (-1: the last); its logarithm if `log`."""

    name: ClassVar[str] = "softmax"
    rows: ClassVar[bool] = True
    log: bool = False
    dim: int = -1

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        (x,) = tensor_inputs(self, types, 1, 1)
        if x.rank == 0:
            raise VerifyError("softmax of a single number")
        if not -1 <= self.dim < x.rank:
            raise VerifyError(f"softmax over dimension {self.dim} of {x.rank}")
        return x

    def row_major(self, types: tuple[Type, ...]) -> No | None:
        (x,) = tensor_inputs(self, types, 1, 1)
        if x.dtype != "f32":
            return No("dtype_unsupported", f"the kernel computes in f32, this softmax in {x.dtype}")
        return None

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        (x,) = tensor_inputs(self, types, 1, 1)
        layout = in_planes(x)
        if layout is None:
            return OUTSIDE
        if layout.outer != (self.dim % x.rank,):
            return No("layout", f"dimension {self.dim} of the softmax does not count planes")
        return (layout,)

    def reference(self, *inputs: Any) -> Any:
        function = F.log_softmax if self.log else F.softmax
        return function(inputs[0], self.dim)
