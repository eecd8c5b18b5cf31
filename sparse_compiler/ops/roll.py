"""The elements of a tensor in another order along some dimensions: roll, flip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Dim, Layout, TensorType, Type
from .shape import OUTSIDE, in_planes


def _dims(op: Op, types: tuple[Type, ...], dims: tuple[int, ...]) -> TensorType:
    (x,) = tensor_inputs(op, types, 1, 1)
    if len(set(dims)) != len(dims) or not all(0 <= d < x.rank for d in dims):
        raise VerifyError(f"{op.name} along {dims} of {x.rank} dimensions")
    return x


def _planar(op: Op, types: tuple[Type, ...]) -> tuple[Layout | None, ...] | No:
    (x,) = tensor_inputs(op, types, 1, 1)
    layout = in_planes(x)
    return OUTSIDE if layout is None else (layout,)


@OPS.register("roll")
@dataclass(frozen=True)
class Roll(Op):
    """Element i of dimension dims[k] goes to (i + shifts[k]) mod its size; dims are distinct."""

    name: ClassVar[str] = "roll"
    rows: ClassVar[bool] = True
    moves: ClassVar[bool] = True
    shifts: tuple[Dim, ...] = ()
    dims: tuple[int, ...] = ()

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        if len(self.shifts) != len(self.dims):
            raise VerifyError(f"roll by {self.shifts} along {self.dims}")
        return _dims(self, types, self.dims)

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        return _planar(self, types)

    def reference(self, *inputs: Any) -> Any:
        return inputs[0].roll(self.shifts, self.dims)


@OPS.register("flip")
@dataclass(frozen=True)
class Flip(Op):
    """Each of `dims` from its end to its start."""

    name: ClassVar[str] = "flip"
    rows: ClassVar[bool] = True
    moves: ClassVar[bool] = True
    dims: tuple[int, ...] = ()

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        return _dims(self, types, self.dims)

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        return _planar(self, types)

    def reference(self, *inputs: Any) -> Any:
        return inputs[0].flip(self.dims)
