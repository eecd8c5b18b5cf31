"""Gathers, running sums, softmax along a dimension, rotary and batched products against torch."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch
from torch import Tensor

from tests.kernels.native import for_each, planes, row_stride
from tests.kernels.sweeps import THREADS, box, operand, random, run, sweep_libraries, sweeps

__all__ = ["sweep_libraries", "sweeps"]  # fixtures

NO_ERROR = -1
DTYPES = {"f32": torch.float32, "i64": torch.int64, "u8": torch.uint8, "i32": torch.int32}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


# ---- gathers ------------------------------------------------------------------------------------


@for_each("ids", ["i64", "i32"])
@for_each("n", [1, 7, 16, 33, 200])
@for_each("width", [1, 5, 16, 50, 131])
def test_lookup_into_planes(sweeps: ctypes.CDLL, width: int, n: int, ids: str) -> None:
    table = torch.randn(23, width)
    where = torch.randint(0, 23, (n,), dtype=DTYPES[ids])
    function = getattr(sweeps, f"lookup_{ids}")
    for threads in THREADS:
        out = torch.full((width, row_stride(n)), 7.0)
        error = torch.tensor([NO_ERROR])
        run(function, threads, table, 23, width, where, n, out, out.shape[1], error)
        assert torch.equal(out[:, :n], table[where.long()].T)
        assert bool((out[:, n:] == 7).all()), "columns of a neighbour were written"
        assert error.item() == NO_ERROR


@for_each("bad", [-1, 23, 2**31 - 1, -(2**31)])
def test_bad_ids_are_reported(sweeps: ctypes.CDLL, bad: int) -> None:
    table = torch.randn(23, 40)
    for ids in ("i64", "i32"):
        where = torch.randint(0, 23, (50,), dtype=DTYPES[ids])
        where[[20, 33, 49]] = bad
        for threads in THREADS:
            out, error = torch.zeros(40, row_stride(50)), torch.tensor([NO_ERROR])
            run(getattr(sweeps, f"lookup_{ids}"), threads, table, 23, 40, where, 50, out,
                out.shape[1], error)  # fmt: skip
            assert error.item() == 20
            rows, error = torch.zeros(50, 40), torch.tensor([NO_ERROR])
            run(getattr(sweeps, f"rows_f32_{ids}"), threads, table, 23, 40, where, 50, rows, 40,
                error)  # fmt: skip
            assert error.item() == 20
            assert torch.equal(rows[:20], table[where[:20].long()])


@for_each("name", ["f32_i64", "f32_i32", "i64_i64", "u8_i64"])
@for_each("n,width", [(1, 1), (9, 5), (40, 64), (3, 5000), (0, 4)])
def test_rows_of_a_table(sweeps: ctypes.CDLL, name: str, n: int, width: int) -> None:
    dtype, ids = (DTYPES[part] for part in name.split("_"))
    table = random((11, width), dtype)
    where = torch.randint(0, 11, (n,), dtype=ids)
    for threads in THREADS:
        out, error = torch.zeros(n, width + 2, dtype=dtype), torch.tensor([NO_ERROR])
        run(getattr(sweeps, f"rows_{name}"), threads, table, 11, width, where, n, out, width + 2,
            error)  # fmt: skip
        assert torch.equal(out[:, :width], table[where.long()])
        assert not out[:, width:].any()
        assert error.item() == NO_ERROR


def without(x: Tensor, *dims: int) -> Tensor:
    """A view of size 1 along dims: what `from` looks like where indices decide."""
    for d in dims:
        x = x.narrow(d, 0, 1)
    return x


@for_each("dim", [0, 1, 2])
@for_each("wrap", [0, 1])
def test_index_select_and_gather(sweeps: ctypes.CDLL, dim: int, wrap: int) -> None:
    x = torch.randn(5, 7, 20)
    size, step = x.shape[dim], x.stride(dim)
    for threads in THREADS:
        chosen = torch.randint(-size if wrap else 0, size, (9,))
        shape = [9 if d == dim else s for d, s in enumerate(x.shape)]
        line = chosen.view([-1 if d == dim else 1 for d in range(3)]).expand(shape)
        every = torch.randint(-size if wrap else 0, size, (4, 6, 11))
        for where in (line, every):
            out, error = torch.zeros(where.shape), torch.tensor([NO_ERROR])
            source = without(x, dim).expand([-1 if d != dim else where.shape[d] for d in range(3)])
            run(sweeps.index1_f32_i64, threads, box(where.shape), operand(out), operand(source),
                operand(where), size, step, wrap, error)  # fmt: skip
            positive = torch.where(where < 0, where + size, where)
            assert torch.equal(out, torch.gather(x, dim, positive))
            assert error.item() == NO_ERROR


def test_bad_index_of_gather(sweeps: ctypes.CDLL) -> None:
    x, where = torch.randn(6, 8), torch.zeros(4, 8, dtype=torch.int64)
    where[2, 3], where[3, 1] = 6, -7
    for threads in THREADS:
        for wrap in (0, 1):
            out, error = torch.zeros(4, 8), torch.tensor([NO_ERROR])
            source = x[:1].expand(4, 8)
            run(sweeps.index1_f32_i64, threads, box((4, 8)), operand(out), operand(source),
                operand(where), 6, 8, wrap, error)  # fmt: skip
            assert error.item() == 2 * 8 + 3
    empty, error = torch.zeros(0, 8), torch.tensor([NO_ERROR])
    run(sweeps.index1_f32_i64, 1, box((4, 8)), operand(out), operand(empty), operand(where), 0, 8,
        1, error)  # fmt: skip
    assert error.item() == 0


def test_index_by_two_tensors(sweeps: ctypes.CDLL) -> None:
    """x[i, :, j] with i [6, 1], j [5]: the indexed dimensions come first, as in torch."""
    x = torch.randn(4, 30, 9)
    i, j = torch.randint(-4, 4, (6, 1)), torch.randint(-9, 9, (5,))
    shape = (6, 5, 30)
    source = x[:1, :, :1].permute(0, 2, 1).expand(shape)
    for threads in THREADS:
        out, error = torch.zeros(shape), torch.tensor([NO_ERROR])
        run(sweeps.index2_f32, threads, box(shape), operand(out), operand(source),
            operand(i[..., None].expand(shape)), 4, x.stride(0),
            operand(j[:, None].expand(shape)), 9, x.stride(2), 1, error)  # fmt: skip
        assert torch.equal(out, x[i, :, j])
        assert error.item() == NO_ERROR


# ---- scans --------------------------------------------------------------------------------------


@for_each("shape", [(1, 1, 1), (3, 10, 1), (2, 9, 70), (1, 200, 5), (4, 0, 3)])
def test_cumsum(sweeps: ctypes.CDLL, shape: tuple[int, int, int]) -> None:
    kinds = {"f32": torch.float32, "f64": torch.float64, "i64": torch.int64, "i32": torch.int32,
             "bool": torch.bool}  # fmt: skip
    for name, kind in kinds.items():
        x = random(shape, kind)
        for threads in THREADS:
            want = x.cumsum(1)
            out = torch.zeros_like(want)
            run(getattr(sweeps, f"cumsum_{name}"), threads, *shape, x, out)
            torch.testing.assert_close(out, want, rtol=1e-6, atol=2e-5)


@for_each("shape", [(1, 1, 1), (5, 7, 1), (3, 40, 1), (2, 9, 21), (1, 33, 64)])
@for_each("log", [0, 1])
def test_softmax_along(sweeps: ctypes.CDLL, shape: tuple[int, int, int], log: int) -> None:
    x = torch.randn(shape) * 10
    x[0, 0, -1] = -math.inf
    if shape[0] > 1:
        x[1, 0, 0] = math.nan
        x[-1, :, -1] = -math.inf
    want = torch.log_softmax(x.double(), 1) if log else torch.softmax(x.double(), 1)
    for threads in THREADS:
        out = torch.zeros(shape)
        run(sweeps.softmax_along, threads, *shape, x, out, log)
        torch.testing.assert_close(
            out.double(), want, equal_nan=True, rtol=1e-6, atol=4e-6 if log else 5e-7
        )


# ---- rotary -------------------------------------------------------------------------------------


class Rotary(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("heads", "d_head", "rotated")),
        *((name, ctypes.c_void_p) for name in ("x", "cos", "sin", "y")),
        *((name, ctypes.c_int64) for name in ("ldx", "ldcos", "ldsin", "ldy")),
        ("interleaved", ctypes.c_bool),
    )


@for_each("interleaved", [False, True])
@for_each("heads,d,rotated,n", [(1, 2, 2, 1), (3, 8, 8, 17), (2, 10, 6, 49)])
def test_rotary(
    sweeps: ctypes.CDLL, heads: int, d: int, rotated: int, n: int, interleaved: bool
) -> None:
    x, cos, sin = torch.randn(heads, d, n), torch.randn(rotated, n), torch.randn(rotated, n)
    turned = x[:, :rotated]
    if interleaved:
        partner = torch.stack([-turned[:, 1::2], turned[:, ::2]], 2).flatten(1, 2)
    else:
        first, second = turned.chunk(2, 1)
        partner = torch.cat([-second, first], 1)
    want = torch.cat([turned * cos + partner * sin, x[:, rotated:]], 1).flatten(0, 1)
    source, c, s = planes(x.flatten(0, 1)), planes(cos), planes(sin)
    for threads in THREADS:
        out = torch.full_like(source, 7.0)
        r = Rotary(heads, d, rotated, source.data_ptr(), c.data_ptr(), s.data_ptr(),
                   out.data_ptr(), source.shape[1], c.shape[1], s.shape[1], out.shape[1],
                   interleaved)  # fmt: skip
        run(sweeps.rotary, threads, r, n)
        torch.testing.assert_close(out[:, :n], want, rtol=1e-6, atol=1e-6)
        assert bool((out[:, -(-n // 16) * 16 :] == 7).all())


# ---- products -----------------------------------------------------------------------------------


class Matrices(ctypes.Structure):
    _fields_ = (
        ("p", ctypes.c_void_p),
        ("batch", ctypes.c_int64 * 3),
        ("row", ctypes.c_int64),
        ("column", ctypes.c_int64),
    )


class Matmul(ctypes.Structure):
    _fields_ = (
        ("batch", ctypes.c_int64 * 3),
        *((name, ctypes.c_int64) for name in "mnk"),
        *((name, Matrices) for name in "abc"),
    )


def matrices(x: Tensor) -> Matrices:
    return Matrices(x.data_ptr(), (ctypes.c_int64 * 3)(*x.stride()[:3]), *x.stride()[3:])


def multiply(sweeps: ctypes.CDLL, a: Tensor, b: Tensor, c: Tensor, threads: int) -> None:
    """c = a @ b for tensors of five dimensions."""
    sizes = (ctypes.c_int64 * 3)(*c.shape[:3])
    p = Matmul(sizes, *c.shape[3:], a.shape[4], matrices(a), matrices(b), matrices(c))
    run(sweeps.matmul, threads, p)


def stored(x: Tensor, transposed: bool) -> Tensor:
    """The same numbers with gaps between rows, or between columns."""
    order = (0, 1, 2, 4, 3) if transposed else (0, 1, 2, 3, 4)
    y = x.permute(order)
    memory = torch.full((*y.shape[:-1], y.shape[-1] + 5), math.nan)
    memory[..., : y.shape[-1]] = y
    return memory[..., : y.shape[-1]].permute(order)


@for_each("m,n,k", [(1, 1, 1), (1, 64, 40), (3, 48, 5), (6, 17, 300), (16, 16, 16),
                                   (49, 49, 32), (50, 200, 20), (13, 500, 259), (128, 128, 64),
                                   (7, 5, 0)])  # fmt: skip
@for_each("a_turned", [False, True])
@for_each("b_turned", [False, True])
def test_matmul(
    sweeps: ctypes.CDLL, m: int, n: int, k: int, a_turned: bool, b_turned: bool
) -> None:
    a, b = torch.randn(2, 1, 3, m, k), torch.randn(1, 2, 3, k, n)
    want = a.double() @ b.double()
    a, b = stored(a, a_turned).expand(2, 2, 3, m, k), stored(b, b_turned).expand(2, 2, 3, k, n)
    for i, threads in enumerate(THREADS):
        c = stored(torch.zeros(2, 2, 3, m, n), bool(i % 2))
        multiply(sweeps, a, b, c, threads)
        torch.testing.assert_close(c.double(), want, rtol=1e-5, atol=1e-5 * math.sqrt(k + 1))
    wide = torch.full((2, 2, 3, 2 * m, 3 * n), 7.0)  # neither rows nor columns are contiguous
    c = wide[..., ::2, ::3]
    multiply(sweeps, a, b, c, 2)
    torch.testing.assert_close(c.double(), want, rtol=1e-5, atol=1e-5 * math.sqrt(k + 1))
    wide[..., ::2, ::3] = 7
    assert bool((wide == 7).all())
