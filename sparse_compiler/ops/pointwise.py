"""All elementwise ops are one op with an expression: `pointwise[expr="add(gelu(x0), x1)"]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import VerifyError
from ..ir.expr import Expr, parse_expr
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Dim, Layout, TensorType, Type
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
    return all(full[d] == shape[d] for d in layout.outer) and all(
        full[d] == 1 for d in layout.inner
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
        else:
            return No("broadcast", f"an operand of shape {operand.shape} is spread over {shape}")
    return tuple(found)


@OPS.register("pointwise")
@dataclass(frozen=True)
class Pointwise(Op):
    """expr of the inputs x0, x1, ... element by element, with broadcasting. One dtype for all."""

    name: ClassVar[str] = "pointwise"
    expr: str = "x0"

    @property
    def tree(self) -> Expr:
        """The expression, parsed."""
        return parse_expr(self.expr)

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        tensors = tensor_inputs(self, types, 1, 64)
        scalar.check(self.tree, len(tensors))
        shape = broadcast(*(t.shape for t in tensors))
        layout = next((t.layout for t in tensors if t.shape == shape and t.layout), None)
        return TensorType(same_dtype(self.name, tensors), shape, layout)

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        tensors = tensor_inputs(self, types, 1, 64)
        shape = broadcast(*(t.shape for t in tensors))
        layouts = [t.layout for t in tensors if t.layout is not None and t.shape == shape]
        if not layouts:
            return No("outside_region", "no operand is computed in planes")
        if tensors[0].dtype != "f32":
            return No("dtype_unsupported", f"kernels compute in f32, this op in {tensors[0].dtype}")
        return operand_layouts(shape, layouts[0], tensors, weight_time)

    def reference(self, *inputs: Any) -> Any:
        return scalar.evaluate(self.tree, inputs)
