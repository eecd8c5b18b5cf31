"""Running sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.types import TensorType, Type, result_layout, torch_dtype


@OPS.register("cumsum")
@dataclass(frozen=True)
class Cumsum(Op):
    """Element i is the sum of elements 0..i along dimension `dim`; of integers and bools in i64."""

    name: ClassVar[str] = "cumsum"
    rows: ClassVar[bool] = True
    dim: int = 0

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        (x,) = tensor_inputs(self, types, 1, 1)
        if not 0 <= self.dim < x.rank:
            raise VerifyError(f"cumsum along dimension {self.dim} of {x.rank}")
        dtype = x.dtype if torch_dtype(x.dtype).is_floating_point else "i64"
        return TensorType(dtype, x.shape, result_layout((x,), x.rank, None))

    def reference(self, *inputs: Any) -> Any:
        return torch.cumsum(inputs[0], self.dim)
