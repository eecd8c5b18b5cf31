"""Row-major and planar elements in boxes: copies, elementwise maps, fills, reads at given indices.

One element a thread; its place in each operand follows from the box's sizes and strides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sparse_compiler.codegen.gpu.expressions import code_of, literal, type_of
from sparse_compiler.codegen.gpu.rules import rule
from sparse_compiler.codegen.gpu.source import Printer
from sparse_compiler.codegen.gpu.weight_calls import arguments
from sparse_compiler.codegen.operands import (
    Box,
    Element,
    Planes,
    Samples,
    ScalarFunctor,
    Strided,
    Struct,
)
from sparse_compiler.codegen.program import Call
from sparse_compiler.errors import CodegenError
from sparse_compiler.ir.expr import Arg as ExprArg

SWEEP = """\
def $name(out, COUNT, offset_out, $params $sizes WIDE: tl.constexpr):
    # a box of row-major or planar elements with a stride for each dimension
    i = tl.program_id(0).to(tl.int64) * WIDE + tl.arange(0, WIDE)
    mask = i < COUNT
    rest = i
$places
$epilogue
    tl.store(out + offset_out + to, value.to(out.dtype.element_ty), mask=mask)
"""
_WIDE = 512


@rule("copy")
def _copy(printer: Printer, call: Call) -> None:
    box, to, source = arguments(call)
    functor = ScalarFunctor(ExprArg(0), (dtype_of_place(source),), dtype_of_place(to))
    _map_box(printer, call, box, to, functor, (source,))


@rule("map")
def _map(printer: Printer, call: Call) -> None:
    box, to, functor, *sources = arguments(call)
    _map_box(printer, call, box, to, functor, sources)


@rule("fill")
def _fill(printer: Printer, call: Call) -> None:
    box, to, value = arguments(call)
    if not isinstance(value, Element):
        raise CodegenError("a fill with no number", node=f"%{call.label}")
    lines = [f"value = tl.full([WIDE], {literal(value.value)}, tl.float32)"]
    _sweep(printer, call, box, to, (), lines, {})


def _map_box(
    printer: Printer,
    call: Call,
    box: Box,
    to: Strided,
    functor: ScalarFunctor,
    sources: Sequence[Strided],
) -> None:
    lines = [
        f"x{i} = {_load(i)}{converted(dtype)}"
        for i, (_, dtype) in enumerate(zip(sources, functor.dtypes, strict=True))
    ]
    lines += code_of(functor.expr, functor.dtypes)
    lines += [] if sources else ["value = value + tl.zeros([WIDE], tl.int8)"]
    _sweep(printer, call, box, to, sources, lines, {})


@rule("index_at")
def _index(printer: Printer, call: Call) -> None:
    """to[box] = from[box + the sum of index_k[box] step_k]; a bad index is noted, 1 + its place."""
    box, to, source, indices, wrap, error = arguments(call)
    given = [part.fields for part in indices.fields[0].fields]
    given = [(replace(at, strides=at.strides or (0,)), *of) for at, *of in given]  # of a number
    args: dict[str, Any] = {"error": error}
    outer = _depends(len(box.sizes), [at for at, _, _ in given])
    lines = ["place = i * 0", "good = mask"]
    for d in range(outer):
        lines.append(f"place = place * SIZE{d} + at{d}" if d else "place = at0")
    for k, (_, size, step) in enumerate(given):
        args |= {f"LENGTH{k}": size, f"STEP{k}": step}
        lines.append(f"index = {_load(k + 1)}.to(tl.int64)")
        lines += [f"index = tl.where(index < 0, index + LENGTH{k}, index)"] if wrap else []
        lines += [f"good = good & (index >= 0) & (index < LENGTH{k})", f"s0 += index * STEP{k}"]
    lines.append("tl.store(error + i * 0, place + 1, mask=mask & (good == 0))")
    dtype = dtype_of_place(source)
    lines.append(f"value = {_load(0).replace('mask=mask', 'mask=good')}{converted(dtype)}")
    _sweep(printer, call, box, to, (source, *(at for at, _, _ in given)), lines, args)


def _depends(rank: int, indices: Sequence[Strided]) -> int:
    """Dimensions of the box up to the last on which an index depends."""
    held = [d for d in range(rank) if any(at.strides[d] != 0 for at in indices)]
    return max(held, default=-1) + 1


def dtype_of_place(strided: Any) -> str:
    """The dtype of the elements. Raises `CodegenError` for what the GPU does not compute in."""
    dtype = "f32" if isinstance(strided.place, Planes) else str(strided.place.dtype)
    type_of(dtype)
    return dtype


def converted(dtype: str) -> str:
    """How a loaded tile gets the type that it is computed in."""
    if dtype == "bool":
        return " != 0"
    return ".to(tl.float32)" if dtype in ("f32", "f16", "bf16") else ""


def _load(i: int) -> str:
    return f"tl.load(in{i} + offset{i} + s{i}, mask=mask, other=0)"


def located(sides: Sequence[str], dims: Sequence[int], rest: str) -> list[str]:
    """Lines that add to each side the place of element `rest` in dimensions `dims`, row-major."""
    lines: list[str] = []
    for d in reversed(dims):
        lines.append(f"at{d} = {rest} % SIZE{d}" if d != dims[0] else f"at{d} = {rest}")
        lines += [f"{rest} = {rest} // SIZE{d}"] if d != dims[0] else []
        lines += [f"{side} += at{d} * {side}_step{d}" for side in sides]
    return lines


def box_sizes(box: Box) -> list[Any]:
    """The sizes of a box, of all samples at once."""
    sizes: list[Any] = list(box.sizes)
    if box.samples:
        sizes[0] = Samples(box.sizes[0])
    return sizes


def _sweep(
    printer: Printer,
    call: Call,
    box: Box,
    to: Strided,
    sources: Sequence[Strided],
    lines: Sequence[str],
    more: Mapping[str, Any],
) -> None:
    """lines: compute `value` from places s0, s1, ... in the sources and coordinates at0, at1, ...;
    more: what else they read."""
    sides = {"to": to, **{f"s{i}": s for i, s in enumerate(sources)}}
    sizes, dims = box_sizes(box), range(len(box.sizes))
    args: dict[str, Any] = {"out": to.place, "COUNT": Struct("product", tuple(sizes))}
    args |= {"offset_out": to.offset, "WIDE": _WIDE}
    own: dict[str, Any] = {f"SIZE{d}": sizes[d] for d in dims if d}
    own |= {f"{name}_step{d}": side.strides[d] for name, side in sides.items() for d in dims}
    for i, source in enumerate(sources):
        own |= {f"in{i}": source.place, f"offset{i}": source.offset}
    own |= more
    places = [f"{side} = i * 0" for side in sides] + located(list(sides), dims, "rest")
    holes = {"sizes": "".join(f"{name}, " for name in own), "places": "\n".join(places)}
    holes["epilogue"] = "\n".join(lines)
    printer.launch(SWEEP, "sweep", args | own, ((args["COUNT"], _WIDE),), call.label, holes=holes)
