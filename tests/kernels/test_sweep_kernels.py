"""Strided copy, fill, map and fold against torch, for shapes, orders, dtypes, widths and threads.

sweep_sanitize.cpp runs the same kernels under the sanitizers on buffers without slack.
"""

from __future__ import annotations

import ctypes
import itertools
import math

import torch
from torch import Tensor

from tests.kernels.native import for_each
from tests.kernels.sweeps import THREADS, box, operand, random, run, sweep_libraries, sweeps, view

__all__ = ["sweep_libraries", "sweeps"]  # fixtures

ELEMENTS = {"1": torch.uint8, "2": torch.int16, "4": torch.float32, "8": torch.int64}
SHAPES = [(1,), (5,), (3000,), (7, 7), (20, 33), (3, 1, 5), (2, 3, 4, 5), (5, 16, 2, 17), (0, 4),
          (2, 3, 2, 3, 2, 3), (40, 64), (3, 70, 2)]  # fmt: skip


def untouched_view(like: Tensor) -> tuple[Tensor, Tensor]:
    """A result in rows with gaps, and the buffer that holds it: the gaps must keep their 77."""
    rows = like.shape[-1]
    memory = torch.full((*like.shape[:-1], rows + 3), 77).to(like.dtype)
    return memory[..., :rows], memory


@for_each("element", ELEMENTS)
@for_each("shape", SHAPES)
def test_copy(sweeps: ctypes.CDLL, shape: tuple[int, ...], element: str) -> None:
    function = getattr(sweeps, f"copy_{element}")
    rank = len(shape)
    orders = list(itertools.permutations(range(rank)))
    for i, order in enumerate(orders[:: max(1, len(orders) // 8)]):
        source = view(shape, order, ELEMENTS[element], gap=i % 2)
        flips = [d for d in range(rank) if (i >> d) & 1 and 0 not in shape]
        to, memory = untouched_view(source)
        run(function, THREADS[i % 3], box(shape), operand(to), operand(source, flips))
        assert torch.equal(to, source.flip(flips)), (order, flips)
        assert bool((memory[..., shape[-1] :] == 77).all()), order
        back = torch.zeros_like(source)  # the strides of the source
        run(function, THREADS[i % 3], box(shape), operand(back), operand(to))
        assert torch.equal(back, to), order


@for_each("threads", THREADS)
def test_copy_of_parts(sweeps: ctypes.CDLL, threads: int) -> None:
    """Even columns, windows, broadcasts, a pixel shuffle: what slices and views make."""
    x = torch.randn(6, 24, 40)
    cases = [
        x[:, ::2, 1::2],
        x[:, 3:17, 5:12],
        x[:, :1].expand(6, 24, 40),
        x[..., :1].expand(6, 24, 40),
        x.view(6, 4, 6, 5, 8).permute(0, 1, 3, 2, 4),
        x.view(6, 24, 5, 8).permute(0, 3, 1, 2),
        x.view(3, 2, 24, 40).permute(0, 2, 3, 1),
        x.view(2, 3, 24, 40).permute(0, 2, 3, 1),
        x[:0],
    ]
    for source in cases:
        to = torch.full(source.shape, 7.0)
        run(sweeps.copy_4, threads, box(source.shape), operand(to), operand(source))
        assert torch.equal(to, source)


@for_each("element", ELEMENTS)
@for_each("shape", SHAPES)
def test_fill(sweeps: ctypes.CDLL, shape: tuple[int, ...], element: str) -> None:
    memory = torch.full((*shape[:-1], 2 * shape[-1]), 77).to(ELEMENTS[element])
    for threads, part in zip(
        THREADS, (slice(None), slice(0, shape[-1]), slice(1, None, 2)), strict=True
    ):
        to = memory.clone()
        run(getattr(sweeps, f"fill_{element}"), threads, box(to[..., part].shape),
            operand(to[..., part]))  # fmt: skip
        want = memory.clone()
        want[..., part] = 3
        assert torch.equal(to, want)


# ---- map ----------------------------------------------------------------------------------------


@for_each("dtype", ["f32", "f64", "i64"])
@for_each("shape", SHAPES)
def test_map(sweeps: ctypes.CDLL, shape: tuple[int, ...], dtype: str) -> None:
    kind = {"f32": torch.float32, "f64": torch.float64, "i64": torch.int64}[dtype]
    function = getattr(sweeps, f"multiply_add_{dtype}")
    rank = len(shape)
    for i, threads in enumerate(THREADS):
        order = [(d + i) % rank for d in range(rank)]
        a, b = view(shape, order, kind), view(shape, order[::-1], kind, gap=1)
        narrow = [1 if (d + i) % 2 else size for d, size in enumerate(shape)]
        c = random(narrow, kind).expand(shape)
        for to in (torch.zeros_like(a), untouched_view(a)[0]):
            run(function, threads, box(shape), operand(to), operand(a), operand(b), operand(c))
            torch.testing.assert_close(to, torch.addcmul(c, a, b), rtol=1e-6, atol=1e-6)
        same = a.clone(memory_format=torch.preserve_format)
        run(function, threads, box(shape), operand(same), operand(same), operand(b), operand(c))
        torch.testing.assert_close(same, torch.addcmul(c, a, b), rtol=1e-6, atol=1e-6)


def test_map_of_mixed_types(sweeps: ctypes.CDLL) -> None:
    shape = (4, 9, 33)
    c = random((4, 1, 33), torch.bool).expand(shape)
    a, b = random(shape, torch.float32), random((9, 1), torch.int64).expand(shape)
    for threads in THREADS:
        to = torch.zeros(shape)
        run(sweeps.choose, threads, box(shape), operand(to), operand(c), operand(a), operand(b))
        assert torch.equal(to, torch.where(c, a, b.float()))


# ---- fold ---------------------------------------------------------------------------------------

FOLD_SHAPES = [(1,), (9,), (5000,), (3, 7), (64, 65), (130, 3), (2, 70, 9), (2, 3, 5, 4), (3, 2000)]


def folded(
    sweeps: ctypes.CDLL, name: str, x: Tensor, dims: list[int], out: torch.dtype, threads: int
) -> Tensor:
    kept = [d for d in range(x.dim()) if d not in dims]
    to = torch.zeros([x.shape[d] for d in kept], dtype=out)
    moved = x.permute(kept + dims)
    run(getattr(sweeps, f"fold_{name}"), threads, box(moved.shape), len(kept), operand(to),
        operand(moved))  # fmt: skip
    return to


def cases_of(shape: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Which dimensions to reduce, and in which order the input is stored."""
    rank = len(shape)
    subsets = [
        list(dims) for n in range(1, rank + 1) for dims in itertools.combinations(range(rank), n)
    ]
    orders = list(itertools.permutations(range(rank)))
    return [(dims, list(orders[i % len(orders)])) for i, dims in enumerate(subsets + subsets)]


@for_each("threads", [1, 2])
@for_each("shape", FOLD_SHAPES)
def test_sums(sweeps: ctypes.CDLL, shape: tuple[int, ...], threads: int) -> None:
    for dims, order in cases_of(shape):
        x = view(shape, order, torch.float32) + 2
        want = x.double().sum(dims)
        error = folded(sweeps, "sum_f32", x, dims, torch.float32, threads).double() - want
        assert float(error.abs().max()) <= 3e-7 * float(x.double().abs().sum(dims).max())
        count = x.numel() // want.numel()
        mean = folded(sweeps, "mean_f32", x, dims, torch.float32, threads).double()
        torch.testing.assert_close(mean, want / count, rtol=1e-6, atol=1e-6)
        n = view(shape, order, torch.int64)
        assert torch.equal(folded(sweeps, "sum_i64", n, dims, torch.int64, threads), n.sum(dims))
        b = view(shape, order, torch.bool)
        assert torch.equal(folded(sweeps, "sum_bool", b, dims, torch.int64, threads), b.sum(dims))
        p = torch.where(random(shape, torch.bool), 1.0, -1.0)
        want = p.double()
        for d in sorted(dims, reverse=True):
            want = want.prod(d)
        assert torch.equal(
            folded(sweeps, "prod_f32", p, dims, torch.float32, threads), want.float()
        )


@for_each("dtype", ["f32", "i64", "u8"])
@for_each("shape", FOLD_SHAPES)
def test_extremes(sweeps: ctypes.CDLL, shape: tuple[int, ...], dtype: str) -> None:
    kind = {"f32": torch.float32, "i64": torch.int64, "u8": torch.uint8}[dtype]
    for i, (dims, order) in enumerate(cases_of(shape)):
        x = view(shape, order, kind)
        if dtype == "f32":
            x = x.masked_fill(random(shape, torch.bool) & random(shape, torch.bool), -math.inf)
            x = x.masked_fill(torch.rand(shape) < 0.01, math.nan)
        else:
            x = x.masked_fill(torch.rand(shape) < 0.6, 0)
        threads = THREADS[i % 3]
        for name, reference in (("max", torch.amax), ("min", torch.amin)):
            got = folded(sweeps, f"{name}_{dtype}", x, dims, kind, threads)
            torch.testing.assert_close(got, reference(x, dims), equal_nan=True, rtol=0, atol=0)
            where = folded(sweeps, f"arg{name}_{dtype}", x, dims, torch.int64, threads)
            flat = x.permute([d for d in range(x.dim()) if d not in dims] + dims)
            flat = flat.reshape(*where.shape, -1)
            first = (flat == got[..., None]) | (flat.isnan() & got.isnan()[..., None])
            assert torch.equal(where, first.to(torch.uint8).argmax(-1)), (dims, order)
        for name, test in (("any", torch.any), ("all", torch.all)):
            got = folded(sweeps, f"{name}_{dtype}", x, dims, torch.bool, threads)
            assert torch.equal(got, test(x.bool(), dims))


def test_fold_of_nothing(sweeps: ctypes.CDLL) -> None:
    x = torch.zeros(3, 0, 4)
    assert folded(sweeps, "sum_f32", x, [1], torch.float32, 2).tolist() == [[0.0] * 4] * 3
    assert bool(folded(sweeps, "mean_f32", x, [1], torch.float32, 2).isnan().all())
    assert bool(folded(sweeps, "all_f32", x, [1], torch.bool, 2).all())
    assert folded(sweeps, "any_f32", x, [1, 2], torch.bool, 2).tolist() == [False] * 3
    assert folded(sweeps, "sum_f32", x, [0], torch.float32, 2).shape == (0, 4)


def test_sum_is_accurate(sweeps: ctypes.CDLL) -> None:
    """As near as torch's cascades, along rows and across them."""
    x = torch.rand(400_000)
    for source in (x[None], x[:, None].expand(-1, 2)):
        dim = 1 if source.shape[0] == 1 else 0
        got = folded(sweeps, "sum_f32", source, [dim], torch.float32, 1).double()
        want = source.double().sum(dim)
        assert float(((got - want) / want).abs().max()) <= 2e-7
