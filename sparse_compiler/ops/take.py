"""Some elements of a dimension out of all, and back: what is left of a layer without its dead."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import torch

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Layout, TensorType, Type
from .norm import down_the_planes

Ranges = tuple[tuple[int, int], ...]


def ranges_of(keep: torch.Tensor) -> Ranges:
    """A vector of bools as the ranges (start, stop) of its true elements."""
    padded = torch.zeros(len(keep) + 2, dtype=torch.int8)
    padded[1:-1] = keep
    edges = torch.nonzero(padded.diff()).flatten().tolist()
    return tuple(zip(edges[::2], edges[1::2], strict=True))


@OPS.register("take")
@dataclass(frozen=True)
class Take(Op):
    """The elements start <= i < stop of dimension `dim`, for each of `ranges`, one after another.

    The ranges ascend and do not touch. For values that depend on weights alone.
    """

    name: ClassVar[str] = "take"
    dim: int = 0
    ranges: Ranges = ()

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        (x,) = tensor_inputs(self, types, 1, 1)
        if not 0 <= self.dim < x.rank:
            raise VerifyError(f"take along dimension {self.dim} of {x.rank}")
        size = x.shape[self.dim]
        edges = [edge for pair in self.ranges for edge in pair]
        inside = isinstance(size, int) and all(0 <= e <= size for e in edges)
        if not inside or any(a >= b for a, b in pairwise(edges)):
            raise VerifyError(f"take of {self.ranges} along a dimension of {size}")
        shape = list(x.shape)
        shape[self.dim] = sum(stop - start for start, stop in self.ranges)
        return replace(x, shape=tuple(shape))

    def reference(self, *inputs: Any) -> Any:
        parts = [inputs[0].narrow(self.dim, a, b - a) for a, b in self.ranges]
        return torch.cat(parts, self.dim) if parts else inputs[0].narrow(self.dim, 0, 0)


@OPS.register("spread")
@dataclass(frozen=True)
class Spread(Op):
    """x [..., K], base [..., C], a number per channel -> [..., C]: x at `ranges`, else base.

    The ranges ascend, do not touch and hold K channels in all. Heads whose layer computes different
    numbers of features get as many each this way: the layer itself has no row for the others.
    """

    name: ClassVar[str] = "spread"
    ranges: Ranges = ()

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        x, base = tensor_inputs(self, types, 2, 2)
        edges = [edge for pair in self.ranges for edge in pair]
        kept = sum(stop - start for start, stop in self.ranges)
        if x.rank == 0 or base.rank == 0 or x.shape[-1] != kept or base.dtype != x.dtype:
            raise VerifyError(f"spread of {x.shape} over {kept} channels of {base.shape}")
        size = base.shape[-1]
        inside = isinstance(size, int) and all(0 <= e <= size for e in edges)
        if not inside or base.numel != size or any(a >= b for a, b in pairwise(edges)):
            raise VerifyError(f"spread to {self.ranges} of {base.shape}")
        return replace(x, shape=(*x.shape[:-1], size))

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        layouts = down_the_planes(self, types, weight_time)
        (x, _) = tensor_inputs(self, types, 2, 2)
        if not isinstance(layouts, No) and x.dtype != "f32":
            return No("dtype_unsupported", f"planes hold f32, this tensor {x.dtype}")
        return layouts

    def reference(self, *inputs: Any) -> Any:
        x, base = inputs
        size = base.shape[-1]
        places = torch.arange(x.shape[-1], x.shape[-1] + size)
        begin = 0
        for start, stop in self.ranges:
            places[start:stop] = torch.arange(begin, begin + stop - start)
            begin += stop - start
        both = torch.cat((x, base.reshape(size).expand(*x.shape[:-1], size)), -1)
        return both.index_select(-1, places.to(x.device))
