"""Few columns: every kind of rows, precision, width and number of columns against torch."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.kernels.native import (
    EACH_WIDTH,
    NATIVE,
    Libraries,
    call,
    for_each,
    planes,
    row_stride,
)

KINDS = {"dense": 0, "bitmap": 1, "index": 2}
VALUES = {"fp32": (0, torch.float32), "fp16": (1, torch.float16), "bf16": (2, torch.bfloat16)}
SHAPES = [(1, 1), (5, 63), (33, 64), (67, 130), (130, 300)]


@pytest.fixture(scope="session")
def libraries(kernel_cache: Path) -> Libraries:
    return Libraries("decode_kernels.cpp", kernel_cache)


def packed(lib: ctypes.CDLL, w: torch.Tensor, kind: int, values: int) -> Any:
    lib.sc_decode_bytes.restype = ctypes.c_int64
    m, k = (ctypes.c_int64(s) for s in w.shape)
    pointer = ctypes.c_void_p(w.data_ptr())
    size = lib.sc_decode_bytes(pointer, m, k, k, kind, values)
    if size == 0:
        return None
    memory = torch.zeros(size + 64, dtype=torch.uint8)
    skip = -memory.data_ptr() % 64
    blob = memory[skip : skip + size]
    assert lib.sc_decode_pack(pointer, m, k, k, kind, values, ctypes.c_void_p(blob.data_ptr()))
    return blob


def unpacked(lib: ctypes.CDLL, blob: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    w = torch.full(shape, math.nan)
    lib.sc_decode_unpack(ctypes.c_void_p(blob.data_ptr()), ctypes.c_void_p(w.data_ptr()))
    return w


def sparse(rows: int, columns: int, density: float) -> torch.Tensor:
    w = torch.randn(rows, columns) * (torch.rand(rows, columns) < density)
    w[rows // 2] = 0  # a row of no non-zeros
    return w


@pytest.mark.parametrize("width", EACH_WIDTH)
@for_each("kind,values,shape,density", [
    (kind, values, shape, density)
    for kind in KINDS for values in VALUES for shape in SHAPES for density in (0.0, 0.1, 0.6, 1.0)
])  # fmt: skip
def test_columns_1_to_8(
    libraries: Libraries,
    width: int,
    kind: str,
    values: str,
    shape: tuple[int, int],
    density: float,
) -> None:
    lib, (number, dtype) = libraries[width], VALUES[values]
    w = sparse(*shape, density)
    blob = packed(lib, w, KINDS[kind], number)
    assert lib.sc_decode_check(ctypes.c_void_p(blob.data_ptr()), ctypes.c_int64(blob.numel()))
    stored = unpacked(lib, blob, shape)
    assert torch.equal(stored, w.to(dtype).to(torch.float32))
    for n in (1, 2, 3, 8):
        x = torch.randn(shape[1], n)
        y = torch.full((shape[0], row_stride(n)), math.nan)
        call(lib.decode_on_planes, blob, planes(x), row_stride(n), y, row_stride(n), n)
        torch.testing.assert_close(y[:, :n], stored @ x + 1, atol=2e-5, rtol=1e-4)
    x, bias = torch.randn(shape[1]), torch.randn(shape[0])
    y = torch.full((shape[0],), math.nan)
    call(lib.decode_on_row, blob, x, bias, y)
    torch.testing.assert_close(y, stored @ x + bias, atol=2e-5, rtol=1e-4)


def test_what_halves_cannot_hold_is_refused(libraries: Libraries) -> None:
    lib = libraries[NATIVE]
    for value, fits in ((65519.0, True), (65520.0, False), (math.inf, False), (math.nan, False)):
        w = torch.tensor([[1.0, value]])
        assert (packed(lib, w, 1, 1) is not None) == fits
    assert packed(lib, torch.tensor([[3.4e38]]), 0, 2) is None
    assert packed(lib, torch.tensor([[3.3e38]]), 0, 2) is not None
    assert packed(lib, torch.tensor([[math.nan]]), 1, 0) is not None  # fp32 holds everything


def test_every_half_comes_back(libraries: Libraries) -> None:
    lib = libraries[NATIVE]
    for number, dtype in ((1, torch.float16), (2, torch.bfloat16)):
        halves = torch.arange(-32768, 32768, dtype=torch.int16).view(dtype).float()
        halves = halves[halves.isfinite() & (halves != 0)].reshape(2, -1)
        blob = packed(lib, halves, 2, number)
        assert torch.equal(unpacked(lib, blob, tuple(halves.shape)), halves)


def test_a_damaged_blob_is_refused(libraries: Libraries) -> None:
    lib = libraries[NATIVE]
    for kind in KINDS.values():
        blob = packed(lib, sparse(9, 70, 0.5), kind, 0)
        size = ctypes.c_int64(blob.numel())
        good = blob.clone()
        for place in (8, 12, 16, 24, 48, 56, 64, 72, 136):  # header and starts
            if (kind, place) == (KINDS["index"], 136):  # another cut between rows: no harm
                continue
            blob.copy_(good)
            blob[place] ^= 1
            assert not lib.sc_decode_check(ctypes.c_void_p(blob.data_ptr()), size), place
        blob.copy_(good)
        assert not lib.sc_decode_check(ctypes.c_void_p(blob.data_ptr()), ctypes.c_int64(100))


@pytest.mark.parametrize("width", EACH_WIDTH)
@for_each("heads,groups,keys,d,dv,masked", [
    (1, 1, 1, 8, 8, False), (4, 2, 13, 16, 24, True), (6, 6, 130, 64, 64, True),
    (8, 2, 65, 40, 33, False),
])  # fmt: skip
def test_one_query(
    libraries: Libraries,
    width: int,
    heads: int,
    groups: int,
    keys: int,
    d: int,
    dv: int,
    masked: bool,
) -> None:
    q, k, v = torch.randn(heads, d), torch.randn(groups, keys, d), torch.randn(groups, keys, dv)
    mask = torch.rand(keys) < 0.6
    mask[0] = True
    y = torch.full((heads, dv), math.nan)
    pointer = mask if masked else ctypes.c_void_p(0)
    sizes = (heads, groups, keys, d, dv)
    call(libraries[width].attend_one, *sizes, q, k, v, pointer, y)
    many: Any = [x.repeat_interleave(heads // groups, 0)[None] for x in (k, v)]
    attend: Any = F.scaled_dot_product_attention
    want = attend(
        q[None, :, None], *many, attn_mask=mask[None, None, None] if masked else None, scale=0.5
    )
    torch.testing.assert_close(y, want[0, :, 0], atol=1e-5, rtol=1e-4)
