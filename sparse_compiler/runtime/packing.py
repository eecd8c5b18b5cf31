"""Weights in the form in which kernels read them: packed blobs, planes of constants, masks."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch

from ..codegen.cpu.build import Toolchain, build, load_library, support_source
from ..codegen.plan import lines
from ..errors import CodegenError
from ..ir.types import TensorType

ALIGN = 64
IN_PLACE = 1 << 16
"""Bytes from which a constant may be read where it lies."""

Place = Callable[[int], torch.Tensor]
"""Gives memory of so many bytes."""

_WIDE = 4  # vectors of columns that make up for it in a linear
_PAGE = 4096  # bytes after which lines share a set of the first cache


def aligned_bytes(size: int) -> torch.Tensor:
    """`size` uninitialised bytes that start at a cache line."""
    memory = torch.empty(size + ALIGN, dtype=torch.uint8, device="cpu")
    skip = -memory.data_ptr() % ALIGN
    return memory[skip : skip + size]


class Packer:
    """The packing functions of one toolchain, found by format name."""

    def __init__(self, toolchain: Toolchain) -> None:
        self.width = toolchain.width
        self.library = load_library(build(support_source(), toolchain))

    def pack(
        self,
        format_: str,
        weight: torch.Tensor,
        columns: int,
        groups: int = 1,
        taps: int = 0,
        place: Place = aligned_bytes,
    ) -> torch.Tensor:
        """The blob of an fp32 [M, K, ...] weight, as uint8, tiled for that many columns.

        groups, taps: of a convolution; taps 0 for a linear. place: gives the memory for it. Raises
        `CodegenError` where the packer refuses the weight.
        """
        matrix = weight.detach().contiguous().reshape(weight.shape[0], -1)
        m, k = (ctypes.c_int64(size) for size in matrix.shape)
        tiles = self._tiles(format_, matrix, columns, groups, taps)
        data, part = ctypes.c_void_p(matrix.data_ptr()), ctypes.c_int64(groups)
        size_of = self.library[f"sc_{format_}_grouped_bytes"]
        size_of.restype = ctypes.c_int64
        size = size_of(data, m, k, k, part, *tiles)
        blob = place(size)
        pack = self.library[f"sc_{format_}_grouped_pack"]
        if size == 0 or not pack(data, m, k, k, part, *tiles, ctypes.c_void_p(blob.data_ptr())):
            raise CodegenError(f"the {format_} packer refuses a weight of {tuple(weight.shape)}")
        return blob

    def reads_in_place(self, format_: str, parts: Sequence[torch.Tensor], columns: int) -> bool:
        """True where a linear on that many columns should read its weight where it lies.

        That is too slow on few columns, and where the rows' lines share a few sets of the cache.
        """
        row = parts[0].shape[1] * 4
        plain = all(
            p.dtype == torch.float32 and p.dim() == 2 and p.is_contiguous() and len(p)
            for p in parts
        )
        large = sum(p.numel() for p in parts) * 4 >= IN_PLACE
        wide = self.width > 4 and columns >= _WIDE * self.width
        few = 0 < columns % self.width <= 4  # a way of its own in linear_dense.h
        return format_ == "dense" and plain and large and wide and not few and row % _PAGE != 0

    def refer(self, parts: Sequence[torch.Tensor], place: Place = aligned_bytes) -> torch.Tensor:
        """The blob of a dense weight, `parts` one below the other, which must outlive it."""
        count, columns = len(parts), parts[0].shape[1]
        rows = (ctypes.c_int64 * count)(*(len(part) for part in parts))
        pointers = (ctypes.c_void_p * count)(*(part.data_ptr() for part in parts))
        tiles = [ctypes.c_int() for _ in range(3)]
        sizes = [ctypes.c_int64(size) for size in (sum(rows), columns, 0, 0)]
        self.library.sc_dense_default_tiles(*sizes, self.width, *map(ctypes.byref, tiles))
        pieces, k = ctypes.c_int64(count), ctypes.c_int64(columns)
        size_of = self.library.sc_rows_packed_bytes
        size_of.restype = ctypes.c_int64
        blob = place(size_of(rows, pieces, k, tiles[2]))
        out = ctypes.c_void_p(blob.data_ptr())
        if not self.library.sc_rows_pack(pointers, rows, pieces, k, *tiles, out):
            raise CodegenError(f"the packer refuses a weight of {sum(rows)} x {columns}")
        return blob

    def _tiles(
        self, format_: str, matrix: torch.Tensor, columns: int, groups: int, taps: int
    ) -> list[ctypes.c_int]:
        """Tiles measured good for this shape: k_tile, panel_vectors, row_block."""
        rows, width = matrix.shape
        shape = (rows // groups, width, int(torch.count_nonzero(matrix)) // groups, columns)
        tiles = [ctypes.c_int() for _ in range(3)]
        refs = [ctypes.byref(t) for t in tiles]
        sizes = [ctypes.c_int64(size) for size in shape]
        if taps:
            choose = self.library[f"sc_{format_}_conv_tiles"]
            choose(*sizes, ctypes.c_int64(taps), self.width, *refs)
        else:
            self.library[f"sc_{format_}_default_tiles"](*sizes, self.width, *refs)
        return tiles


@lru_cache(maxsize=8)
def packer_for(toolchain: Toolchain) -> Packer:
    """The packers, compiled once per toolchain."""
    return Packer(toolchain)


def in_planes(value: torch.Tensor, type_: TensorType, repeats: int) -> tuple[torch.Tensor, int]:
    """A constant in the planes of `type_`, its columns `repeats` times; and floats between planes.

    Its columns are those of one sample, so a chunk of several samples reads them once for each.
    """
    layout = type_.layout
    if layout is None:
        raise CodegenError("a constant without a layout has no planes")
    moved = value.detach().to(torch.float32).permute(layout.order)
    rows = _product(moved.shape[: layout.planes])
    once = moved.numel() // max(rows, 1)
    columns = once * repeats
    ld = lines(max(columns, 1))
    memory = aligned_bytes(max(rows, 1) * ld * 4).view(torch.float32).view(max(rows, 1), ld)
    memory[:, columns:] = 0
    parts = memory[:rows, :columns].view(
        *moved.shape[: layout.planes], repeats, *moved.shape[layout.planes :]
    )
    parts.copy_(moved.unsqueeze(layout.planes))
    return memory, ld


def additive_mask(value: torch.Tensor) -> torch.Tensor:
    """A constant attention mask, up to [n, H, Sq, Sk], as the kernel reads it.

    Keys outside and queries in whole cache lines; or, for a mask without queries, rows of keys.
    """
    mask = value.detach()
    mask = mask.reshape((1,) * (4 - mask.dim()) + tuple(mask.shape))
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, device="cpu").masked_fill_(~mask, float("-inf"))
    mask = mask.to(torch.float32)
    if mask.shape[2] != 1:
        mask = mask.transpose(2, 3)
    sizes = [*mask.shape[:3], lines(mask.shape[3])]
    memory = aligned_bytes(_product(sizes) * 4).view(torch.float32).view(sizes)
    memory.zero_()
    memory[..., : mask.shape[3]] = mask
    return memory


def _product(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
