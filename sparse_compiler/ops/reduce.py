"""Reductions over some dimensions: sums, means, extremes and where they stand, all and any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Layout, TensorType, Type, result_layout, torch_dtype
from .shape import OUTSIDE, in_planes


@dataclass(frozen=True)
class Reduction:
    """reference(x, dims, keepdim); result: "same", "sum" (integers and bools give i64), a dtype;
    planar: has a kernel on planes of f32; single: over one dimension only."""

    reference: Callable[[Any, tuple[int, ...], bool], Any]
    result: str = "same"
    planar: bool = False
    single: bool = False


def _prod(x: Any, dims: tuple[int, ...], keepdim: bool) -> Any:
    for dim in sorted(dims, reverse=True):
        x = x.prod(dim, keepdim)
    return x


REDUCTIONS: dict[str, Reduction] = {
    "sum": Reduction(lambda x, d, k: x.sum(d, k), "sum", planar=True),
    "mean": Reduction(lambda x, d, k: x.mean(d, k), planar=True),
    "amax": Reduction(lambda x, d, k: x.amax(d, k), planar=True),
    "amin": Reduction(lambda x, d, k: x.amin(d, k), planar=True),
    "prod": Reduction(_prod, "sum"),
    "any": Reduction(lambda x, d, k: (x != 0).any(d, k), "bool"),
    "all": Reduction(lambda x, d, k: (x != 0).all(d, k), "bool"),
    "argmax": Reduction(lambda x, d, k: x.argmax(d[0], k), "i64", single=True),
    "argmin": Reduction(lambda x, d, k: x.argmin(d[0], k), "i64", single=True),
}


@OPS.register("reduce")
@dataclass(frozen=True)
class Reduce(Op):
    """fn over the dimensions `dims`, which are left out, or kept with size 1 if `keepdim`.

    fn: a row of `REDUCTIONS`. A mean is of floats; a NaN wins an extreme; of equal ones, argmax and
    argmin give any, as torch's.
    """

    name: ClassVar[str] = "reduce"
    rows: ClassVar[bool] = True
    fn: str = "sum"
    dims: tuple[int, ...] = ()
    keepdim: bool = False

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        (x,) = tensor_inputs(self, types, 1, 1)
        row = REDUCTIONS.get(self.fn)
        if row is None:
            raise VerifyError(f"no reduction is named {self.fn!r}", fix=f"one of {[*REDUCTIONS]}")
        if not self.dims or len({*self.dims}) != len(self.dims) or (row.single and self.dims[1:]):
            raise VerifyError(f"{self.fn} over the dimensions {self.dims}")
        if not all(0 <= d < x.rank for d in self.dims):
            raise VerifyError(f"{self.fn} over {self.dims} of {x.rank} dimensions")
        floating = torch_dtype(x.dtype).is_floating_point
        if self.fn == "mean" and not floating:
            raise VerifyError(f"a mean of {x.dtype}", fix="convert it to floats first")
        dtype = {"same": x.dtype, "sum": x.dtype if floating else "i64"}.get(row.result, row.result)
        kept = [d for d in range(x.rank) if d not in self.dims]
        shape = tuple(x.shape[d] if d in kept else 1 for d in range(x.rank))
        if not self.keepdim:
            shape = tuple(x.shape[d] for d in kept)
        layout = result_layout((x,), len(shape), self._layout(x.layout, kept))
        return TensorType(dtype, shape, layout)

    def _layout(self, layout: Layout | None, kept: list[int]) -> Layout | None:
        """What is left of the order; a plane that is left out leaves rows behind."""
        if layout is None or self.keepdim:
            return layout
        order = tuple(kept.index(d) for d in layout.order if d in kept)
        return Layout(order, sum(d in kept for d in layout.outer))

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        (x,) = tensor_inputs(self, types, 1, 1)
        layout = in_planes(x)
        if layout is None:
            return OUTSIDE
        if x.dtype != "f32" or not REDUCTIONS[self.fn].planar:
            return No("dtype_unsupported", f"{self.fn} of {x.dtype} has no kernel for planes")
        columns = set(layout.inner[1:])  # batch stands outermost inside a plane
        if (columns and set(self.dims) == columns) or self.dims == layout.outer:
            return (layout,)
        return No("layout", f"{self.dims} are neither all columns of a sample nor the planes")

    def reference(self, *inputs: Any) -> Any:
        return REDUCTIONS[self.fn].reference(inputs[0], self.dims, self.keepdim)
