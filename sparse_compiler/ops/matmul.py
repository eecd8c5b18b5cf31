"""The product of two activations; with a weight it is a linear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import TensorType, Type, result_layout
from .pointwise import broadcast, same_dtype


@OPS.register("matmul")
@dataclass(frozen=True)
class Matmul(Op):
    """a [..., M, K], b [..., K, N] -> a b [..., M, N]; the leading dimensions broadcast."""

    name: ClassVar[str] = "matmul"
    rows: ClassVar[bool] = True

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        a, b = tensors = tensor_inputs(self, types, 2, 2)
        if a.rank < 2 or b.rank < 2 or a.shape[-1] != b.shape[-2]:
            raise VerifyError(f"the product of {a.shape} and {b.shape}")
        batch = broadcast(a.shape[:-2], b.shape[:-2])
        shape = (*batch, a.shape[-2], b.shape[-1])
        dtype = same_dtype(self.name, tensors)
        return TensorType(dtype, shape, result_layout(tensors, len(shape), None))

    def row_major(self, types: tuple[Type, ...]) -> No | None:
        result = self.infer(types)
        if result.dtype != "f32":
            return No("dtype_unsupported", f"the kernel multiplies f32, not {result.dtype}")
        if result.rank > 5:
            return No("rank_unsupported", f"a product over {result.rank - 2} batch dimensions")
        return None

    def reference(self, *inputs: Any) -> Any:
        return torch.matmul(inputs[0], inputs[1])
