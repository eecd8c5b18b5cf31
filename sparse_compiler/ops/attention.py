"""Scaled dot product attention: softmax(q k^T * scale + mask) v (arXiv:1706.03762)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Dim, Layout, TensorType, Type, result_layout
from .pointwise import broadcast

PLANES = Layout((1, 3, 0, 2), 2)
"""Heads and features count planes, samples and tokens run inside them."""
MAX_HEAD_SIZE = 256


def default_scale(size: Dim) -> float:
    """What scores of heads of that many features are multiplied by, unless it is said."""
    return 1 / math.sqrt(int(size))


@OPS.register("attention")
@dataclass(frozen=True)
class Attention(Op):
    """q [B, H, Sq, D], k [B, G, Sk, D], v [B, G, Sk, E], then a mask if `mask` -> [B, H, Sq, E].

    The mask is bool (true: attend) or additive, and broadcasts to [B, H, Sq, Sk]. `causal` aligns
    at the top left, as torch's. H is a multiple of G (grouped queries). scale: none = 1/sqrt(D).
    A query that may attend to nothing gives zeros, as torch's, or NaN, as a softmax, if `nan_rows`.
    """

    name: ClassVar[str] = "attention"
    mask: bool = False
    causal: bool = False
    scale: float | None = None
    nan_rows: bool = False

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        tensors = tensor_inputs(self, types, 3 + self.mask, 3 + self.mask)
        q, k, v = tensors[:3]
        if not (q.rank == k.rank == v.rank == 4 and q.dtype == k.dtype == v.dtype):
            raise VerifyError(f"attention of {q.shape}, {k.shape}, {v.shape}")
        same = q.shape[0] == k.shape[0] == v.shape[0] and q.shape[3] == k.shape[3]
        grouped = q.shape[1] == k.shape[1] or q.shape[1] % k.shape[1] == 0
        if not (same and grouped and k.shape[1:3] == v.shape[1:3]):
            raise VerifyError(f"attention of {q.shape}, {k.shape}, {v.shape}")
        if self.mask:
            scores = (*q.shape[:3], k.shape[2])
            if broadcast(scores, tensors[3].shape) != scores:
                raise VerifyError(f"a mask of {tensors[3].shape} on scores of {scores}")
        layout = result_layout(tensors[:3], 4, PLANES)
        return TensorType(q.dtype, (*q.shape[:3], v.shape[3]), layout)

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        tensors = tensor_inputs(self, types, 3, 4)
        q, _, v = tensors[:3]
        if all(t.layout is None or t.layout.planes == 0 for t in tensors[:3]):
            return No("outside_region", "none of query, key and value is computed in planes")
        sizes = (q.shape[1], q.shape[3], v.shape[1], v.shape[3])
        if not all(isinstance(s, int) for s in sizes) or max(map(int, sizes[1::2])) > MAX_HEAD_SIZE:
            return No("head_size", f"heads and sizes {sizes}; up to {MAX_HEAD_SIZE}, no symbols")
        if self.mask:
            scores = (*q.shape[:3], tensors[1].shape[2])
            mask = tensors[3]
            full = (1,) * (4 - mask.rank) + mask.shape
            if mask.dtype not in ("f32", "bool") or full[3] != scores[3]:
                return No("mask", f"a mask of {mask.dtype} and shape {mask.shape}")
        return (PLANES, PLANES, PLANES, *(None for _ in tensors[3:]))

    def row_major(self, types: tuple[Type, ...]) -> No | None:
        """One query, whose keys and values lie as a cache holds them."""
        tensors = tensor_inputs(self, types, 3, 4)
        q, k, v = tensors[:3]
        sizes = (q.shape[1], q.shape[3], k.shape[1], v.shape[3])
        if (q.shape[0], q.shape[2]) != (1, 1) or not all(isinstance(s, int) for s in sizes):
            return No("many_queries", f"queries {q.shape}, heads and sizes {sizes}: planes are for")
        if self.causal and k.shape[2] != 1:
            return No("causal", "one causal query attends to the first key only")
        if any(t.dtype != "f32" for t in tensors[:3]):
            return No("dtype_unsupported", f"kernels compute in f32, this op in {q.dtype}")
        if self.mask:
            mask, keys = tensors[3], k.shape[2]
            whole = mask.numel in (keys, q.shape[1] * keys)
            if mask.dtype not in ("f32", "bool") or not whole or mask.shape[-1] != keys:
                return No("mask", f"a mask of {mask.dtype} and shape {mask.shape}")
        return None

    def reference(self, *inputs: Any) -> Any:
        q, k, v = inputs[:3]
        result = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=inputs[3] if self.mask else None,
            is_causal=self.causal,
            scale=self.scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        if not isinstance(result, torch.Tensor):
            raise VerifyError("attention gave no tensor")
        return result if not self.nan_rows else result.masked_fill(self._blind(inputs), math.nan)

    def _blind(self, inputs: tuple[Any, ...]) -> Any:
        """[B, H, Sq, 1]: true for a query whose scores are all -inf."""
        q, k = inputs[:2]
        open_ = torch.zeros(*q.shape[:3], k.shape[2], dtype=q.dtype)
        if self.mask:
            mask = inputs[3]
            hidden = ~mask if mask.dtype == torch.bool else mask == -math.inf
            open_ = open_.masked_fill(hidden, -math.inf)
        if self.causal:
            later = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).triu(1)
            open_ = open_.masked_fill(later, -math.inf)
        return (open_ == -math.inf).all(-1, keepdim=True)
