"""The attention kernel against torch in float64: sizes, masks, causality, shared planes, pieces."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.kernels.native import call, planes

INF = math.inf


class Attention(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "o")),
        *((f"ld{name}", ctypes.c_int64) for name in "qkvo"),
        *((f"{name}_head", ctypes.c_int64) for name in "qkvo"),
        *((f"{name}_feature", ctypes.c_int64) for name in "qkvo"),
        *((n, ctypes.c_int64) for n in ("samples", "heads", "group", "sq", "sk", "d", "dv")),
        ("scale", ctypes.c_float),
        ("causal", ctypes.c_bool),
        ("mask", ctypes.c_void_p),
        *((f"mask_{name}", ctypes.c_int64) for name in ("b", "h", "k", "q")),
        *((name, ctypes.c_int64) for name in ("query0", "part", "part_stride", "rest", "rest_at")),
        ("unseeing", ctypes.c_float),
    )


def head_planes(x: Tensor, interleaved: bool) -> tuple[Tensor, int, int]:
    """[B, H, S, D] as planes [rows, B * S]; the head's and the feature's stride in rows."""
    samples, heads, tokens, d = x.shape
    order = (3, 1, 0, 2) if interleaved else (1, 3, 0, 2)
    rows = x.permute(order).reshape(heads * d, samples * tokens)
    return planes(rows), *((1, heads) if interleaved else (d, 1))


def run_attention(
    lib: ctypes.CDLL,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    interleaved: bool = False,
    unseeing: float = 0.0,
) -> Tensor:
    """mask [B or 1, H or 1, queries or 1, keys] additive."""
    samples, heads, sq, d = q.shape
    sk, dv = v.shape[2:]
    qp, q_head, q_feature = head_planes(q, interleaved)
    kp, k_head, k_feature = head_planes(k, interleaved)
    vp, v_head, v_feature = head_planes(v, interleaved)
    out, o_head, o_feature = head_planes(torch.zeros(samples, heads, sq, dv), interleaved)
    a = Attention(
        qp.data_ptr(), kp.data_ptr(), vp.data_ptr(), out.data_ptr(),
        qp.shape[1], kp.shape[1], vp.shape[1], out.shape[1],
        q_head, k_head, v_head, o_head, q_feature, k_feature, v_feature, o_feature,
        samples, heads, heads // k.shape[1], sq, sk, d, dv, 1 / math.sqrt(d), causal,
    )  # fmt: skip
    if mask is not None:
        rows = mask.transpose(2, 3)  # [b, h, keys, queries]
        plane = planes(rows.reshape(-1, rows.shape[3])).view(*rows.shape[:3], -1)
        strides = [0 if rows.shape[i] == 1 else plane.stride(i) for i in range(2)]
        a.mask, a.mask_b, a.mask_h = plane.data_ptr(), *strides
        a.mask_k, a.mask_q = plane.stride(2), int(rows.shape[3] > 1)
    a.unseeing = unseeing
    call(lib.attention, a)
    n = samples * sq
    assert bool(out[:, n:].isnan().all()), "columns of a neighbour were written"
    shape = (dv, heads, samples, sq) if interleaved else (heads, dv, samples, sq)
    back = out[:, :n].reshape(shape)
    return back.permute(2, 1, 3, 0) if interleaved else back.permute(2, 0, 3, 1)


def reference_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    return F.scaled_dot_product_attention(
        q.to(dtype), k.to(dtype), v.to(dtype), None if mask is None else mask.to(dtype),
        is_causal=causal, enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip


def check_attention(lib: ctypes.CDLL, q: Tensor, k: Tensor, v: Tensor, **options: object) -> None:
    got = run_attention(lib, q, k, v, **options)  # type: ignore[arg-type]
    options.pop("interleaved", None)
    want = reference_attention(q, k, v, **options)  # type: ignore[arg-type]
    eager = reference_attention(q, k, v, dtype=torch.float32, **options)  # type: ignore[arg-type]
    rounding = 2 * float((eager - want).abs().nan_to_num().max())
    torch.testing.assert_close(got.double(), want, rtol=0, atol=rounding + 1e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tokens,part", [(20, 16), (49, 32), (130, 48), (197, 112)])
def test_tokens_of_one_sample_in_pieces(
    lib: ctypes.CDLL, tokens: int, part: int, causal: bool
) -> None:
    """As threads hold them that split a sample: queries of one piece, keys from all of them."""
    heads, d = 3, 8
    q, k, v = (torch.randn(1, heads, tokens, d) for _ in range(3))
    count = -(-tokens // part)
    ld, rows = part + 16, heads * d
    pieces = torch.full((count, 4 * rows, ld), float("nan"))  # q, k, v and the result
    for i in range(count):
        for j, x in enumerate((q, k, v)):
            piece = x[0, :, i * part : (i + 1) * part].permute(0, 2, 1).reshape(rows, -1)
            pieces[i, j * rows : (j + 1) * rows, : piece.shape[1]] = piece
    for i in range(count):
        here = min(part, tokens - i * part)
        places = [pieces[i if j in (0, 3) else 0, j * rows].data_ptr() for j in range(4)]
        a = Attention(
            *places, ld, ld, ld, ld, d, d, d, d, 1, 1, 1, 1,
            1, heads, 1, here, tokens, d, d, 1 / math.sqrt(d), causal,
        )  # fmt: skip
        a.query0, a.part, a.part_stride = i * part, part, pieces.stride(0)
        call(lib.attention, a)
    out = pieces[:, 3 * rows :].view(count, heads, d, ld)[..., :part]
    got = out.permute(1, 0, 3, 2).reshape(heads, -1, d)[None, :, :tokens]
    want = reference_attention(q, k, v, causal=causal)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=2e-6)


@pytest.mark.parametrize("d,dv", [(1, 1), (5, 5), (32, 32), (64, 64), (80, 80), (128, 64)])
@pytest.mark.parametrize("sq,sk", [(1, 1), (7, 7), (16, 17), (17, 16), (49, 197), (197, 49)])
def test_attention_sizes(lib: ctypes.CDLL, d: int, dv: int, sq: int, sk: int) -> None:
    q, k, v = torch.randn(1, 3, sq, d), torch.randn(1, 3, sk, d), torch.randn(1, 3, sk, dv)
    check_attention(lib, q, k, v)
    check_attention(lib, q, k, v, causal=True)
    check_attention(lib, q[:, :1], k[:, :1], v[:, :1], causal=True)


@pytest.mark.parametrize("keys", [126, 127, 128, 129, 255, 256, 384, 511])
def test_attention_whole_blocks_of_keys(lib: ctypes.CDLL, keys: int) -> None:
    """A block holds 128 keys, which is no multiple of the rows that are computed together."""
    q, k, v = torch.randn(1, 2, 9, 32), torch.randn(1, 2, keys, 32), torch.randn(1, 2, keys, 32)
    check_attention(lib, q, k, v)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_of_samples_that_share_a_plane(lib: ctypes.CDLL, causal: bool) -> None:
    q, k, v = torch.randn(3, 4, 21, 24), torch.randn(3, 2, 35, 24), torch.randn(3, 2, 35, 10)
    check_attention(lib, q, k, v, causal=causal)  # two query heads share a key head
    check_attention(lib, q, k, v, causal=causal, interleaved=True)


@pytest.mark.parametrize("shape", [(2, 3, 33, 150), (1, 1, 33, 150), (2, 1, 1, 150), (1, 3, 33, 1)])
def test_attention_mask(lib: ctypes.CDLL, shape: tuple[int, ...]) -> None:
    q, k, v = torch.randn(2, 3, 33, 16), torch.randn(2, 3, 150, 16), torch.randn(2, 3, 150, 16)
    mask = torch.randn(shape).masked_fill(torch.rand(shape) < 0.4, -INF)
    if shape[3] == 1:
        mask = mask.nan_to_num(neginf=-5.0).expand(1, 3, 33, 150)
    check_attention(lib, q, k, v, mask=mask)
    check_attention(lib, q, k, v, mask=mask.clamp_min(torch.finfo(torch.float32).min))


@pytest.mark.parametrize("d,dv", [(8, 8), (9, 31), (40, 40), (72, 64), (96, 160), (255, 3),
                                  (256, 256)])  # fmt: skip
@pytest.mark.parametrize("sq,sk", [(1, 300), (33, 5), (70, 131)])
def test_cross_attention_of_any_head_size(
    lib: ctypes.CDLL, d: int, dv: int, sq: int, sk: int
) -> None:
    """Keys and values in planes of their own length; samples share planes."""
    q, k, v = torch.randn(2, 2, sq, d), torch.randn(2, 2, sk, d), torch.randn(2, 2, sk, dv)
    check_attention(lib, q, k, v)
    check_attention(lib, q, k, v, causal=True)
    check_attention(lib, q, k, v, mask=torch.randn(1, 2, sq, sk))


def test_attention_of_queries_that_see_nothing(lib: ctypes.CDLL) -> None:
    # zeros, as torch gives; a later block of keys may still be seen
    q, k, v = (torch.randn(1, 2, 300, 8) for _ in range(3))
    mask = torch.zeros(1, 1, 300, 300)
    mask[:, :, 3] = -INF
    mask[:, :, 20:60, :250] = -INF
    check_attention(lib, q, k, v, mask=mask)
    assert bool((run_attention(lib, q, k, v, mask=mask)[:, :, 3] == 0).all())


def test_attention_of_large_scores_and_nan(lib: ctypes.CDLL) -> None:
    q, k, v = (torch.randn(1, 1, 150, 16) for _ in range(3))
    check_attention(lib, q * 30 - 20, k * 30 + 20, v)
    k[0, 0, 149, 3] = math.nan
    assert bool(run_attention(lib, q, k, v).isnan().all())
    q, k = q.clone(), torch.randn(1, 1, 150, 16)
    q[0, 0, 77, 0] = math.nan
    got = run_attention(lib, q, k, v).isnan().all(-1)[0, 0]
    assert got.nonzero().flatten().tolist() == [77]


@pytest.mark.parametrize("unseeing", [0.0, math.nan])
def test_a_query_that_sees_no_key(lib: ctypes.CDLL, unseeing: float) -> None:
    q, k, v = (torch.randn(1, 2, 20, 16) for _ in range(3))
    mask = torch.zeros(1, 1, 20, 20)
    mask[:, :, 3] = -INF
    got = run_attention(lib, q, k, v, mask=mask, unseeing=unseeing)
    want = reference_attention(q, k, v, mask=mask)
    want[:, :, 3] = unseeing
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-5, equal_nan=True)
