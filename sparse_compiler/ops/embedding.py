"""Rows of a table, picked by number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Layout, TensorType, Type
from .index import check_indices


@OPS.register("embedding")
@dataclass(frozen=True)
class Embedding(Op):
    """table [V, C], ids [...] of whole numbers in 0..V-1 -> table[ids], [..., C].

    Native ids lie in rows. A result of f32 then lies in planes of the last dimension, any other in
    rows. Raises `IndexError` on an id outside the table.
    """

    name: ClassVar[str] = "embedding"
    rows: ClassVar[bool] = True
    moves: ClassVar[bool] = True

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        table, ids = tensor_inputs(self, types, 2, 2)
        check_indices(self.name, (ids,))
        if table.rank != 2:
            raise VerifyError(f"an embedding's table has 2 dimensions, not {table.shape}")
        shape = (*ids.shape, table.shape[1])
        layout: Layout | None = None
        if ids.layout is not None:
            planes = int(table.dtype == "f32" and ids.rank > 0)
            order = (ids.rank, *range(ids.rank)) if planes else tuple(range(len(shape)))
            layout = Layout(order, planes)
        return TensorType(table.dtype, shape, layout)

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        table, ids = tensor_inputs(self, types, 2, 2)
        if table.dtype != "f32" or ids.rank == 0:
            return No("dtype_unsupported", f"a table of {table.dtype} read by ids of {ids.shape}")
        if not weight_time[0]:
            return No("weight_is_computed", "the table changes from call to call")
        return (None, Layout.rows(ids.rank))

    def reference(self, *inputs: Any) -> Any:
        return F.embedding(inputs[1], inputs[0])
