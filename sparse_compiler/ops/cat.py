"""Tensors joined along one dimension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Dim, Layout, TensorType, Type, as_dim, result_layout
from .pointwise import same_dtype
from .shape import OUTSIDE, in_planes

MAX_INPUTS = 4096


@OPS.register("cat")
@dataclass(frozen=True)
class Cat(Op):
    """The inputs one after another along dimension `dim`; their other dimensions are equal."""

    name: ClassVar[str] = "cat"
    rows: ClassVar[bool] = True
    moves: ClassVar[bool] = True
    dim: int = 0

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        tensors = tensor_inputs(self, types, 1, MAX_INPUTS)
        first = tensors[0]
        if not 0 <= self.dim < first.rank:
            raise VerifyError(f"cat along dimension {self.dim} of {first.rank}")
        frames = {_without(t.shape, self.dim) for t in tensors}
        if len(frames) != 1 or {t.rank for t in tensors} != {first.rank}:
            raise VerifyError(f"cat along {self.dim} of {[t.shape for t in tensors]}")
        total = as_dim(sum((t.shape[self.dim] for t in tensors[1:]), first.shape[self.dim]))
        shape = (*first.shape[: self.dim], total, *first.shape[self.dim + 1 :])
        planar = next((t.layout for t in tensors if t.layout is not None), None)
        layout = result_layout(tensors, first.rank, planar)
        return TensorType(same_dtype(self.name, tensors), shape, layout)

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        tensors = tensor_inputs(self, types, 1, MAX_INPUTS)
        layout = next((t.layout for t in tensors if in_planes(t) is not None), None)
        if layout is None:
            return OUTSIDE
        if tensors[0].dtype != "f32":
            return No("dtype_unsupported", f"planes hold f32, these tensors {tensors[0].dtype}")
        return (layout,) * len(tensors)

    def reference(self, *inputs: Any) -> Any:
        return torch.cat(inputs, self.dim)


def _without(shape: tuple[Dim, ...], dim: int) -> tuple[Dim, ...]:
    return shape[:dim] + shape[dim + 1 :]
