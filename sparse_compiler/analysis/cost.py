"""What a copy, a sweep and a change of side cost: the price that a native region must earn back."""

from __future__ import annotations

import math
from collections.abc import Mapping

import sympy

from sparse_compiler.ir.types import Dim, TensorType, torch_dtype

CALL_NS = 10_000.0
"""Into a native segment from torch, and back."""
HOSTED_CALL_NS = 17_000.0
"""The same from Inductor's code."""
TORCH_CALL_NS = 4_000.0
"""One op run by torch: dispatch, allocation, the step around it."""
FUSED_CALL_NS = 300.0
"""One op in Inductor's code, which fuses most of them."""
COPY_BYTES_PER_NS = 10.0
"""Of a tensor copied into another order, counted once (it is read and written)."""
SWEEP_BYTES_PER_NS = 30.0
"""Of all that an elementwise op reads and writes, by all threads."""
UNKNOWN = 64
"""Assumed size of a dimension that only a result determines."""


def copy_ns(size: float) -> float:
    """Copying a tensor of `size` bytes into planes, out of them or into another order."""
    return size / COPY_BYTES_PER_NS


def sweep_ns(size: float) -> float:
    """An elementwise op that touches `size` bytes."""
    return size / SWEEP_BYTES_PER_NS


class Sizes:
    """Numbers for symbolic sizes, each worked out once.

    hints: symbol -> size in the compiled example.
    """

    def __init__(self, hints: Mapping[str, int]) -> None:
        self.hints = hints
        self._dims: dict[sympy.Expr, int] = {}

    def dim(self, dim: Dim) -> int:
        """A dimension as a number, `UNKNOWN` for each symbol without a hint."""
        if isinstance(dim, int):
            return dim
        found = self._dims.get(dim)
        if found is None:
            hints = {s: sympy.Integer(self.hints.get(s.name, UNKNOWN)) for s in dim.free_symbols}
            found = self._dims[dim] = int(dim.xreplace(hints))
        return found

    def shape(self, type_: TensorType) -> tuple[int, ...]:
        """All dimensions as numbers."""
        return tuple(self.dim(d) for d in type_.shape)

    def nbytes(self, type_: TensorType) -> int:
        """Size of a dense tensor."""
        return math.prod(self.shape(type_)) * torch_dtype(type_.dtype).itemsize


def relayout_ns(elements: int) -> float:
    """Copying an fp32 tensor into planes or out of them, in nanoseconds."""
    return copy_ns(elements * 4)
