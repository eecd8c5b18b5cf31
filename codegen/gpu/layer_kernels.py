"""The kernels of weights for a layer alone: the templates of `weights.py` with bias and relu.

What the static table, the choice of tiles and `sc.export(target="cuda:90")` compile; a model's own
segments print the same templates with their own epilogues.
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
from sparse_compiler.formats.cost import Shape
from sparse_compiler.formats.gpu_arch import Arch
from sparse_compiler.formats.gpu_cost import DECODE, FEW, WORK, Tile, predict

_INDEX = ("starts", "index", "bits")
_POINTERS = ("out", "x", "number", "bias", "place", *_INDEX)
_EPILOGUE = """\
value = tl.maximum(x0 + tl.load(bias + row, mask=mask, other=0.0).to(tl.float32), 0.0)"""
DTYPES = {"fp32": "fp32", "tf32": "fp32", "fp16": "fp16", "bf16": "bf16"}
"""How numbers lie in memory, by how they are multiplied."""


@dataclass(frozen=True)
class Family:
    """A kernel for a format. template: its name in `weights.py`. constants: beside WIDE, which is
    the tile's columns. window: side and stride of the convolution that it runs, None for products
    of matrices. most: columns up to which it is one of the candidates."""

    format: str
    function: str
    tiles: tuple[Tile, ...]
    constants: tuple[tuple[str, Any], ...] = ()
    window: tuple[int, int] | None = None
    most: float = float("inf")
    template: str = ""


def _rows(*columns: int) -> tuple[Tile, ...]:
    return tuple(Tile(1, wide, max(1, wide // 256), 1) for wide in columns)


def _csr(window: tuple[int, int] | None = None) -> Family:
    name = "csr_linear" if window is None else "csr_conv"
    ones, tiles = (("HIGH", 1), ("DEEP", 1)), _rows(128, 512, 1024)
    return Family("csr", name, tiles, ones, window, template="BLOCK_ROWS")


def _nm(kept: int, of: int) -> Family:
    constants, tiles = (("KEPT", kept), ("OF", of)), _rows(128, 512)
    return Family(f"nm_{kept}_{of}", "nm_linear", tiles, constants, template="NM_ROWS")


def _blocks(side: int) -> Family:
    constants = (("HIGH", side), ("DEEP", side))
    tiles = tuple(Tile(side, wide, 4, 3, depth=side) for wide in (64, 128))
    return Family(f"block_{side}x{side}", "block_linear", tiles, constants, template="BLOCK_DOTS")


def _decode(format_: str) -> Family:
    template = f"{format_.upper()}_DECODE"
    constants = (("WIDE", DECODE.depth),)
    return Family(format_, f"{format_}_decode", (DECODE,), constants, None, FEW, template)


FAMILIES = (
    _csr(),
    *(_csr(window) for window in ((7, 2), (3, 1), (3, 2), (1, 2))),
    _decode("csr"),
    _decode("bitmap"),
    _nm(1, 4),
    _nm(2, 4),
    _blocks(16),
    _blocks(32),
)


def source(family: Family) -> str:
    """The kernel's source as a module of its own."""
    reads = templates.LINES if family.window is None else templates.WINDOW
    holes = {**reads, "params": f"{reads['params']} bias,", "epilogue": _EPILOGUE}
    body = fill(getattr(templates, family.template), holes)
    return "import triton.language as tl\n\n\n" + body.replace("$name", family.function)


@cache
def function(family: Family) -> Callable[..., Any]:
    """The kernel as a plain function whose source triton can read. `OptionError` without triton."""
    require_triton()
    text = source(family)
    name = f"<sparse_compiler layer {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    space: dict[str, Any] = {"__name__": "sparse_compiler_layer_kernels"}
    exec(compile(text, name, "exec"), space)
    made: Callable[..., Any] = space[family.function]
    return made


def kernel(family: Family, dtype: str, tile: Tile) -> Kernel:
    """What is compiled for one tile; lines of planes begin at multiples of 16 numbers."""
    made = function(family)
    from triton.runtime.jit import JITFunction

    known = {"WIDE": tile.columns, "PRECISION": "tf32" if dtype == "tf32" else "ieee"}
    known |= {**_geometry(family.window), **dict(family.constants)}
    names = made.__code__.co_varnames[: made.__code__.co_argcount]
    types = tuple((name, _type(name, dtype, known)) for name in names)
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


def _type(name: str, dtype: str, known: Mapping[str, Any]) -> str:
    if name in known:
        return "constexpr"
    if name in _INDEX:
        return "*i32"
    if name == "place":
        return "*i8"
    return f"*{DTYPES[dtype]}" if name in _POINTERS else "i32"


def offers(dtypes: Sequence[str]) -> Iterator[tuple[Family, str, Tile, Kernel]]:
    """Every kernel in every dtype that makes another one of it: tf32 is for dots alone."""
    for family in FAMILIES:
        for dtype in dtypes:
            if dtype == "tf32" and family.template != "BLOCK_DOTS":
                continue
            for tile in family.tiles:
                yield family, dtype, tile, kernel(family, dtype, tile)


def ranked(
    format_: str, shape: Shape, window: tuple[int, int] | None, dtype: str, arch: Arch
) -> list[tuple[float, Family, Tile]]:
    """The kernels and tiles that can run a layer, fastest first by the cost model, with their
    nanoseconds: the order in which tuning would try them. Empty where no kernel can."""
    found = FORMATS[format_]
    return sorted(
        (
            (predict(WORK[found.family](found, shape, dtype, tile), tile, arch, dtype).ns, f, tile)
            for f in FAMILIES
            if f.format == found.stem and f.window == window and shape.n <= f.most
            for tile in f.tiles
        ),
        key=lambda one: one[0],
    )
