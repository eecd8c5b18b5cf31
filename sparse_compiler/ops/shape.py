"""Ops that rename elements and compute nothing: reshape, permute, slice, expand; and relayout.

`free(types)` tells whether one needs no copy where its input lies; as a torch view none does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import sympy
from torch.utils._sympy.functions import FloorDiv

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Dim, Layout, TensorType, Type, as_dim, product, result_layout
from .pointwise import broadcast

OUTSIDE = No("outside_region", "the input is not computed in planes")


def in_planes(x: TensorType) -> Layout | None:
    """The layout of what lies in planes; None of a torch tensor and of native rows."""
    return x.layout if x.layout is not None and x.layout.planes else None


@OPS.register("reshape")
@dataclass(frozen=True)
class Reshape(Op):
    """The same elements in row-major order under another shape; every dimension is given."""

    name: ClassVar[str] = "reshape"
    view: ClassVar[bool] = True
    rows: ClassVar[bool] = True
    moves: ClassVar[bool] = True
    shape: tuple[Dim, ...] = ()

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        (x,) = tensor_inputs(self, types, 1, 1)
        sizes = (product(x.shape), product(self.shape))
        if all(isinstance(size, int) for size in sizes) and sizes[0] != sizes[1]:
            raise VerifyError(f"reshape of {x.shape} to {self.shape} changes the size")
        layout = None if x.layout is None else reshape_layout(x.shape, x.layout, self.shape)
        return TensorType(x.dtype, self.shape, result_layout((x,), len(self.shape), layout))

    def free(self, types: tuple[Type, ...]) -> bool:
        """True where the bytes stay as they are, in the layout of the input."""
        (x,) = tensor_inputs(self, types, 1, 1)
        return x.layout is None or self.infer(types).layout is not None

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        (x,) = tensor_inputs(self, types, 1, 1)
        layout = in_planes(x)
        if layout is None:
            return OUTSIDE
        sides = (tuple(sorted(layout.outer)), tuple(sorted(layout.inner)))
        for wanted in (layout, Layout(sides[0] + sides[1], layout.planes)):
            if reshape_layout(x.shape, wanted, self.shape) is not None:
                return (wanted,)
        return No("layout", f"{self.name} moves elements between planes")

    def reference(self, *inputs: Any) -> Any:
        return inputs[0].reshape(self.shape)


@OPS.register("permute")
@dataclass(frozen=True)
class Permute(Op):
    """Dimension i of the result is dimension dims[i] of the input."""

    name: ClassVar[str] = "permute"
    view: ClassVar[bool] = True
    rows: ClassVar[bool] = True
    moves: ClassVar[bool] = True
    dims: tuple[int, ...] = ()

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        (x,) = tensor_inputs(self, types, 1, 1)
        if sorted(self.dims) != list(range(x.rank)):
            raise VerifyError(f"permute of {x.rank} dimensions by {self.dims}")
        layout = x.layout
        if layout is not None:
            layout = Layout(tuple(self.dims.index(d) for d in layout.order), layout.planes)
        shape = tuple(x.shape[d] for d in self.dims)
        return TensorType(x.dtype, shape, result_layout((x,), x.rank, layout))

    def free(self, types: tuple[Type, ...]) -> bool:
        """True in planes, whose order is renamed; in rows where only sizes of 1 change places."""
        (x,) = tensor_inputs(self, types, 1, 1)
        if x.layout is None or x.layout.planes:
            return True
        moved = [d for d in self.dims if x.shape[d] != 1]
        return moved == sorted(moved)

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        (x,) = tensor_inputs(self, types, 1, 1)
        layout = in_planes(x)
        return OUTSIDE if layout is None else (layout,)

    def reference(self, *inputs: Any) -> Any:
        return inputs[0].permute(self.dims)


@OPS.register("slice")
@dataclass(frozen=True)
class Slice(Op):
    """Elements start, start + step, ... below stop of dimension `dim`; step is positive.

    In planes the result keeps the layout: a copy, unless `free`.
    """

    name: ClassVar[str] = "slice"
    view: ClassVar[bool] = True
    rows: ClassVar[bool] = True
    moves: ClassVar[bool] = True
    dim: int = 0
    start: Dim = 0
    stop: Dim = 0
    step: int = 1

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        (x,) = tensor_inputs(self, types, 1, 1)
        if not 0 <= self.dim < x.rank:
            raise VerifyError(f"slice of dimension {self.dim} of {x.rank}")
        bounds = (0, self.start, self.stop, x.shape[self.dim])
        numbers = [b for b in bounds if isinstance(b, int)]
        if numbers != sorted(numbers):
            raise VerifyError(f"slice of {self.start} to {self.stop} of {x.shape[self.dim]}")
        if not isinstance(self.step, int) or self.step < 1:
            raise VerifyError(f"a slice in steps of {self.step}")
        shape = list(x.shape)
        shape[self.dim] = _count(as_dim(self.stop - self.start), self.step)
        return TensorType(x.dtype, tuple(shape), x.layout)

    def free(self, types: tuple[Type, ...]) -> bool:
        """True where whole planes stay adjacent: only sizes of 1 stand outside the dimension."""
        (x,) = tensor_inputs(self, types, 1, 1)
        if x.layout is None:
            return True
        outer = x.layout.outer or x.layout.inner
        if self.step != 1 or self.dim not in outer:
            return False
        return all(x.shape[d] == 1 for d in outer[: outer.index(self.dim)])

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        (x,) = tensor_inputs(self, types, 1, 1)
        layout = in_planes(x)
        return OUTSIDE if layout is None else (layout,)

    def reference(self, *inputs: Any) -> Any:
        index = [slice(None)] * inputs[0].dim()
        index[self.dim] = slice(self.start, self.stop, self.step)
        return inputs[0][tuple(index)]


@OPS.register("expand")
@dataclass(frozen=True)
class Expand(Op):
    """The input spread over `shape` by torch's rule of broadcasting; every dimension is given.

    In planes the ranks are equal, and the result keeps the layout.
    """

    name: ClassVar[str] = "expand"
    rows: ClassVar[bool] = True
    moves: ClassVar[bool] = True
    shape: tuple[Dim, ...] = ()

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        (x,) = tensor_inputs(self, types, 1, 1)
        if broadcast(x.shape, self.shape) != self.shape:
            raise VerifyError(f"expand of {x.shape} to {self.shape}")
        layout = x.layout if x.rank == len(self.shape) else None
        return TensorType(x.dtype, self.shape, result_layout((x,), len(self.shape), layout))

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        (x,) = tensor_inputs(self, types, 1, 1)
        layout = in_planes(x)
        if layout is None:
            return OUTSIDE
        if x.rank != len(self.shape):
            return No("rank_unsupported", f"{x.shape} gains dimensions")
        return (layout,)

    def reference(self, *inputs: Any) -> Any:
        return inputs[0].expand(self.shape)


@OPS.register("relayout")
@dataclass(frozen=True)
class Relayout(Op):
    """The same tensor stored in another order, as in `Layout`; an empty order: in a torch tensor.

    A single number (rank 0) has one order only, the empty one, and goes to the other side.
    """

    name: ClassVar[str] = "relayout"
    order: tuple[int, ...] = ()
    planes: int = 0

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        (x,) = tensor_inputs(self, types, 1, 1)
        native = bool(self.order) or (x.rank == 0 and x.layout is None)
        return x.laid_out(Layout(self.order, self.planes) if native else None)

    def reference(self, *inputs: Any) -> Any:
        return inputs[0]


def _count(extent: Dim, step: int) -> Dim:
    """How many steps start inside `extent`: its quotient by `step`, rounded up."""
    if step == 1:
        return extent
    if isinstance(extent, int):
        return -(-extent // step)
    last = sympy.expand((extent - 1) / sympy.Integer(step))
    if last.is_integer:
        return as_dim(last + 1)
    return as_dim(FloorDiv(extent + step - 1, step))


@lru_cache(maxsize=4096)  # layers repeat, and symbolic products are slow
def reshape_layout(old: tuple[Dim, ...], layout: Layout, new: tuple[Dim, ...]) -> Layout | None:
    """The layout under which a reshape moves nothing, or None where there is none.

    Matches runs of dimensions of equal product, left to right. A run keeps its bytes where its old
    dimensions stand in the layout in their logical order, side by side, on one side of the bar.
    """
    if not old:  # a number has no dimension that could stand anywhere
        return Layout.rows(len(new))
    groups = reshape_groups(old, new)
    if groups is None:
        return None
    target: dict[int, tuple[int, ...]] = {}
    for before, after in groups:
        present = [d for d in before if old[d] != 1] or list(before[:1])
        places = [layout.order.index(d) for d in present]
        if places != list(range(places[0], places[0] + len(places))):
            return None
        if places[0] < layout.planes <= places[-1]:
            return None
        target[places[0]] = after
    order: list[int] = []
    planes = 0
    for place in sorted(target):
        order += target[place]
        planes += len(target[place]) if place < layout.planes else 0
    return Layout(tuple(order), planes) if len(order) == len(new) else None


def reshape_groups(
    old: tuple[Dim, ...], new: tuple[Dim, ...]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]] | None:
    """Smallest runs of old and new dimensions with equal products; None where symbols forbid it."""
    groups = []
    i = j = 0
    while i < len(old) or j < len(new):
        first_i, first_j = i, j
        left: Dim = 1
        right: Dim = 1
        while True:
            if i < len(old) and (i == first_i or _smaller(left, right)):
                left = as_dim(left * old[i])
                i += 1
            elif j < len(new) and (j == first_j or _smaller(right, left)):
                right = as_dim(right * new[j])
                j += 1
            elif i < len(old) and old[i] == 1 and left == right and j == len(new):
                i += 1
            elif j < len(new) and new[j] == 1 and left == right and i == len(old):
                j += 1
            elif left == right:
                break
            else:
                return None
        groups.append((tuple(range(first_i, i)), tuple(range(first_j, j))))
    return [g for g in groups if g[0] or g[1]]


def _smaller(a: Dim, b: Dim) -> bool:
    """True where a divides b and is not b: more dimensions must join a's run."""
    if a == b:
        return False
    if isinstance(a, int) and isinstance(b, int):
        return a < b
    ratio = as_dim(b / a) if not isinstance(b / a, float) else 0
    return not isinstance(ratio, float) and ratio != 1 and (a == 1 or _is_integral(ratio))


def _is_integral(ratio: Dim) -> bool:
    return isinstance(ratio, int) or bool(ratio.is_integer)
