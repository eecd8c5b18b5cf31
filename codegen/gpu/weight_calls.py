"""Linears and convolutions as launches: the kernel that the weight's format and sizes ask for.

The cost model ranks the tiles of the kernels that can; the first is launched, the next ones are
kept beside it for tuning. A row that is split along K takes a second launch, which sums the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sparse_compiler.codegen.gpu import weights as W
from sparse_compiler.codegen.gpu.source import (
    Launch,
    Part,
    Printer,
    Scratch,
    planes_args,
    row_reads,
    source_args,
)
from sparse_compiler.codegen.gpu.sparse_dots import is_sparse_dot, print_sparse_dot
from sparse_compiler.codegen.gpu.windows import reads_of
from sparse_compiler.codegen.operands import Columns, Struct
from sparse_compiler.codegen.program import Call, Segment, WeightEntry
from sparse_compiler.errors import CodegenError, UnsupportedError
from sparse_compiler.formats.base import FORMATS
from sparse_compiler.formats.cost import ConvShape, LinearShape, Shape
from sparse_compiler.formats.gpu_arch import DEFAULT, Arch
from sparse_compiler.formats.gpu_kernels import (
    FEW,
    ROWS,
    Choice,
    Kind,
    Stored,
    ranked,
    stored_form,
)
from sparse_compiler.formats.gpu_roofline import Tile
from sparse_compiler.ir.types import product

TRIED = 4
"""Tiles of a launch that tuning measures."""
USUAL_COLUMNS, USUAL_DENSITY = 4096, 0.1
"""What tiles are ranked for where a segment does not say: its columns, its weights' zeros."""
SUMMED = 128
"""Rows of a program that sums the parts of split rows."""


def stored_as(entry: WeightEntry, *, few: bool) -> Stored:
    """The packing of a weight for the GPU. few: of a linear on few columns."""
    if entry.kind == "winograd":  # the kernels themselves: matrix units need no fewer products
        return Stored("dense", 32, 32)
    rows = int(entry.type.shape[0]) // max(1, entry.groups)
    return stored_form(FORMATS[str(entry.type.format)], rows, entry.groups, few=few)


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
    if not one or stored.kind in ("bitmap", "csr"):
        return stored
    return Stored("rows" if stored.kind == "dense" else "csr")


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


def shape_of(segment: Segment, call: Call, entry: WeightEntry, stored: Stored) -> Shape:
    """The layer as costs see it, with the usual sizes and zeros where the segment has none."""
    rows, columns = _matrix(entry)
    density = {"nm": stored.high / stored.deep, "dense": 1.0, "rows": 1.0}
    nnz = max(1, round(rows * columns * density.get(stored.kind, USUAL_DENSITY)))
    known = 1 if call.kernel == "decode_row" else _columns(segment, call)
    n = USUAL_COLUMNS if known is None else max(1, known)
    if not call.kernel.startswith("conv"):
        return LinearShape(rows, columns, nnz, n, nnz)
    # The printed kernel reads through a window, also one of a single tap.
    return ConvShape(rows, columns, nnz, n, max(1, entry.taps), entry.groups, True, nnz)


def _matrix(entry: WeightEntry) -> tuple[int, int]:
    shape = entry.type.shape
    rows = int(shape[0]) // 16 if entry.kind == "winograd" else int(shape[0])
    columns = product(shape[1:])
    return rows, columns if isinstance(columns, int) else USUAL_COLUMNS


def _columns(segment: Segment, call: Call) -> int | None:
    """How many columns a call works on, where that is known."""
    columns, samples = segment.spaces[call.space or 0].columns, segment.samples
    known = isinstance(columns, int) and isinstance(samples, int)
    return int(columns) * int(samples) if known else None


def _few(segment: Segment, call: Call) -> bool:
    columns = _columns(segment, call)
    return columns is not None and columns <= FEW


def _choices(printer: Printer, call: Call, entry: WeightEntry, stored: Stored) -> list[Choice]:
    """What runs the call, and what tuning tries beside it: one launch each."""
    shape = shape_of(printer.segment, call, entry, stored)
    found = ranked(stored, shape, printer.dtype, printer.arch)
    if call.kernel == "decode_row":  # x is a row, not planes
        found = tuple(c for c in found if c.kind.few)
    if not found:
        raise UnsupportedError(
            f"the blocks of %{entry.name} are too large for {printer.arch.label}",
            why=f"no tile of them fits its {printer.arch.shared_block} bytes of shared memory",
            fix="take smaller blocks",
        )
    first, *others = found
    whole = [c for c in others if c.tile.parts == 1]
    return [first, *(whole[: TRIED - 1] if first.tile.parts == 1 else ())]


# --- rules ----------------------------------------------------------------------------------------


def _linear(printer: Printer, call: Call) -> None:
    if is_sparse_dot(printer.segment, call, printer.dtype, printer.arch):
        print_sparse_dot(printer, call)
        return
    weight, x, to, columns, _, functor = arguments(call)
    args = {**planes_args(to), **source_args(x), "LINES": x.rows, "P": columns}
    holes = {"functors": {"epilogue": functor}}
    _print(printer, call, weight.index, args, W.LINES, holes)


def _conv(printer: Printer, call: Call) -> None:
    weight, window, x, to, _, functor = arguments(call)
    entry = printer.segment.weights[weight.index]
    args = {**planes_args(to), **source_args(x), **window_args(window)}
    args |= {"LINES": entry.type.shape[1], "P": Columns(to.planes.space)}
    holes = {"functors": {"epilogue": functor}}
    _print(printer, call, weight.index, args, reads_of(window), holes)


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


def _decode_row(printer: Printer, call: Call) -> None:
    """A linear on one row-major column; its epilogue reads vectors with a step of 0 or 1."""
    weight, x, to, _, functor, *reads = arguments(call)
    args: dict[str, Any] = {"out": to, "ldo": 1, "P": 1, "x": x, "ldx": 1, "LINES": 0}
    lines, given = row_reads(functor, reads)
    holes = {"given": given, "epilogue": "\n".join(lines)}
    _print(printer, call, weight.index, args, W.LINES, holes)


def _print(
    printer: Printer,
    call: Call,
    index: int,
    args: dict[str, Any],
    reads: Mapping[str, str],
    holes: Mapping[str, Any],
) -> None:
    """The launch of the best tile, the others beside it. reads: how lines of x are loaded; holes:
    what is computed of the sums, as functors, or as text with the parameters `given` to it."""
    entry = printer.segment.weights[index]
    stored = _stored(printer.segment, call)
    layer = _Layer(printer, call, index, entry, stored, args, reads, holes)
    begin = len(printer.launches)
    choices = _choices(printer, call, entry, stored)
    for choice in choices:
        layer.launch(choice.kind, choice.tile)
    if choices[0].tile.parts == 1:
        first, *others = (x for x in printer.launches[begin:] if isinstance(x, Launch))
        printer.launches[begin:] = [replace(first, others=tuple(others))]


@dataclass(frozen=True)
class _Layer:
    """A call as the arguments of `_print`, on the way to its launches."""

    printer: Printer
    call: Call
    index: int
    entry: WeightEntry
    stored: Stored
    args: Mapping[str, Any]
    reads: Mapping[str, str]
    holes: Mapping[str, Any]

    @property
    def rows(self) -> int:
        return _matrix(self.entry)[0]

    def launch(self, kind: Kind, tile: Tile) -> None:
        """One launch, or two where rows are split along K."""
        if kind.few:
            self._decode(kind, tile)
            return
        args = {**self.args, **self._weight(kind), **_tile_args(kind, tile, self.stored)}
        args |= {} if "DOTS" in kind.template else self._groups()
        if "DOTS" in kind.template:
            args["PRECISION"] = "tf32" if self.printer.dtype == "tf32" else "ieee"
        grid = ((self.rows, tile.rows), (args["P"], tile.columns))
        windowed = self.entry.taps or self.entry.kind == "winograd"
        name = f"{self.stored.kind}_{'conv' if windowed else 'linear'}"
        self._enter(getattr(W, kind.template), name, args, grid, tile, self.reads)

    def _decode(self, kind: Kind, tile: Tile) -> None:
        args = {**self.args, **self._weight(kind), **_tile_args(kind, tile, self.stored)}
        grid = ((self.rows, tile.rows), (args["P"], 1), (tile.parts, 1))
        reads, name = {"params": "x, ldx, LINES,"}, f"{self.stored.kind}_decode"
        if tile.parts == 1:
            self._enter(getattr(W, kind.template), name, args, grid, tile, reads)
            return
        label, columns = self.call.label, self.args["P"]
        partial = Scratch(f"parts of {label}", tile.parts * self.rows, columns)
        split = {**{k: v for k, v in args.items() if k != "ldo"}, "out": partial}
        template = getattr(W, f"{kind.template}_PART")
        self.printer.launch(
            template,
            f"{name}_part",
            split,
            grid,
            label,
            holes=reads,
            warps=tile.warps,
            stages=tile.stages,
        )
        kept = ("out", "ldo", "P")
        args = {**{k: self.args[k] for k in kept}, "partial": partial, "M": self.rows}
        args |= {"HIGH": SUMMED, "PARTS": tile.parts}
        sums = ((self.rows, SUMMED), (columns, 1))
        self._enter(W.SUM_PARTS, "sum_parts", args, sums, replace(tile, warps=4), {"params": ""})

    def _enter(
        self,
        template: str,
        name: str,
        args: dict[str, Any],
        grid: Any,
        tile: Tile,
        reads: Mapping[str, str],
    ) -> None:
        """A launch with the epilogue in it."""
        given = self.holes.get("given", {})
        holes = {**reads, "params": reads["params"] + "".join(f" {name}," for name in given)}
        if "epilogue" in self.holes:
            holes["epilogue"] = self.holes["epilogue"]
        self.printer.launch(
            template,
            name,
            args | given,
            grid,
            self.call.label,
            holes=holes,
            functors=self.holes.get("functors"),
            warps=tile.warps,
            stages=tile.stages,
        )

    def _weight(self, kind: Kind) -> dict[str, Any]:
        """What the kernel reads of the weight."""
        parts = _PARTS[kind.template]
        found: dict[str, Any] = {name: Part(self.index, part) for name, part in parts.items()}
        return {**found, "number": Part(self.index, "number"), "M": self.rows}

    def _groups(self) -> dict[str, Any]:
        """Which lines of x a row reads."""
        if self.entry.kind == "winograd" or not self.entry.taps:
            return {"GROUP_ROWS": self.rows, "GROUP_LINES": 0}
        lines = self.entry.type.shape[1]
        return {"GROUP_ROWS": self.rows // self.entry.groups, "GROUP_LINES": lines}


_CSR = {"order": "order", "starts": "starts", "index": "index"}
_BITMAP = {"starts": "starts", "bits": "bits", "WORDS": "words", "CHUNKS": "chunks"}
_PARTS: Mapping[str, Mapping[str, str]] = {
    "CSR_ROWS": _CSR,
    "CSR_DECODE": _CSR,
    "BITMAP_DECODE": _BITMAP,
    "DENSE_DECODE": {"K": "columns"},
    "DENSE_ROWS": {"K": "columns"},
    "DENSE_DOTS": {"K": "columns"},
    "NM_ROWS": {"place": "place", "RUNS": "runs"},
    "BLOCK_ROWS": {"starts": "starts", "index": "index"},
    "BLOCK_DOTS": {"starts": "starts", "index": "index"},
}
"""By template: its arguments, and the arrays and sizes of the packed weight that they are."""


def _tile_args(kind: Kind, tile: Tile, stored: Stored) -> dict[str, Any]:
    """The constants of a kernel."""
    if kind.few:
        return {"HIGH": tile.rows, "WIDE": tile.depth, "PARTS": tile.parts}
    if stored.kind == "nm":
        return {"KEPT": stored.high, "OF": stored.deep, "WIDE": tile.columns}
    if kind is ROWS:
        return {"WIDE": tile.columns}
    found = {"HIGH": tile.rows, "WIDE": tile.columns}
    return found if stored.kind == "csr" else {**found, "DEEP": stored.deep}


WEIGHT_RULES: dict[str, Callable[[Printer, Call], None]] = {
    "linear": _linear,
    "decode_row": _decode_row,
    "conv": _conv,
    "depthwise": _depthwise,
    "depthwise_direct": _depthwise,
}
"""By the name of the kernel up to the format's."""
