"""Images at another resolution: the nearest pixel, or linear between neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Dim, Layout, TensorType, Type, result_layout
from .images import channel_planes, check_shape, image_in_planes, spatial

_TARGETS = {
    "nearest": "upsample_nearest{}d",
    "nearest-exact": "_upsample_nearest_exact{}d",
    "linear": "upsample_{}",
}
_LINEAR = ("linear1d", "bilinear2d", "trilinear3d")


@OPS.register("upsample")
@dataclass(frozen=True)
class Upsample(Op):
    """x [B, C, *s] -> [B, C, *size], over 1 to 3 dimensions.

    With the step r = 1 / scale per dimension where `scales` are given, else r = s / size (as f32),
    output i reads position floor(i r) ("nearest"), floor((i + 0.5) r) ("nearest-exact"), or
    max(0, (i + 0.5) r - 0.5) ("linear", between its two neighbours), which with `align_corners` is
    i (s - 1) / (size - 1) whatever the scales. Positions end at s - 1.
    """

    name: ClassVar[str] = "upsample"
    mode: str = "nearest"
    size: tuple[Dim, ...] = ()
    align_corners: bool = False
    scales: tuple[float, ...] = ()

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        (x,) = tensor_inputs(self, types, 1, 1)
        dims = len(self.size)
        spatial(self, x, dims)
        if self.mode not in _TARGETS or dims > 3 or len(self.scales) not in (0, dims):
            raise VerifyError(f"{self} of {x.shape}")
        if (self.align_corners and self.mode != "linear") or any(s <= 0 for s in self.scales):
            raise VerifyError(f"{self} of {x.shape}")
        shape = check_shape(self, (*x.shape[:2], *self.size))
        return TensorType(x.dtype, shape, result_layout((x,), x.rank, channel_planes(x.rank)))

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        if self.mode == "linear" and len(self.size) > 2:
            return No("rank_unsupported", "no kernel interpolates linearly over three dimensions")
        return image_in_planes(self, types, weight_time)

    def reference(self, *inputs: Any) -> Any:
        dims = len(self.size)
        kind = _LINEAR[dims - 1] if self.mode == "linear" else dims
        function = getattr(torch.ops.aten, _TARGETS[self.mode].format(kind)).default
        corners = (self.align_corners,) if self.mode == "linear" else ()
        return function(inputs[0], list(self.size), *corners, *(self.scales or (None,) * dims))
