"""Tensors made from nothing: a sequence of numbers, and one number everywhere.

Where their shape has symbols they are computed when shapes are bound, otherwise with the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.types import Dim, TensorType, Type, torch_dtype


@OPS.register("iota")
@dataclass(frozen=True)
class Iota(Op):
    """start, start + step, ...: `length` numbers of `dtype`."""

    name: ClassVar[str] = "iota"
    rows: ClassVar[bool] = True
    length: Dim = 0
    start: Dim | float = 0
    step: Dim | float = 1
    dtype: str = "i64"

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        tensor_inputs(self, types, 0, 0)
        if isinstance(self.length, int) and self.length < 0:
            raise VerifyError(f"iota of {self.length} numbers")
        return TensorType(self.dtype, (self.length,))

    def reference(self, *inputs: Any) -> Any:
        dtype = torch_dtype(self.dtype)
        wide = torch.float64 if dtype.is_floating_point else torch.int64
        return (torch.arange(self.length, dtype=wide) * self.step + self.start).to(dtype)


@OPS.register("full")
@dataclass(frozen=True)
class Full(Op):
    """`value` in every element of a tensor of `shape` and `dtype`."""

    name: ClassVar[str] = "full"
    rows: ClassVar[bool] = True
    value: Dim | float | bool = 0
    shape: tuple[Dim, ...] = ()
    dtype: str = "f32"

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        tensor_inputs(self, types, 0, 0)
        return TensorType(self.dtype, self.shape)

    def reference(self, *inputs: Any) -> Any:
        return torch.full(self.shape, self.value, dtype=torch_dtype(self.dtype))
