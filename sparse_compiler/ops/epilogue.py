"""The trait of ops that end in an elementwise expression, run on the result before its only store.

The expression sees the result as x0 and further inputs of the op, from number `operands` on, as
x1, x2, ...; they broadcast to the result. Conv, linear and the norms have it.
"""

from __future__ import annotations

from typing import Any

from ..errors import VerifyError
from ..ir.expr import Expr, parse_expr
from ..ir.op import Op
from ..ir.types import Dim, TensorType
from . import scalar
from .pointwise import broadcast


class TakesEpilogue(Op):
    """An op with an epilogue: the expression as text, `x0` for none."""

    epilogue: str

    @property
    def tree(self) -> Expr:
        """The expression, parsed."""
        return parse_expr(self.epilogue)

    @property
    def operands(self) -> int:
        """Index of the first input that the expression reads."""
        raise NotImplementedError(f"{type(self).__name__} does not say where its operands begin")


def check_epilogue(
    op: TakesEpilogue, shape: tuple[Dim, ...], tensors: tuple[TensorType, ...]
) -> None:
    """Raises `VerifyError` where the operands among the inputs `tensors` do not fit `shape`."""
    operands = tensors[op.operands :]
    scalar.check(op.tree, 1 + len(operands))
    for operand in operands:
        if broadcast(shape, operand.shape) != shape:
            raise VerifyError(f"an epilogue operand of {operand.shape} widens {shape}")


def apply_epilogue(op: TakesEpilogue, result: Any, inputs: tuple[Any, ...]) -> Any:
    """The epilogue of `result`, by torch; inputs: all of the op's."""
    return scalar.evaluate(op.tree, (result, *inputs[op.operands :]))
