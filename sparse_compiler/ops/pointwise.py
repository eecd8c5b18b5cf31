"""All elementwise ops are one op with an expression: `pointwise[expr="add(gelu(x0), x1)"]`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

from ..errors import VerifyError
from ..ir.expr import Arg, Call, Expr, parse_expr
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import ELEMENTS, HALVES, Dim, Layout, TensorType, Type, result_layout, torch_dtype
from . import scalar


def broadcast(*shapes: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """The common shape of `shapes` by torch's rule. Raises `VerifyError` where there is none."""
    result: list[Dim] = []
    for axis in range(1, max(map(len, shapes), default=0) + 1):
        dims = {s[-axis] for s in shapes if len(s) >= axis and s[-axis] != 1}
        if len(dims) > 1:
            raise VerifyError(f"shapes {shapes} do not broadcast", why=f"{dims} differ")
        result.append(dims.pop() if dims else 1)
    return tuple(reversed(result))


def same_dtype(op: str, types: tuple[TensorType, ...]) -> str:
    """The one dtype of all inputs. Raises `VerifyError` where they differ."""
    dtypes = {t.dtype for t in types}
    if len(dtypes) != 1:
        raise VerifyError(f"{op} needs inputs of one dtype, not {sorted(dtypes)}")
    return dtypes.pop()


def per_plane(shape: tuple[Dim, ...], layout: Layout, operand: tuple[Dim, ...]) -> bool:
    """True where `operand`, broadcast to `shape`, holds one number per plane, or just one."""
    full = (1,) * (len(shape) - len(operand)) + operand
    if all(dim == 1 for dim in full):
        return True
    long = [d for d in layout.outer if shape[d] != 1]
    return (
        long == sorted(long)  # else its numbers stand in another order than the planes
        and all(full[d] == shape[d] for d in layout.outer)
        and all(full[d] == 1 for d in layout.inner)
    )


def operand_layouts(
    shape: tuple[Dim, ...],
    layout: Layout,
    operands: tuple[TensorType, ...],
    weight_time: tuple[bool, ...],
) -> tuple[Layout | None, ...] | No:
    """Layouts that the other operands of an elementwise op need beside a result in `layout`."""
    found: list[Layout | None] = []
    for operand, fixed in zip(operands, weight_time, strict=True):
        if fixed and per_plane(shape, layout, operand.shape):
            found.append(None)
        elif operand.shape == shape:
            found.append(layout)
        elif (spread := spread_layout(shape, layout, operand.shape, fixed)) is not None:
            found.append(spread)
        else:
            return No("broadcast", f"an operand of shape {operand.shape} is spread over {shape}")
    return tuple(found)


def spread_layout(
    shape: tuple[Dim, ...], layout: Layout, operand: tuple[Dim, ...], fixed: bool
) -> Layout | None:
    """Where an operand lies that broadcasts to a result in `layout`; None if no kernel reads it so.

    Its planes are those of the result, or serve whole runs of them. A constant (`fixed`) is written
    out over the columns when shapes are bound; an activation has all columns, or one a sample.
    """
    if not layout.inner:
        return None
    missing = len(shape) - len(operand)
    full = (1,) * missing + operand
    planes = [full[d] != 1 for d in layout.outer if shape[d] != 1]
    runs = sum(a and not b for a, b in pairwise((*planes, False)))
    batch, *columns = layout.inner
    whole = {full[d] == shape[d] for d in columns if shape[d] != 1}
    if runs > 1 or (not fixed and (missing or full[batch] != shape[batch] or len(whole) > 1)):
        return None
    order = tuple(d - missing for d in layout.order if d >= missing)
    outer = sum(d >= missing for d in layout.outer)
    return Layout(order, outer) if outer else None


@OPS.register("pointwise")
@dataclass(frozen=True)
class Pointwise(Op):
    """expr of the inputs x0, x1, ... element by element, with broadcasting.

    The inputs may differ in dtype: see `scalar.py`. dtype: of the result, which is converted to it;
    none: what the expression gives.
    """

    name: ClassVar[str] = "pointwise"
    rows: ClassVar[bool] = True
    expr: str = "x0"
    dtype: str | None = None

    @property
    def tree(self) -> Expr:
        """The expression, parsed."""
        return parse_expr(self.expr)

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        tensors = tensor_inputs(self, types, 1, 64)
        scalar.check(self.tree, len(tensors))
        dtype = scalar.dtype_of(self.tree, tuple(t.dtype for t in tensors))
        shape = broadcast(*(t.shape for t in tensors))
        planar = next((t.layout for t in tensors if t.shape == shape and t.layout), None)
        layout = result_layout(tensors, len(shape), planar)
        return TensorType(self.dtype or dtype, shape, layout)

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        tensors = tensor_inputs(self, types, 1, 64)
        shape = broadcast(*(t.shape for t in tensors))
        layouts = [t.layout for t in tensors if t.layout is not None and t.shape == shape]
        if not layouts:
            return No("outside_region", "no operand is computed in planes")
        foreign = self._foreign(tensors)
        if foreign is not None:
            return No("dtype_unsupported", f"kernels compute in f32, this op in {foreign}")
        return operand_layouts(shape, layouts[0], tensors, weight_time)

    def row_major(self, types: tuple[Type, ...]) -> No | None:
        tensors = tensor_inputs(self, types, 1, 64)
        inside = scalar.dtypes_in(self.tree, tuple(t.dtype for t in tensors))
        computed = (d for part, d in inside.items() if not scalar.converts(part, inside))
        dtypes = (*computed, *(t.dtype for t in tensors if t.dtype not in HALVES))
        foreign = next((dtype for dtype in dtypes if dtype not in ELEMENTS), None)
        return None if foreign is None else No("dtype_unsupported", f"kernels compute no {foreign}")

    def widened(self) -> Op | No:
        changed = replace(self, expr=str(scalar.widened(self.tree)))
        return replace(changed, dtype="f32") if self.dtype in HALVES else changed

    def _foreign(self, tensors: tuple[TensorType, ...]) -> str | None:
        """A dtype that vectors of f32 cannot stand for, among operands, parts and result."""
        inside = scalar.dtypes_in(self.tree, tuple(t.dtype for t in tensors))
        between = (d for part, d in inside.items() if isinstance(part, Call) and d != "bool")
        dtypes = (*(t.dtype for t in tensors), self.infer(tensors).dtype, *between)
        return next((dtype for dtype in dtypes if dtype != "f32"), None)

    def reference(self, *inputs: Any) -> Any:
        if len({t.dim() for t in inputs}) > 1:  # torch promotes single numbers by another rule
            inputs = tuple(t.reshape(1) if t.dim() == 0 else t for t in inputs)
        result = scalar.evaluate(self.tree, inputs)
        return result if self.dtype is None else result.to(torch_dtype(self.dtype))


def cast_of(op: Op) -> str | None:
    """The dtype to which a pointwise op converts its only input; None where it does more."""
    if not isinstance(op, Pointwise) or op.dtype is not None:
        return None
    match op.tree:
        case Call(fn=fn, args=(Arg(),)) if fn in scalar.CASTS:
            return fn
    return None
