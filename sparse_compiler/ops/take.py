"""Some elements of a weight along one dimension: what is left of a layer once the dead are out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import torch

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.types import TensorType, Type

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
