"""Which kernels of a GPU run a layer in a format, in which tiles, fastest first.

Each kind of kernel says what it asks of the GPU (`Work`); `gpu_roofline.predict` makes it a time.
`ranked` is the order in which tuning tries them, and its first is what runs untuned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from .base import Format
from .cost import ConvShape, Shape
from .gpu_arch import Arch
from .gpu_roofline import Tile, Work, activation_bytes, predict, value_bytes

FEW = 16
"""Columns up to which threads lie along the weight."""
DOT_ROWS = 16
"""Rows and columns from which a block is multiplied on matrix units."""
CHUNK = 256
"""Columns of a bitmap whose numbers begin at a place that is stored."""
INDEX_BYTES = 4
HALF_STEPS = 2
"""Vector instructions for a product of half-precision numbers: to fp32, and the multiply-add."""
PIXEL_STEPS = 10
"""For where a tap of a window lies: its offset, and the four borders."""
BIT_STEPS = 16
"""For each bit of a bitmap: its word, shift, and running count; also of zeros."""
WAVEFRONT = 128
"""Bytes in whose time a first-level cache gives a warp one number."""
PANEL_BYTES = 128 << 10
"""Of a panel of x that stays in a first-level cache."""
SECTOR = 32
"""Bytes that a cache fetches for a number by itself."""


@dataclass(frozen=True)
class Stored:
    """How a weight lies on the GPU. kind: "dense", "rows", "csr", "blocks", "nm", "bitmap" or
    "semi_structured", which torch's kernels read.

    high, deep: rows and columns of a block or of a dense tile; of "nm", how many are kept of how
    many.
    """

    kind: str
    high: int = 1
    deep: int = 1

    @property
    def dots(self) -> bool:
        """True for blocks that are large enough for matrix units."""
        even = self.deep & (self.deep - 1) == 0
        return self.kind == "blocks" and even and min(self.high, self.deep) >= DOT_ROWS


def stored_form(format_: Format, rows: int, groups: int, *, few: bool) -> Stored:
    """The packing of a weight: its own format where there is a kernel, else csr.

    rows: of each group. few: a linear on few columns, whose threads lie along the weight.
    """
    if format_.family == "dense":
        return Stored("dense", 32, 32) if groups == 1 else Stored("rows")
    high, deep = format_.parameters
    if format_.family == "nm":
        return Stored("nm", high, deep)
    if format_.family == "block":
        whole = groups == 1 or rows % high == 0
        if high & (high - 1) == 0 and whole and not (groups > 1 and min(high, deep) >= DOT_ROWS):
            return Stored("blocks", high, deep)
    if format_.family == "bitmap" and few:  # of more, indices are cheaper to have than to count
        return Stored("bitmap")
    return Stored("csr")


def form_of(format_: Format, shape: Shape) -> Stored:
    """The packing of a layer's weight."""
    groups = shape.groups if isinstance(shape, ConvShape) else 1
    return stored_form(format_, shape.rows // groups, groups, few=is_few(shape))


def is_few(shape: Shape) -> bool:
    """True for a product of a matrix with few columns."""
    return shape.n <= FEW and not has_window(shape)


def has_window(shape: Shape) -> bool:
    """True for a convolution that is no product of matrices."""
    return isinstance(shape, ConvShape) and (shape.taps > 1 or shape.strided)


# --- tiles ----------------------------------------------------------------------------------------


def _lanes(rows: int, columns: int, warps: int, sums: int) -> Tile:
    return Tile(rows, columns, warps, 1, 24 + 3 * sums // (32 * warps))


def _csr_tiles(stored: Stored, size: int, window: bool) -> tuple[Tile, ...]:
    """Rows share a panel of x, one after the other; threads load 16 bytes, in a window 4 numbers
    each."""
    line = 128 if window else 32 * 16 // size
    shapes = ((1, line, 1), (4, line, 1), (1, 2 * line, 2), (4, 2 * line, 2), (8, 2 * line, 2))
    return tuple(_lanes(*sizes, sizes[1]) for sizes in shapes)


def _nm_tiles(stored: Stored, size: int, window: bool) -> tuple[Tile, ...]:
    line = 128 if window else 32 * 16 // size
    return _lanes(1, line, 1, line), _lanes(1, 2 * line, 2, 2 * line)


def _block_tiles(stored: Stored, size: int, window: bool) -> tuple[Tile, ...]:
    """Blocks on lanes: 16 sums for each thread, so that its registers suffice."""
    high, warps = stored.high, max(1, stored.high // 4)
    return _lanes(high, 128, warps, high * 128), _lanes(high, 256, 2 * warps, high * 256)


def _dot_tiles(stored: Stored, size: int, window: bool) -> tuple[Tile, ...]:
    """In a window, threads hold the places of fewer pixels."""
    high, deep = stored.high, stored.deep
    shapes = ((32, high // 4), (64, high // 2)) if window else ((32, 2), (64, 4), (128, 8))
    return tuple(
        Tile(high, n, w, 3, 48 + 2 * high * n // (32 * w), 3 * size * deep * (high + n), deep)
        for n, w in shapes
    )


def _csr_decode_tiles(stored: Stored, size: int, window: bool) -> tuple[Tile, ...]:
    tiles = (
        Tile(1, 1, 1, 1, 40, 0, 128),
        Tile(4, 1, 4, 1, 40, 0, 128),
        Tile(1, 1, 4, 1, 40, 128, 512),
    )
    return tuple(replace(tile, parts=parts) for parts in PARTS for tile in tiles)


def _bitmap_tiles(stored: Stored, size: int, window: bool) -> tuple[Tile, ...]:
    tiles = (Tile(1, 1, 2, 1, 48, 64, CHUNK), Tile(4, 1, 4, 1, 64, 0, CHUNK))
    return tuple(replace(tile, parts=parts) for parts in PARTS for tile in tiles)


def _dense_decode_tiles(stored: Stored, size: int, window: bool) -> tuple[Tile, ...]:
    tiles = (Tile(1, 1, 4, 1, 40, 128, 512), Tile(4, 1, 4, 1, 40, 0, 256))
    return tuple(replace(tile, parts=parts) for parts in PARTS for tile in tiles)


def _sum_tiles(stored: Stored, size: int, window: bool) -> tuple[Tile, ...]:
    return (Tile(128, 1, 4, 1, 32, parts=PARTS[-1]),)


PARTS = (1, 4)
"""Programs among which decoding splits a row."""

# --- work -----------------------------------------------------------------------------------------


def _numbers(shape: Shape) -> int:
    return shape.nnz if shape.stored is None else shape.stored


def _pixels(shape: Shape) -> int:
    return PIXEL_STEPS if has_window(shape) else 0


def _lane_work(
    stored: Stored, shape: Shape, size: int, tile: Tile, numbers: int, index: float
) -> Work:
    """Products on vector lanes; a loaded line of x serves the rows of a block.

    A number and its index are loaded once by each warp, those of a block by each thread for each of
    its sums: triton repeats what is the same along a tile.
    """
    shared_by = stored.high if stored.kind == "blocks" else 1
    broadcast = 4 * tile.columns if stored.kind == "blocks" else 2 * WAVEFRONT * tile.warps
    products = HALF_STEPS if size == 2 else 1
    weight = size * numbers + index
    again = -(-shape.n // tile.columns)
    return Work(
        dots=0.0,
        sums=2.0 * (products + _pixels(shape) / shared_by) * numbers * again * tile.columns,
        loads=size * numbers * shape.n / shared_by + again * broadcast * numbers,
        memory=weight + activation_bytes(shape, size),
        programs=-(-shape.rows // tile.rows) * again,
        steps=math.ceil(numbers / shape.rows) * tile.rows // shared_by,
        step_bytes=min(shape.n, tile.columns) * size,
        missed=_missed(shape, size, tile, numbers) if shared_by == 1 else 1.0,
    )


def _missed(shape: Shape, size: int, tile: Tile, numbers: int) -> float:
    """Of the lines that a program's rows read, those that none of them read before; all, where the
    panel does not fit the first-level cache."""
    density = min(1.0, numbers / (shape.rows * shape.columns))
    if shape.columns * tile.columns * size > PANEL_BYTES:
        return 1.0
    if density == 0:
        return 1.0
    return (1 - (1 - density) ** tile.rows) / (density * tile.rows)


def _csr_work(stored: Stored, shape: Shape, size: int, tile: Tile) -> Work:
    """An index for each non-zero; the rows of a program read one panel of x."""
    return _lane_work(stored, shape, size, tile, shape.nnz, shape.nnz * INDEX_BYTES)


def _nm_work(stored: Stored, shape: Shape, size: int, tile: Tile) -> Work:
    """A byte for the place of each number within its group."""
    return _lane_work(stored, shape, size, tile, _numbers(shape), _numbers(shape))


def _block_work(stored: Stored, shape: Shape, size: int, tile: Tile) -> Work:
    """An index for each block."""
    numbers = _numbers(shape)
    index = numbers * INDEX_BYTES / (stored.high * stored.deep)
    return _lane_work(stored, shape, size, tile, numbers, index)


def _rows_work(stored: Stored, shape: Shape, size: int, tile: Tile) -> Work:
    """Every number, zeros too."""
    return _lane_work(stored, shape, size, tile, shape.rows * shape.columns, 0)


def _dot_work(stored: Stored, shape: Shape, size: int, tile: Tile) -> Work:
    """Products on matrix units; each program loads its blocks and the lines of x they meet."""
    numbers = shape.rows * shape.columns if stored.kind == "dense" else _numbers(shape)
    index = 0 if stored.kind == "dense" else numbers * INDEX_BYTES / (stored.high * stored.deep)
    again = -(-shape.n // tile.columns)
    weight, lines = size * numbers + index, numbers / tile.rows * again * tile.columns
    return Work(
        dots=2.0 * numbers * again * tile.columns,
        sums=2.0 * _pixels(shape) * lines,
        loads=again * weight + size * lines,
        memory=weight + activation_bytes(shape, size),
        programs=-(-shape.rows // tile.rows) * again,
        steps=math.ceil(numbers / shape.rows / tile.depth),
        step_bytes=tile.depth * (min(shape.n, tile.columns) + tile.rows) * size,
    )


def _decode_work(
    shape: Shape, size: int, tile: Tile, numbers: float, index: float, walked: float, each: float
) -> Work:
    """One column of few by a program for each: walked, of a row: places that threads go through,
    each at the price of `each` instructions; a number of x is fetched by itself."""
    rows, products = shape.rows, HALF_STEPS if size == 2 else 1
    steps = math.ceil(walked / tile.depth / tile.parts)
    weight = size * numbers + index
    partial = 8 * rows * shape.n * tile.parts if tile.parts > 1 else 0
    places = rows * steps * tile.parts * tile.depth
    return Work(
        dots=0.0,
        sums=2.0 * (products + each) * places * shape.n,
        loads=(weight + SECTOR * numbers) * shape.n,
        memory=weight + activation_bytes(shape, size) + partial,
        programs=-(-rows // tile.rows) * shape.n * tile.parts,
        steps=steps,
        step_bytes=tile.rows * min(tile.depth, walked / tile.parts) * weight / (walked * rows),
    )


def _csr_decode_work(stored: Stored, shape: Shape, size: int, tile: Tile) -> Work:
    per_row = max(1.0, shape.nnz / shape.rows)
    index = shape.nnz * INDEX_BYTES
    return _decode_work(shape, size, tile, shape.nnz, index, per_row, 0)


def _bitmap_work(stored: Stored, shape: Shape, size: int, tile: Tile) -> Work:
    """A bit for each element of the weight, zeros too."""
    index = shape.rows * shape.columns / 8
    return _decode_work(shape, size, tile, shape.nnz, index, shape.columns, BIT_STEPS)


def _dense_decode_work(stored: Stored, shape: Shape, size: int, tile: Tile) -> Work:
    numbers = shape.rows * shape.columns
    return _decode_work(shape, size, tile, numbers, 0, shape.columns, 0)


def _no_work(stored: Stored, shape: Shape, size: int, tile: Tile) -> Work:
    """The second pass of a split row, which that row's own prediction has in it."""
    return Work(0, 0, 0, 0, 1, 0, 1)


@dataclass(frozen=True)
class Kind:
    """A kind of kernel. template: its name in `codegen/gpu/weights.py`. few: for few columns alone,
    by threads along the weight."""

    template: str
    tiles: Callable[[Stored, int, bool], tuple[Tile, ...]]
    work: Callable[[Stored, Shape, int, Tile], Work]
    few: bool = False


CSR = Kind("CSR_ROWS", _csr_tiles, _csr_work)
NM = Kind("NM_ROWS", _nm_tiles, _nm_work)
BLOCKS = Kind("BLOCK_ROWS", _block_tiles, _block_work)
DOTS = Kind("BLOCK_DOTS", _dot_tiles, _dot_work)
DENSE = Kind("DENSE_DOTS", _dot_tiles, _dot_work)
ROWS = Kind("DENSE_ROWS", _nm_tiles, _rows_work)
CSR_DECODE = Kind("CSR_DECODE", _csr_decode_tiles, _csr_decode_work, few=True)
BITMAP_DECODE = Kind("BITMAP_DECODE", _bitmap_tiles, _bitmap_work, few=True)
DENSE_DECODE = Kind("DENSE_DECODE", _dense_decode_tiles, _dense_decode_work, few=True)
SUM = Kind("SUM_PARTS", _sum_tiles, _no_work, few=True)

KINDS: Mapping[str, tuple[Kind, ...]] = {
    "csr": (CSR, CSR_DECODE),
    "bitmap": (BITMAP_DECODE,),
    "nm": (NM,),
    "blocks": (BLOCKS,),
    "dense": (DENSE,),
    "rows": (ROWS, DENSE_DECODE),
}
"""By how the weight is stored."""


def kinds_of(stored: Stored, *, few: bool) -> tuple[Kind, ...]:
    """The kinds of kernels that read a weight stored so."""
    if stored.dots:
        return (DOTS,)
    return tuple(kind for kind in KINDS[stored.kind] if few or not kind.few)


@dataclass(frozen=True)
class Choice:
    """A kernel in a tile, and its predicted nanoseconds."""

    ns: float
    kind: Kind
    tile: Tile


@lru_cache(maxsize=4096)
def ranked(stored: Stored, shape: Shape, dtype: str, arch: Arch) -> tuple[Choice, ...]:
    """The kernels and tiles that run a layer so stored, fastest first by the cost model."""
    size, few = value_bytes(dtype), is_few(shape)
    found = (
        Choice(predict(kind.work(stored, shape, size, t), t, arch, dtype).ns, kind, t)
        for kind in kinds_of(stored, few=few)
        for t in kind.tiles(stored, size, has_window(shape))
        if t.shared <= arch.shared_block
    )
    return tuple(sorted(found, key=lambda choice: choice.ns))
