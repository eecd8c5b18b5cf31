"""Maximum or mean over windows, of a fixed size or of as many as are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch.nn.functional as F

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Dim, Layout, TensorType, Type, as_dim, result_layout
from .images import (
    channel_planes,
    check_positive,
    check_shape,
    image_in_planes,
    spatial,
    window_count,
)

_MAX: tuple[Callable[..., Any], ...] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_AVG: tuple[Callable[..., Any], ...] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
_ADAPTIVE: dict[str, tuple[Callable[..., Any], ...]] = {
    "max": (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
    "avg": (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
}


@OPS.register("pool")
@dataclass(frozen=True)
class Pool(Op):
    """x [B, C, *s] -> the "max" or "avg" of each window, [B, C, *s'], one number per dimension.

    padding: -inf for max, zeros for avg. ceil_mode: windows may hang over the end. An average
    divides by `divisor`, else by the elements of its window: those in the image or the padding
    with `count_include_pad`, those in the image without. A NaN in a window gives NaN.
    """

    name: ClassVar[str] = "pool"
    kind: str = "max"
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: int | None = None

    def within(self, sizes: Sequence[Dim]) -> Pool:
        """The same on images of these sizes, without what of windows hangs over the padded image,
        as ceil_mode lets it: that counts for nothing, yet a kernel would visit it."""
        windows = zip(self.kernel, sizes, self.padding, self.dilation, strict=True)
        kernel = tuple(
            min(k, size + 2 * pad) if isinstance(size, int) and dilation == 1 else k
            for k, size, pad, dilation in windows
        )
        # One window is where it is with any stride, and kernels lay out their lines by the stride.
        longest = (as_dim(size + 2 * p) for size, p in zip(sizes, self.padding, strict=True))
        windows_apart = zip(kernel, longest, self.stride, strict=True)
        stride = tuple(1 if k == whole else step for k, whole, step in windows_apart)
        return replace(self, kernel=kernel, stride=stride)

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        (x,) = tensor_inputs(self, types, 1, 1)
        dims = len(self.kernel)
        sizes = spatial(self, x, dims)
        windows = (self.stride, self.padding, self.dilation)
        if self.kind not in _ADAPTIVE or dims > 3 or any(len(w) != dims for w in windows):
            raise VerifyError(f"{self} of {x.shape}")
        if self.kind == "avg" and any(d != 1 for d in self.dilation):
            raise VerifyError("an average pool has no dilation")
        if self.divisor is not None and (self.kind == "max" or dims == 1 or not self.divisor):
            raise VerifyError(f"divisor={self.divisor} in {self}")
        check_positive(self, kernel=self.kernel, stride=self.stride, dilation=self.dilation)
        found = tuple(
            window_count(size, *window, ceil_mode=self.ceil_mode)
            for size, *window in zip(sizes, self.kernel, *windows, strict=True)
        )
        shape = check_shape(self, (*x.shape[:2], *found))
        return TensorType(x.dtype, shape, result_layout((x,), x.rank, channel_planes(x.rank)))

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        return image_in_planes(self, types, weight_time)

    def reference(self, *inputs: Any) -> Any:
        place = len(self.kernel) - 1
        windows = (self.kernel, self.stride, self.padding)
        if self.kind == "max":
            return _MAX[place](inputs[0], *windows, self.dilation, self.ceil_mode)
        divisor = () if place == 0 else (self.divisor,)  # torch's avg_pool1d takes none
        return _AVG[place](inputs[0], *windows, self.ceil_mode, self.count_include_pad, *divisor)


@OPS.register("adaptive_pool")
@dataclass(frozen=True)
class AdaptivePool(Op):
    """x [B, C, *s] -> [B, C, *size]: output i is over floor(i s / size) .. ceil((i+1) s / size)."""

    name: ClassVar[str] = "adaptive_pool"
    kind: str = "avg"
    size: tuple[Dim, ...] = ()

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        (x,) = tensor_inputs(self, types, 1, 1)
        spatial(self, x, len(self.size))
        if self.kind not in _ADAPTIVE or len(self.size) > 3:
            raise VerifyError(f"{self} of {x.shape}")
        shape = check_shape(self, (*x.shape[:2], *self.size))
        return TensorType(x.dtype, shape, result_layout((x,), x.rank, channel_planes(x.rank)))

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        return image_in_planes(self, types, weight_time)

    def reference(self, *inputs: Any) -> Any:
        return _ADAPTIVE[self.kind][len(self.size) - 1](inputs[0], self.size)
