"""Two kernels for the tests of the analyser: a sparse row on vector lanes, blocks by a dot."""

import triton
import triton.language as tl
from triton.runtime.jit import JITFunction

from sparse_compiler.codegen.gpu.static import Kernel

_POINTERS = ("out", "x", "starts", "index", "value")
_SIZES = ("P", "ldx", "ldo")


def _row(out, x, starts, index, value, P, ldx, ldo, WIDE: tl.constexpr, SIDE: tl.constexpr):
    row = tl.program_id(0)
    at = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    total = tl.zeros([WIDE], tl.float32)
    for i in range(tl.load(starts + row), tl.load(starts + row + 1)):
        line = tl.load(x + tl.load(index + i) * ldx + at, mask=at < P, other=0.0)
        total += tl.load(value + i).to(tl.float32) * line.to(tl.float32)
    tl.store(out + row * ldo + at, total.to(out.dtype.element_ty), mask=at < P)


def _blocks(out, x, starts, index, value, P, ldx, ldo, WIDE: tl.constexpr, SIDE: tl.constexpr):
    row = tl.program_id(0)
    at = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    side = tl.arange(0, SIDE)
    total = tl.zeros([SIDE, WIDE], tl.float32)
    for i in range(tl.load(starts + row), tl.load(starts + row + 1)):
        w = tl.load(value + i * SIDE * SIDE + side[:, None] * SIDE + side[None, :])
        lines = (tl.load(index + i) * SIDE + side)[:, None] * ldx + at[None, :]
        total = tl.dot(w, tl.load(x + lines, mask=at[None, :] < P, other=0.0), total)
    place = (row * SIDE + side)[:, None] * ldo + at[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=at[None, :] < P)


def small_kernel(
    function, dtype="fp16", wide=128, side=64, warps=4, stages=3, registers=None, aligned=True
):
    """`function`: "row" or "blocks"; aligned: whether addresses are known to be multiples of 16."""
    pointer = {"starts": "*i32", "index": "*i32"}
    types = [(name, pointer.get(name, f"*{dtype}")) for name in _POINTERS]
    types += [(name, "i32") for name in _SIZES] + [("WIDE", "constexpr"), ("SIDE", "constexpr")]
    return Kernel(
        JITFunction({"row": _row, "blocks": _blocks}[function]),
        tuple(types),
        (("WIDE", wide), ("SIDE", side)),
        (*_POINTERS, *_SIZES) if aligned else (),
        warps,
        stages,
        registers,
    )


__all__ = ["small_kernel", "triton"]
