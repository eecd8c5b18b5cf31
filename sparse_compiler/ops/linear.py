"""y = epilogue(x W^T + b): the op that this compiler exists for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F

from ..errors import VerifyError
from ..ir.op import OPS, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Layout, TensorType, Type, result_layout
from .epilogue import TakesEpilogue, apply_epilogue, check_epilogue
from .norm import one_column
from .pointwise import operand_layouts, same_dtype


@OPS.register("linear")
@dataclass(frozen=True)
class Linear(TakesEpilogue):
    """x [..., K], W [M, K], then b [M] if `bias`, then whatever the epilogue reads as x1, x2, ...

    The epilogue sees x W^T + b as x0; its other operands broadcast to the result [..., M].
    """

    name: ClassVar[str] = "linear"
    weight_input: ClassVar[int | None] = 1
    bias: bool = False
    epilogue: str = "x0"

    @property
    def operands(self) -> int:
        """Index of the first input that the epilogue reads."""
        return 3 if self.bias else 2

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        tensors = tensor_inputs(self, types, self.operands, 64)
        x, weight = tensors[0], tensors[1]
        if weight.rank != 2 or x.rank < 1 or x.shape[-1] != weight.shape[1]:
            raise VerifyError(f"linear of {x.shape} with a weight of {weight.shape}")
        if self.bias and tensors[2].shape != (weight.shape[0],):
            raise VerifyError(f"a bias of {tensors[2].shape} with a weight of {weight.shape}")
        shape = (*x.shape[:-1], weight.shape[0])
        check_epilogue(self, shape, tensors)
        dtype = same_dtype(self.name, tensors)
        return TensorType(dtype, shape, result_layout((x,), len(shape), planes_of_last(x)))

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        tensors = tensor_inputs(self, types, self.operands, 64)
        x, weight = tensors[0], tensors[1]
        if x.dtype != "f32":
            return No("dtype_unsupported", f"kernels compute in f32, this layer in {x.dtype}")
        if not all(weight_time[1 : self.operands]):
            return No("weight_is_computed", "the weight or bias changes from call to call")
        if one_column(self._beside(tensors), self._result(tensors)) is None and not weight_time[0]:
            return No("one_column", "one column is computed in rows, along the weight")
        if weight_time[0] or x.rank < 2:
            return No("rank_unsupported", f"the input has shape {x.shape}, no batch of rows")
        layout = Layout((x.rank - 1, *range(x.rank - 1)), 1)
        shape = (*x.shape[:-1], weight.shape[0])
        first = self.operands
        operands = operand_layouts(shape, layout, tensors[first:], weight_time[first:])
        if isinstance(operands, No):
            return operands
        return (layout, *(None for _ in tensors[1:first]), *operands)

    def row_major(self, types: tuple[Type, ...]) -> No | None:
        tensors = tensor_inputs(self, types, self.operands, 64)
        return one_column(self._beside(tensors), self._result(tensors))

    def _beside(self, tensors: tuple[TensorType, ...]) -> tuple[TensorType, ...]:
        """All inputs but the weight."""
        return (tensors[0], *tensors[2:])

    def _result(self, tensors: tuple[TensorType, ...]) -> TensorType:
        return TensorType(tensors[0].dtype, (*tensors[0].shape[:-1], tensors[1].shape[0]))

    def reference(self, *inputs: Any) -> Any:
        result = F.linear(inputs[0], inputs[1], inputs[2] if self.bias else None)
        return apply_epilogue(self, result, inputs)


def planes_of_last(x: TensorType) -> Layout | None:
    """The layout in which the last dimension counts planes, if `x` has a planar one at all."""
    if x.layout is None:
        return None
    return Layout((x.rank - 1, *range(x.rank - 1)), 1)
