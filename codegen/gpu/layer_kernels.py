"""The kernels of weights for a layer alone: the templates of `weights.py` with bias and relu.

What the static table compiles; a model's own segments print the same templates with their own
epilogues.
"""

from __future__ import annotations

import hashlib
import linecache
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sparse_compiler.codegen.gpu import weights as templates
from sparse_compiler.codegen.gpu.source import fill
from sparse_compiler.codegen.gpu.static import Kernel, require_triton
from sparse_compiler.formats.base import FORMATS
from sparse_compiler.formats.gpu_kernels import SUM, Kind, Stored, kinds_of, stored_form
from sparse_compiler.formats.gpu_roofline import Tile, value_bytes

_INDEX = ("order", "starts", "index", "bits")
_POINTERS = ("out", "x", "number", "bias", "place", "partial", *_INDEX)
_EPILOGUE = """\
value = tl.maximum(x0 + tl.load(bias + row, mask=mask, other=0.0).to(tl.float32), 0.0)"""
DTYPES = {"fp32": "fp32", "tf32": "fp32", "fp16": "fp16", "bf16": "bf16"}
"""How numbers lie in memory, by how they are multiplied."""
_SHORT = {"csr": "csr", "blocks": "block", "nm": "nm", "bitmap": "bitmap", "dense": "dense"}


@dataclass(frozen=True)
class Family:
    """A kernel for a format. window: side and stride of the convolution that it runs, None for
    products of matrices."""

    format: str
    kind: Kind
    stored: Stored
    window: tuple[int, int] | None = None

    @property
    def function(self) -> str:
        """The kernel's name."""
        if self.kind is SUM:
            return "sum_parts"
        what = "decode" if self.kind.few else "linear" if self.window is None else "conv"
        return f"{_SHORT[self.stored.kind]}_{what}"

    def tiles(self, dtype: str) -> tuple[Tile, ...]:
        """Those that tuning may try."""
        return self.kind.tiles(self.stored, value_bytes(dtype), self.window is not None)


WINDOWS: Mapping[str, tuple[tuple[int, int], ...]] = {
    "csr": ((7, 2), (3, 1), (3, 2), (1, 2)),
    "block_16x16": ((3, 1), (3, 2), (1, 2)),
    "block_32x32": ((3, 1), (3, 2), (1, 2)),
    "block_8x1": ((3, 1),),
    "nm_2_4": ((3, 1),),
}
"""Of the convolutions of ResNet-50, by the formats that are compiled for them."""
NAMES = (
    *("csr", "bitmap", "nm_1_4", "nm_2_4", "block_4x1", "block_8x1", "block_16x1"),
    *("block_4x4", "block_16x16", "block_32x32"),
)


def _families() -> Iterator[Family]:
    for name in NAMES:
        stored = stored_form(FORMATS[name], 1, 1, few=True)
        yield from (Family(name, kind, stored) for kind in kinds_of(stored, few=True))
        for window in WINDOWS.get(name, ()):
            yield from (Family(name, k, stored, window) for k in kinds_of(stored, few=False))
    dense = Stored("dense", 32, 32)
    yield Family("dense", kinds_of(dense, few=False)[0], dense)
    yield Family("split rows", SUM, Stored("csr"))


FAMILIES = tuple(_families())


def source(family: Family, part: bool = False) -> str:
    """The kernel's source as a module of its own. part: of a row that is split."""
    reads = templates.LINES if family.window is None else templates.WINDOW
    before = "" if family.kind is SUM else reads["params"]
    after = "" if part else " bias,"
    holes = {**reads, "params": f"{before}{after}", "epilogue": _EPILOGUE}
    template = f"{family.kind.template}_PART" if part else family.kind.template
    body = fill(getattr(templates, template), holes)
    return "import triton.language as tl\n\n\n" + body.replace("$name", family.function)


@cache
def function(family: Family, part: bool = False) -> Callable[..., Any]:
    """The kernel as a plain function whose source triton can read. `OptionError` without triton."""
    require_triton()
    text = source(family, part)
    name = f"<sparse_compiler layer {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    space: dict[str, Any] = {"__name__": "sparse_compiler_layer_kernels"}
    exec(compile(text, name, "exec"), space)
    made: Callable[..., Any] = space[family.function]
    return made


def kernel(family: Family, dtype: str, tile: Tile) -> Kernel:
    """What is compiled for one tile; lines of planes begin at multiples of 16 numbers."""
    part = tile.parts > 1 and family.kind is not SUM
    made = function(family, part)
    from triton.runtime.jit import JITFunction

    wide = tile.depth if family.kind.few else tile.columns
    known: dict[str, Any] = {"HIGH": tile.rows, "WIDE": wide, "PARTS": tile.parts}
    known["PRECISION"] = "tf32" if dtype == "tf32" else "ieee"
    known |= {"DEEP": family.stored.deep, "KEPT": family.stored.high, "OF": family.stored.deep}
    known |= _geometry(family.window)
    names = made.__code__.co_varnames[: made.__code__.co_argcount]
    types = tuple((name, _type(name, dtype, known, part)) for name in names)
    constants = tuple((name, known[name]) for name, type_ in types if type_ == "constexpr")
    aligned = tuple(n for n in names if n in _POINTERS or n in ("P", "ldx", "ldo"))
    return Kernel(JITFunction(made), types, constants, aligned, tile.warps, tile.stages)


def _geometry(window: tuple[int, int] | None) -> Mapping[str, int]:
    """Of an image: one line deep, with the padding that keeps its size at stride 1."""
    if window is None:
        return {}
    side, stride = window
    flat = {"KD": 1, "SD": 1, "ED": 1, "PD": 0, "EH": 1, "EW": 1}
    square = {"KH": side, "KW": side, "SH": stride, "SW": stride}
    return {**flat, **square, "PH": side // 2, "PW": side // 2}


def _type(name: str, dtype: str, known: Mapping[str, Any], part: bool) -> str:
    if name in known:
        return "constexpr"
    if name in _INDEX:
        return "*i32"
    if name == "place":
        return "*i8"
    if name == "partial" or (part and name == "out"):
        return "*fp32"
    return f"*{DTYPES[dtype]}" if name in _POINTERS else "i32"


def offers(dtypes: Sequence[str]) -> Iterator[tuple[Family, str, Tile, Kernel]]:
    """Every kernel in every dtype that makes another one of it: tf32 is for dots alone."""
    for family in FAMILIES:
        for dtype in dtypes:
            if dtype == "tf32" and "DOTS" not in family.kind.template:
                continue
            for tile in family.tiles(dtype):
                yield family, dtype, tile, kernel(family, dtype, tile)
