"""Row-major reductions over any dimensions, and running sums.

A program takes HIGH kept elements and walks what they are reduced over in steps of WIDE.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparse_compiler.codegen.gpu.boxes import box_sizes, dtype_of_place, located
from sparse_compiler.codegen.gpu.expressions import type_of
from sparse_compiler.codegen.gpu.rules import place_of, rule
from sparse_compiler.codegen.gpu.source import Printer
from sparse_compiler.codegen.gpu.weight_calls import arguments
from sparse_compiler.codegen.operands import Struct
from sparse_compiler.codegen.program import Call

FOLD = """\
def $name(
    out, COUNT, LENGTH, offset_out, x, offset, $sizes HIGH: tl.constexpr, WIDE: tl.constexpr
):
    i = tl.program_id(0).to(tl.int64) * HIGH + tl.arange(0, HIGH)[:, None]
    kept = i < COUNT
    rest = i
$places
$start
    for first in range(0, LENGTH, WIDE):
        j = first + tl.arange(0, WIDE)[None, :]
        mask = kept & (j < LENGTH)
        left = j.to(tl.int64)
        s = s0 + left * 0
$inner
        value = tl.load(x + offset + s, mask=mask, other=0)$converted
$step
    lanes = tl.arange(0, WIDE)[None, :]
$finish
    tl.store(out + offset_out + to, value.to(out.dtype.element_ty), mask=kept)
"""

CUMSUM = """\
def $name(
    out, x, LENGTH, INNER, HIGH: tl.constexpr, WIDE: tl.constexpr
):
    # out[o, i, c] = x[o, 0, c] + ... + x[o, i, c] of [outer, LENGTH, INNER]
    start = tl.program_id(0).to(tl.int64) * LENGTH * INNER
    at = tl.program_id(1) * WIDE + tl.arange(0, WIDE)[None, :]
    total = tl.zeros([1, WIDE], $type)
    for first in range(0, LENGTH, HIGH):
        row = first + tl.arange(0, HIGH)[:, None]
        mask = (row < LENGTH) & (at < INNER)
        place = start + row * INNER + at
        value = tl.load(x + place, mask=mask, other=0).to($type)
        tl.store(out + place, total + tl.cumsum(value, 0), mask=mask)
        total += tl.sum(value, 0)[None, :]
"""


@dataclass(frozen=True)
class Fold:
    """Code: what a lane starts with, one step of it, and all lanes made one; TYPE, LOW and HIGHEST
    are replaced by the type of the sums and its ends."""

    start: str
    step: str
    finish: str


def _extreme(which: str, end: str) -> Fold:
    """The greatest or least; a NaN wins."""
    start = f"total = tl.full([HIGH, WIDE], {end}, TYPE)\nnan = tl.zeros([HIGH, WIDE], tl.int32)"
    step = f"""\
total = tl.{which}imum(total, tl.where(mask, value, {end}))
nan = tl.where(mask & (value != value), 1, nan)"""
    finish = f"""\
value = tl.{which}(total, 1)[:, None]
value = tl.where(tl.max(nan, 1)[:, None] != 0, NAN, value)"""
    return Fold(start, step, finish)


def _place(which: str, sign: str, end: str) -> Fold:
    """Where the greatest or least stands; a NaN wins."""
    start = f"""\
best = tl.full([HIGH, WIDE], {end}, TYPE)
found = tl.zeros([HIGH, WIDE], tl.int64)"""
    step = f"""\
better = mask & (best == best) & ((value {sign} best) | (value != value))
best = tl.where(better, value, best)
found = tl.where(better, left, found)"""
    finish = f"""\
nan = tl.min(tl.where(best == best, FAR, found), 1)[:, None]
clean = tl.where(best == best, best, {end})
value = tl.{which}(clean, 1)[:, None]
value = tl.min(tl.where(clean == value, found, FAR), 1)[:, None]
value = tl.where(nan < FAR, nan, value)"""
    return Fold(start, step, finish.replace("FAR", str(2**62)))


_ZEROS = "total = tl.zeros([HIGH, WIDE], TYPE)"
_SUM = Fold(_ZEROS, "total += tl.where(mask, value, 0)", "value = tl.sum(total, 1)[:, None]")
_LAST = "tl.where(lanes == WIDE - 1, tl.cumprod(total, 1), 0)"
FOLDS: Mapping[str, Fold] = {
    "Sum": _SUM,
    "Mean": Fold(_SUM.start, _SUM.step, f"{_SUM.finish} / LENGTH"),
    "Prod": Fold(
        "total = tl.full([HIGH, WIDE], 1, TYPE)",
        "total *= tl.where(mask, value, 1)",
        f"value = tl.sum({_LAST}, 1)[:, None]",
    ),
    "Max": _extreme("max", "LOWEST"),
    "Min": _extreme("min", "HIGHEST"),
    "Any": Fold(
        "total = tl.zeros([HIGH, WIDE], tl.int32)",
        "total = tl.where(mask & (value != 0), 1, total)",
        "value = tl.max(total, 1)[:, None] != 0",
    ),
    "All": Fold(
        "total = tl.full([HIGH, WIDE], 1, tl.int32)",
        "total = tl.where(mask & (value == 0), 0, total)",
        "value = tl.min(total, 1)[:, None] != 0",
    ),
    "ArgMax": _place("max", ">", "LOWEST"),
    "ArgMin": _place("min", "<", "HIGHEST"),
}
"""By the template argument of the CPU's kernel."""


def _numbers(dtype: str, *, adds: bool) -> str:
    """The type of partial results: torch adds integers up in 64 bits."""
    type_ = type_of(dtype)
    if type_ == "float32":
        return type_
    return "int64" if adds or type_ == "int64" else "int32"


def _filled(code: str, type_: str) -> str:
    """Code for partial results of a type."""
    whole = type_ != "float32"
    end = 2 ** (int(type_[3:]) - 1) if whole else 0
    words = {
        "LOWEST": str(-end) if whole else "float('-inf')",
        "HIGHEST": str(end - 1) if whole else "float('inf')",
        "NAN": "value" if whole else "float('nan')",
        "TYPE": f"tl.{type_}",
    }
    for word, text in words.items():
        code = code.replace(word, text)
    return code


@rule("fold")
def _fold(printer: Printer, call: Call) -> None:
    box, kept, to, source = arguments(call)
    kind = call.kernel.partition("<")[2].rstrip(">")
    dtype, sizes = dtype_of_place(source), box_sizes(box)
    type_ = _numbers(dtype, adds=kind in ("Sum", "Prod"))
    count, length = (Struct("product", tuple(part)) for part in (sizes[:kept], sizes[kept:]))
    args: dict[str, Any] = {"out": to.place, "COUNT": count, "offset_out": to.offset}
    args |= {"LENGTH": length, "x": source.place, "offset": source.offset}
    own: dict[str, Any] = {f"SIZE{d}": n for d, n in enumerate(sizes) if d not in (0, kept)}
    own |= {f"to_step{d}": to.strides[d] for d in range(kept)}
    own |= {f"s0_step{d}": source.strides[d] for d in range(kept)}
    own |= {f"s_step{d}": source.strides[d] for d in range(kept, len(sizes))}
    wide = _width(sizes[kept:])
    args |= {"HIGH": max(1, 512 // wide), "WIDE": wide}
    fold = FOLDS[kind]
    holes = {part: _filled(getattr(fold, part), type_) for part in ("start", "step", "finish")}
    holes |= {
        "sizes": "".join(f"{name}, " for name in own),
        "places": "\n".join(
            ["to = i * 0", "s0 = i * 0", *located(["to", "s0"], range(kept), "rest")]
        ),
        "inner": "\n".join(located(["s"], range(kept, len(sizes)), "left")),
        "converted": f".to(tl.{type_})" if dtype != "bool" else " != 0",
    }
    if dtype == "bool":
        holes["converted"] = f".to(tl.int8).to(tl.{type_})"
    printer.launch(FOLD, "fold", args | own, ((count, args["HIGH"]),), call.label, holes=holes)


def _width(sizes: list[Any]) -> int:
    """Lanes along what is reduced: as many as it is long, up to 512."""
    length = 1
    for size in sizes:
        length *= size if isinstance(size, int) else 128
    return min(512, 1 << max(0, length - 1).bit_length())


@rule("cumsum")
def _cumsum(printer: Printer, call: Call) -> None:
    outer, length, inner, source, to = arguments(call)
    type_ = _numbers(dtype_of_place(source), adds=True)
    along = inner == 1
    args = {"out": place_of(to), "x": place_of(source), "LENGTH": length, "INNER": inner}
    args |= {"HIGH": 512 if along else 16, "WIDE": 1 if along else 64}
    grid = ((outer, 1), (inner, args["WIDE"]))
    printer.launch(CUMSUM, "cumsum", args, grid, call.label, holes={"type": f"tl.{type_}"})
