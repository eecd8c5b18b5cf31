"""Scaled dot product attention: softmax(q k^T * scale + mask) v (arXiv:1706.03762)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Layout, TensorType, Type
from .pointwise import broadcast

PLANES = Layout((1, 3, 0, 2), 2)
"""Heads and features count planes, samples and tokens run inside them."""
MAX_HEAD_SIZE = 256


@OPS.register("attention")
@dataclass(frozen=True)
class Attention(Op):
    """q [B, H, Sq, D], k [B, G, Sk, D], v [B, G, Sk, E], then a mask if `mask` -> [B, H, Sq, E].

    The mask is bool (true: attend) or additive, and broadcasts to [B, H, Sq, Sk]. `causal` aligns
    at the top left, as torch's. H is a multiple of G (grouped queries). scale: none = 1/sqrt(D).
    """

    name: ClassVar[str] = "attention"
    mask: bool = False
    causal: bool = False
    scale: float | None = None

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
        layout = PLANES if q.layout is not None else None
        return TensorType(q.dtype, (*q.shape[:3], v.shape[3]), layout)

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        tensors = tensor_inputs(self, types, 3, 4)
        q, _, v = tensors[:3]
        if any(t.layout != PLANES for t in tensors[:3]):
            return No("outside_region", "query, key and value are not all computed in planes")
        if q.shape[2] != tensors[1].shape[2]:
            return No("cross_attention", f"{q.shape[2]} queries but {tensors[1].shape[2]} keys")
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
        return result
