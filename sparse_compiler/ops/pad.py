"""More, or fewer, elements at the ends of dimensions: a constant or copies of the tensor's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Dim, Layout, TensorType, Type, as_dim, result_layout
from .images import check_shape
from .shape import OUTSIDE, in_planes

MODES = ("constant", "reflect", "replicate", "circular")


@OPS.register("pad")
@dataclass(frozen=True)
class Pad(Op):
    """`before` and `after` elements at the start and end of each dimension, one of each per dim.

    Element i of the input's dimension of size n, counted over its ends, is `value` ("constant"),
    mirrored about the end without repeating it ("reflect"), the end itself ("replicate"), or
    i mod n ("circular"). Negative counts cut elements off; only "constant" takes them.
    """

    name: ClassVar[str] = "pad"
    rows: ClassVar[bool] = True
    mode: str = "constant"
    before: tuple[Dim, ...] = ()
    after: tuple[Dim, ...] = ()
    value: float = 0.0

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        (x,) = tensor_inputs(self, types, 1, 1)
        if self.mode not in MODES or not len(self.before) == len(self.after) == x.rank:
            raise VerifyError(f"{self} of {x.shape}")
        for size, ends in zip(x.shape, zip(self.before, self.after, strict=True), strict=True):
            self._check(size, ends)
        shape = tuple(
            as_dim(low + size + high)
            for size, low, high in zip(x.shape, self.before, self.after, strict=True)
        )
        return TensorType(x.dtype, check_shape(self, shape), result_layout((x,), x.rank, x.layout))

    def _check(self, size: Dim, ends: tuple[Dim, Dim]) -> None:
        """Raises `VerifyError` where an end reaches further than the mode has elements for."""
        limits: dict[str, Dim] = {"reflect": as_dim(size - 1), "circular": size}
        limit = limits.get(self.mode)
        for end in ends:
            if self.mode == "constant" or not isinstance(end, int):
                continue
            too_far = isinstance(limit, int) and end > limit
            empty = end > 0 and size == 0
            if end < 0 or (end and too_far) or empty:
                raise VerifyError(f"{self.mode} padding by {end} of a dimension of {size}")

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        (x,) = tensor_inputs(self, types, 1, 1)
        layout = in_planes(x)
        if layout is None:
            return OUTSIDE
        if x.dtype != "f32":
            return No("dtype_unsupported", f"planes hold f32, this tensor {x.dtype}")
        return (layout,)

    def reference(self, *inputs: Any) -> Any:
        x = inputs[0]
        if self.mode == "constant":
            ends = zip(reversed(self.before), reversed(self.after), strict=True)
            return torch.constant_pad_nd(x, [n for pair in ends for n in pair], self.value)
        for dim, (low, high) in enumerate(zip(self.before, self.after, strict=True)):
            if low or high:
                places = self._sources(x.shape[dim], int(low), int(high))
                x = x.index_select(dim, places.to(x.device))
        return x

    def _sources(self, size: int, low: int, high: int) -> torch.Tensor:
        """Which element of a dimension each one of the result copies."""
        places = torch.arange(-low, size + high)
        if self.mode == "reflect":
            return size - 1 - (size - 1 - places.abs()).abs()
        return places.clamp(0, size - 1) if self.mode == "replicate" else places % size
