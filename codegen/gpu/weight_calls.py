"""Linears and convolutions as launches: the kernel that the weight's format and sizes ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sparse_compiler.codegen.gpu import weights as W
from sparse_compiler.codegen.gpu.expressions import code_of
from sparse_compiler.codegen.gpu.source import Part, Printer, planes_args, source_args
from sparse_compiler.codegen.gpu.sparse_dots import is_sparse_dot, print_sparse_dot
from sparse_compiler.codegen.gpu.windows import reads_of
from sparse_compiler.codegen.operands import Columns, Struct
from sparse_compiler.codegen.program import Call, Segment, WeightEntry
from sparse_compiler.errors import CodegenError
from sparse_compiler.formats.base import FORMATS
from sparse_compiler.formats.gpu_arch import DEFAULT, Arch

FEW = 16
"""Columns up to which threads lie along the weight."""
LEAST_DOT = 16
"""Rows and columns from which a block is multiplied on matrix units."""


@dataclass(frozen=True)
class Stored:
    """How a weight lies on the GPU. kind: "dense", "rows", "blocks", "nm", "bitmap" or
    "semi_structured", which torch's kernels read.

    high, deep: rows and columns of a block (csr: 1 x 1) or of a dense tile; of "nm", how many are
    kept of how many.
    """

    kind: str
    high: int = 1
    deep: int = 1


def stored_as(entry: WeightEntry, *, few: bool) -> Stored:
    """The packing of a weight for the GPU: its own format where there is a kernel, else csr.

    few: a linear on few columns, whose threads lie along the weight.
    """
    format_ = FORMATS[str(entry.type.format)]
    rows = int(entry.type.shape[0]) // max(1, entry.groups)
    if entry.kind == "winograd":  # the kernels themselves: matrix units need no fewer products
        return Stored("dense", 32, 32)
    if format_.family == "dense":
        return Stored("dense", 32, 32) if entry.groups == 1 else Stored("rows")
    high, deep = format_.parameters
    if format_.family == "nm":
        return Stored("nm", high, deep)
    if format_.family == "block":
        tall = 1 << (high - 1).bit_length()
        if entry.groups == 1 or (rows % high == 0 and tall == high):
            return Stored("blocks", tall, deep) if tall == high else Stored("blocks")
    if format_.family == "bitmap" and few:  # of more, indices are cheaper to have than to count
        return Stored("bitmap")
    return Stored("blocks")


def weight_kinds(
    segment: Segment, dtype: str = "fp32", arch: Arch = DEFAULT
) -> Mapping[int, Stored]:
    """The packing of every weight that a call multiplies by."""
    found: dict[int, Stored] = {}
    for call in segment.calls:
        if is_sparse_dot(segment, call, dtype, arch):
            found[call.weight or 0] = Stored("semi_structured")
        elif call.weight is not None:
            found[call.weight] = _stored(segment, call)
    return found


def _stored(segment: Segment, call: Call) -> Stored:
    one = call.kernel == "decode_row"
    few = one or (call.kernel.startswith("linear") and _few(segment, call))
    stored = stored_as(segment.weights[call.weight or 0], few=few)
    if not one or stored.kind == "bitmap":
        return stored
    return Stored("rows" if stored.kind == "dense" else "blocks")


def window_args(window: Struct) -> dict[str, Any]:
    """The geometry of a sliding window as the template's parameters."""
    _, image, result, kernel, stride, dilation, padding, _ = window.fields
    names = ("D H W", "DO HO WO", "KD KH KW", "SD SH SW", "ED EH EW", "PD PH PW")
    found: dict[str, Any] = {}
    for keys, sizes in zip(names, (image, result, kernel, stride, dilation, padding), strict=True):
        if not isinstance(sizes, Struct):
            raise CodegenError("a window without sizes")
        found |= dict(zip(keys.split(), sizes.fields, strict=True))
    return found


def arguments(call: Call) -> tuple[Any, ...]:
    """The arguments of a call; which they are goes by its kernel."""
    return call.args


def _linear(printer: Printer, call: Call) -> None:
    if is_sparse_dot(printer.segment, call, printer.dtype, printer.arch):
        print_sparse_dot(printer, call)
        return
    weight, x, to, columns, _, functor = arguments(call)
    stored = _stored(printer.segment, call)
    args = {**planes_args(to), **source_args(x), "LINES": x.rows, "P": columns}
    if _few(printer.segment, call) and stored in (Stored("blocks"), Stored("bitmap")):
        _decode(printer, call, stored, args)
        return
    _multiply(printer, call, weight.index, stored, args, W.LINES, functor)


def _conv(printer: Printer, call: Call) -> None:
    weight, window, x, to, _, functor = arguments(call)
    entry = printer.segment.weights[weight.index]
    args = {**planes_args(to), **source_args(x), **window_args(window)}
    args |= {"LINES": entry.type.shape[1], "P": Columns(to.planes.space)}
    stored = _stored(printer.segment, call)
    _multiply(printer, call, weight.index, stored, args, reads_of(window), functor)


def _depthwise(printer: Printer, call: Call) -> None:
    vector, outputs, multiplier, window, x, to, _, functor = arguments(call)
    columns, geometry = Columns(to.planes.space), window_args(window)
    args = {**planes_args(to), **source_args(x), **geometry, "LINES": 1, "P": columns}
    taps = geometry["KD"] * geometry["KH"] * geometry["KW"]
    args |= {"M": outputs, "K": taps, "number": vector, "GROUP_ROWS": multiplier}
    args |= {"GROUP_LINES": 1, "WIDE": 128}
    printer.launch(
        W.DENSE_ROWS,
        "depthwise",
        args,
        ((outputs, 1), (columns, 128)),
        call.label,
        holes=reads_of(window),
        functors={"epilogue": functor},
        warps=1,
    )


def _few(segment: Segment, call: Call) -> bool:
    """True where a call's columns are known, and few."""
    columns, samples = segment.spaces[call.space or 0].columns, segment.samples
    known = isinstance(columns, int) and isinstance(samples, int)
    return known and int(columns) * int(samples) <= FEW


def _decode(printer: Printer, call: Call, stored: Stored, args: dict[str, Any]) -> None:
    weight, _, _, columns, _, functor = arguments(call)
    rows = printer.segment.weights[weight.index].type.shape[0]
    template, parts = _DECODES[stored.kind]
    args |= {name: Part(weight.index, part) for name, part in parts.items()}
    printer.launch(
        template,
        f"{stored.kind}_decode",
        args | {"M": rows, "WIDE": 512},
        ((rows, 1), (columns, 1)),
        call.label,
        holes={"params": "x, ldx, LINES,"},
        functors={"epilogue": functor},
    )


_DECODES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "blocks": (W.CSR_DECODE, {"starts": "starts", "index": "index", "number": "number"}),
    "rows": (W.DENSE_DECODE, {"K": "columns", "number": "number"}),
    "bitmap": (
        W.BITMAP_DECODE,
        {"starts": "starts", "bits": "bits", "number": "number", "WORDS": "words"},
    ),
}


def _decode_row(printer: Printer, call: Call) -> None:
    """A linear on one row-major column; its epilogue reads vectors with a step of 0 or 1."""
    weight, x, to, _, functor, *reads = arguments(call)
    rows = printer.segment.weights[weight.index].type.shape[0]
    template, parts = _DECODES[_stored(printer.segment, call).kind]
    args: dict[str, Any] = {name: Part(weight.index, part) for name, part in parts.items()}
    args |= {"out": to, "ldo": 1, "P": 1, "M": rows, "x": x, "ldx": 1, "LINES": 0, "WIDE": 512}
    lines, names = [], []
    for i, read in enumerate(reads, 1):
        place, step = read.fields
        args |= {f"s{i}": place, f"step{i}": step}
        names += [f"s{i}", f"step{i}"]
        lines.append(f"x{i} = tl.load(s{i} + row * step{i}).to(tl.float32)")
    lines += code_of(functor.expr, functor.dtypes)
    holes = {"params": "x, ldx, LINES, " + "".join(f"{n}, " for n in names)}
    holes["epilogue"] = "\n".join(lines)
    grid = ((rows, 1), (1, 1))
    printer.launch(template, "decode_row", args, grid, call.label, holes=holes)


def _multiply(
    printer: Printer,
    call: Call,
    index: int,
    stored: Stored,
    args: dict[str, Any],
    reads: Mapping[str, str],
    functor: Any,
) -> None:
    """A launch of the kernel for how the weight is stored; reads: how it loads lines of x."""
    entry = printer.segment.weights[index]
    shape = entry.type.shape
    rows = int(shape[0]) // 16 if entry.kind == "winograd" else int(shape[0])
    wide, warps, stages = 128, 1, 3
    args |= {"M": rows, "number": Part(index, "number")}
    grouped = {"GROUP_ROWS": rows // entry.groups if entry.taps else rows}
    grouped["GROUP_LINES"] = shape[1] if entry.taps else 0
    if entry.kind == "winograd":
        grouped = {"GROUP_ROWS": rows, "GROUP_LINES": 0}
    precision = "tf32" if printer.dtype == "tf32" else "ieee"
    high = 1
    if stored.kind == "dense":
        template, high, wide, warps = W.DENSE_DOTS, stored.high, 64, 4
        args |= {"K": Part(index, "columns"), "HIGH": high, "DEEP": stored.deep}
        args |= {"PRECISION": precision}
    elif stored.kind == "rows":
        template = W.DENSE_ROWS
        args |= {"K": Part(index, "columns"), **grouped}
    elif stored.kind == "nm":
        template = W.NM_ROWS
        args |= {"place": Part(index, "place"), "RUNS": Part(index, "runs"), **grouped}
        args |= {"KEPT": stored.high, "OF": stored.deep}
    else:
        high = stored.high
        args |= {name: Part(index, name) for name in ("starts", "index")}
        args |= {"HIGH": high, "DEEP": stored.deep}
        template = W.BLOCK_ROWS
        even = stored.deep & (stored.deep - 1) == 0
        if even and min(high, stored.deep) >= LEAST_DOT and entry.groups == 1:
            template, wide, warps = W.BLOCK_DOTS, 64, 4
            args |= {"PRECISION": precision}
        else:
            args |= grouped
    args["WIDE"] = wide
    printer.launch(
        template,
        f"{stored.kind}_{'conv' if entry.taps or entry.kind == 'winograd' else 'linear'}",
        args,
        ((rows, high), (args["P"], wide)),
        call.label,
        holes=reads,
        functors={"epilogue": functor},
        warps=warps,
        stages=stages,
    )


WEIGHT_RULES: dict[str, Callable[[Printer, Call], None]] = {
    "linear": _linear,
    "decode_row": _decode_row,
    "conv": _conv,
    "depthwise": _depthwise,
    "depthwise_direct": _depthwise,
}
"""By the name of the kernel up to the format's."""
