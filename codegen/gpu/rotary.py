"""Rotary position embedding in planes: pairs of features turned by an angle of their column."""

from __future__ import annotations

from typing import Any

from sparse_compiler.codegen.gpu.rules import rule
from sparse_compiler.codegen.gpu.source import Printer, ld_of_constant, planes_args, source_args
from sparse_compiler.codegen.gpu.weight_calls import arguments
from sparse_compiler.codegen.operands import ConstantPlanes, Planes, ld_of
from sparse_compiler.codegen.program import Call
from sparse_compiler.ir.types import Dim

ROTATE = """\
def $name(
    out, ldo, x, ldx, cos, ldc, sin, lds, P, M, SIZE, TURNED,
    INTERLEAVED: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
):
    # of each head's SIZE rows the first TURNED: x cos + (-partner or partner) sin; others stay
    row = tl.program_id(0) * HIGH + tl.arange(0, HIGH)[:, None]
    at = tl.program_id(1) * WIDE + tl.arange(0, WIDE)[None, :]
    mask = (row < M) & (at < P)
    feature = row % SIZE
    if INTERLEAVED:
        first = feature % 2 == 0
        partner = tl.where(first, row + 1, row - 1)
    else:
        first = feature < TURNED // 2
        partner = tl.where(first, row + TURNED // 2, row - TURNED // 2)
    turns = mask & (feature < TURNED)
    value = tl.load(x + row * ldx + at, mask=mask, other=0.0).to(tl.float32)
    other = tl.load(x + partner * ldx + at, mask=turns, other=0.0).to(tl.float32)
    other = tl.where(first, -other, other)
    turn = tl.load(cos + feature * ldc + at, mask=turns, other=1.0).to(tl.float32)
    lean = tl.load(sin + feature * lds + at, mask=turns, other=0.0).to(tl.float32)
    value = value * turn + other * lean
    tl.store(out + row * ldo + at, value.to(out.dtype.element_ty), mask=mask)
"""


@rule("rotate")
def _rotate(printer: Printer, call: Call) -> None:
    heads, size, turned, x, cos, sin, to, interleaved, columns = arguments(call)
    rows = heads * size
    args: dict[str, Any] = {**planes_args(to), **source_args(x), "P": columns, "M": rows}
    args |= {"cos": cos, "ldc": _step(cos), "sin": sin, "lds": _step(sin)}
    args |= {"SIZE": size, "TURNED": turned, "INTERLEAVED": interleaved, "HIGH": 4, "WIDE": 128}
    printer.launch(ROTATE, "rotate", args, ((rows, 4), (columns, 128)), call.label)


def _step(planes: Planes | ConstantPlanes) -> Dim:
    """From one plane to the next."""
    if isinstance(planes, ConstantPlanes):
        return ld_of_constant(planes.index)
    return ld_of(planes.space)
