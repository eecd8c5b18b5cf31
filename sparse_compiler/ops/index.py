"""Elements picked by tensors of whole numbers: torch's advanced indexing, and gather.

Negative numbers count from the end, except in gather. A number outside raises `IndexError` or
`RuntimeError`, as torch's does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import TensorType, Type, result_layout
from .pointwise import broadcast

MAX_INDICES = 8


def check_indices(op: str, indices: tuple[TensorType, ...]) -> None:
    """Raises `VerifyError` where an index is of neither i64 nor i32."""
    for index in indices:
        if index.dtype not in ("i64", "i32"):
            raise VerifyError(f"{op} by numbers of {index.dtype}", fix="i64 or i32")


@OPS.register("index")
@dataclass(frozen=True)
class Index(Op):
    """x[:, ..., i0, i1, ...]: index k picks in dimension dim + k of x.

    The indices broadcast to one shape, which takes the place of those dimensions.
    """

    name: ClassVar[str] = "index"
    rows: ClassVar[bool] = True
    moves: ClassVar[bool] = True
    dim: int = 0

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        x, *indices = tensors = tensor_inputs(self, types, 2, 1 + MAX_INDICES)
        check_indices(self.name, tuple(indices))
        if self.dim < 0 or self.dim + len(indices) > x.rank:
            raise VerifyError(f"{len(indices)} indices from dimension {self.dim} of {x.rank}")
        picked = broadcast(*(i.shape for i in indices))
        shape = (*x.shape[: self.dim], *picked, *x.shape[self.dim + len(indices) :])
        return TensorType(x.dtype, shape, result_layout(tensors, len(shape), None))

    def row_major(self, types: tuple[Type, ...]) -> No | None:
        dtypes = sorted({t.dtype for t in tensor_inputs(self, types, 2, 1 + MAX_INDICES)[1:]})
        if len(dtypes) > 1:
            return No("dtype_unsupported", f"the kernel reads indices of one dtype, not {dtypes}")
        return super().row_major(types)

    def reference(self, *inputs: Any) -> Any:
        return inputs[0][(*(slice(None),) * self.dim, *(i.long() for i in inputs[1:]))]


@OPS.register("gather")
@dataclass(frozen=True)
class Gather(Op):
    """x, index of the same rank -> x[..., index[p], ...] at each place p of the index.

    Only dimension `dim` is replaced; in the others the index is no larger than x.
    """

    name: ClassVar[str] = "gather"
    rows: ClassVar[bool] = True
    moves: ClassVar[bool] = True
    dim: int = 0

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        x, index = tensors = tensor_inputs(self, types, 2, 2)
        check_indices(self.name, (index,))
        if x.rank != index.rank or not 0 <= self.dim < x.rank:
            raise VerifyError(f"gather along {self.dim} of {x.shape} by {index.shape}")
        for d, (size, limit) in enumerate(zip(index.shape, x.shape, strict=True)):
            known = isinstance(size, int) and isinstance(limit, int)
            if d != self.dim and known and int(size) > int(limit):
                raise VerifyError(f"gather along {self.dim} of {x.shape} by {index.shape}")
        return TensorType(x.dtype, index.shape, result_layout(tensors, x.rank, None))

    def reference(self, *inputs: Any) -> Any:
        return torch.gather(inputs[0], self.dim, inputs[1].long())
