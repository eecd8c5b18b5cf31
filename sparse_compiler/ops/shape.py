"""Ops that rename elements and compute nothing: reshape, permute, slice; and relayout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Dim, Layout, TensorType, Type, as_dim, product


@OPS.register("reshape")
@dataclass(frozen=True)
class Reshape(Op):
    """The same elements in row-major order under another shape; every dimension is given."""

    name: ClassVar[str] = "reshape"
    view: ClassVar[bool] = True
    shape: tuple[Dim, ...] = ()

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        (x,) = tensor_inputs(self, types, 1, 1)
        sizes = (product(x.shape), product(self.shape))
        if all(isinstance(size, int) for size in sizes) and sizes[0] != sizes[1]:
            raise VerifyError(f"reshape of {x.shape} to {self.shape} changes the size")
        layout = None if x.layout is None else reshape_layout(x.shape, x.layout, self.shape)
        return TensorType(x.dtype, self.shape, layout)

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        return _free_in_planes(self, types)

    def reference(self, *inputs: Any) -> Any:
        return inputs[0].reshape(self.shape)


@OPS.register("permute")
@dataclass(frozen=True)
class Permute(Op):
    """Dimension i of the result is dimension dims[i] of the input."""

    name: ClassVar[str] = "permute"
    view: ClassVar[bool] = True
    dims: tuple[int, ...] = ()

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        (x,) = tensor_inputs(self, types, 1, 1)
        if sorted(self.dims) != list(range(x.rank)):
            raise VerifyError(f"permute of {x.rank} dimensions by {self.dims}")
        layout = x.layout
        if layout is not None:
            layout = Layout(tuple(self.dims.index(d) for d in layout.order), layout.planes)
        return TensorType(x.dtype, tuple(x.shape[d] for d in self.dims), layout)

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        return _free_in_planes(self, types)

    def reference(self, *inputs: Any) -> Any:
        return inputs[0].permute(self.dims)


@OPS.register("slice")
@dataclass(frozen=True)
class Slice(Op):
    """Elements start, start+1, ..., stop-1 of dimension `dim`."""

    name: ClassVar[str] = "slice"
    view: ClassVar[bool] = True
    dim: int = 0
    start: Dim = 0
    stop: Dim = 0

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        (x,) = tensor_inputs(self, types, 1, 1)
        if not 0 <= self.dim < x.rank:
            raise VerifyError(f"slice of dimension {self.dim} of {x.rank}")
        bounds = (0, self.start, self.stop, x.shape[self.dim])
        numbers = [b for b in bounds if isinstance(b, int)]
        if numbers != sorted(numbers):
            raise VerifyError(f"slice of {self.start} to {self.stop} of {x.shape[self.dim]}")
        shape = list(x.shape)
        shape[self.dim] = as_dim(self.stop - self.start)
        return TensorType(x.dtype, tuple(shape), _slice_layout(x, self.dim))

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        return _free_in_planes(self, types)

    def reference(self, *inputs: Any) -> Any:
        return inputs[0].narrow(self.dim, self.start, self.stop - self.start)


@OPS.register("relayout")
@dataclass(frozen=True)
class Relayout(Op):
    """The same tensor stored in another order, as in `Layout`; an empty order: row-major."""

    name: ClassVar[str] = "relayout"
    order: tuple[int, ...] = ()
    planes: int = 0

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        (x,) = tensor_inputs(self, types, 1, 1)
        return x.laid_out(Layout(self.order, self.planes) if self.order else None)

    def reference(self, *inputs: Any) -> Any:
        return inputs[0]


def _free_in_planes(op: Op, types: tuple[Type, ...]) -> tuple[Layout | None, ...] | No:
    """A view is free where its result still is rows of planes, one after another."""
    (x,) = tensor_inputs(op, types, 1, 1)
    if x.layout is None:
        return No("outside_region", "the input is not computed in planes")
    result = op.infer(types)
    if not isinstance(result, TensorType) or result.layout is None:
        return No("layout", f"{op.name} moves elements between planes")
    return (x.layout,)


def _slice_layout(x: TensorType, dim: int) -> Layout | None:
    """A slice keeps planes whole and adjacent where only dimensions of size 1 stand outside it."""
    if x.layout is None or dim not in x.layout.outer:
        return None
    outside = x.layout.outer[: x.layout.outer.index(dim)]
    return x.layout if all(x.shape[d] == 1 for d in outside) else None


def reshape_layout(old: tuple[Dim, ...], layout: Layout, new: tuple[Dim, ...]) -> Layout | None:
    """The layout under which a reshape moves nothing, or None where there is none.

    Matches runs of dimensions of equal product, left to right. A run keeps its bytes where its old
    dimensions stand in the layout in their logical order, side by side, on one side of the bar.
    """
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
