"""Weights in the form in which kernels read them: packed blobs, planes of constants, masks."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch

from ..codegen.cpu.build import Toolchain, build, load_library, support_source
from ..codegen.plan import lines
from ..errors import CodegenError
from ..formats.bands import bands_of
from ..formats.base import FORMATS, VALUE_TYPES
from ..ir.types import TensorType

ALIGN = 64
IN_PLACE = 1 << 16
"""Bytes from which a constant may be read where it lies."""

Place = Callable[[int], torch.Tensor]
"""Gives memory of so many bytes."""

PACKED = ("packed", "winograd")
"""Kinds of constants that are stored in a format."""

_KERNEL_POINTS = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
"""G of Winograd's F(2, 3), arXiv:1509.09308 section 4.1; exact in fp32."""

_WIDE = 4  # vectors of columns that make up for it in a linear
_DOUBLES = 32  # rows of a weight held in double precision
_COUNTED = 1 << 18  # numbers looked at together
_PAGE = 4096  # bytes after which lines share a set of the first cache


def aligned_bytes(size: int) -> torch.Tensor:
    """`size` uninitialised bytes that start at a cache line."""
    memory = torch.empty(size + ALIGN, dtype=torch.uint8, device="cpu")
    skip = -memory.data_ptr() % ALIGN
    return memory[skip : skip + size]


def nonzeros(value: torch.Tensor) -> int:
    """How many elements are not zero, a part that fits the cache at a time.

    By numpy, on one core: torch.count_nonzero is 20 times slower, and waits for busy cores.
    """
    flat = value.detach().reshape(-1)
    if flat.dtype in (torch.bfloat16, torch.bool):  # of which numpy knows one only
        return int(torch.count_nonzero(flat))
    numbers = flat.numpy()
    parts = range(0, len(numbers), _COUNTED)
    return sum(int(np.count_nonzero(numbers[i : i + _COUNTED] != 0)) for i in parts)


class Matrix(ctypes.Structure):
    """As in pack.h: an fp32 weight of rows ldw floats apart."""

    _fields_: ClassVar = [
        ("w", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("M", "K", "ldw", "groups")),
    ]


class Tiles(ctypes.Structure):
    """As in pack.h: how a weight is packed."""

    _fields_: ClassVar = [
        (name, ctypes.c_int32)
        for name in ("k_tile", "panel_vectors", "row_block", "p", "q", "values")
    ]


class Layer(ctypes.Structure):
    """As in pack.h: what tiles are chosen for."""

    _fields_: ClassVar = [
        *((name, ctypes.c_int64) for name in ("M", "K", "nnz", "n", "taps")),
        ("width", ctypes.c_int32),
        ("banded", ctypes.c_int32),
    ]


def as_multiplied(kind: str, weight: torch.Tensor) -> torch.Tensor:
    """The matrix that a kernel multiplies by: for "winograd", [16 * M, C] of kernels [M, C, 3, 3].

    Sixteen matrices one below the other, G g G' of each kernel, rounded once.
    """
    if kind != "winograd":
        return weight
    points = _KERNEL_POINTS.double()
    rows, columns = weight.shape[:2]
    products = torch.empty(4, 4, rows, columns, device="cpu")
    for first in range(0, rows, _DOUBLES):  # in parts: the doubles of a layer take 50 MB and more
        part = slice(first, first + _DOUBLES)
        exact = points @ weight[part].detach().double() @ points.T
        products[:, :, part] = exact.permute(2, 3, 0, 1)
    return products.view(-1, columns)


class Packer:
    """The packing functions of one toolchain, found by the family of a format."""

    def __init__(self, toolchain: Toolchain) -> None:
        self.width, self.toolchain = toolchain.width, toolchain
        self.library = load_library(build(support_source(), toolchain))

    def pack(
        self,
        format_: str,
        weight: torch.Tensor,
        columns: int,
        groups: int = 1,
        taps: int = 0,
        place: Place = aligned_bytes,
        image: tuple[int, ...] = (),
    ) -> torch.Tensor:
        """The blob of an fp32 [M, K, ...] weight, as uint8, tiled for that many columns.

        groups, taps, image: of a convolution, `Conv.plain_image`; taps 0 for a linear. place: gives
        the memory for it. Raises `CodegenError` where the packer refuses the weight.
        """
        plain = weight.detach().contiguous().reshape(weight.shape[0], -1)
        family = FORMATS[format_].family
        matrix = Matrix(plain.data_ptr(), *plain.shape, plain.shape[1], groups)
        tiles = self.tiles(format_, plain, columns, groups, taps, image)
        size_of = self.library[f"sc_{family}_bytes"]
        size_of.restype = ctypes.c_int64
        size = size_of(ctypes.byref(matrix), ctypes.byref(tiles))
        blob = place(size)
        pack = self.library[f"sc_{family}_pack"]
        out = ctypes.c_void_p(blob.data_ptr())
        if size == 0 or not pack(ctypes.byref(matrix), ctypes.byref(tiles), out):
            raise CodegenError(f"the {format_} packer refuses a weight of {tuple(weight.shape)}")
        return blob

    def tiles(
        self,
        format_: str,
        matrix: torch.Tensor,
        columns: int,
        groups: int = 1,
        taps: int = 0,
        image: tuple[int, ...] = (),
    ) -> Tiles:
        """How `pack` would pack [M, K] numbers of a linear (taps 0) or a convolution."""
        rows, width = matrix.shape
        nnz = nonzeros(matrix) // groups
        banded = bands_of(rows, image, self.width, groups) is not None
        layer = Layer(rows // groups, width, nnz, columns, taps, self.width, banded)
        stored = FORMATS[format_]
        tiles = Tiles(0, 0, 0, *stored.parameters, VALUE_TYPES.index(stored.values))
        self.library[f"sc_{stored.family}_tiles"](ctypes.byref(layer), ctypes.byref(tiles))
        return tiles

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
        layer, chosen = Layer(sum(rows), columns, 0, 0, 0, self.width), Tiles()
        self.library.sc_dense_tiles(ctypes.byref(layer), ctypes.byref(chosen))
        tiles = [chosen.k_tile, chosen.panel_vectors, chosen.row_block]
        pieces, k = ctypes.c_int64(count), ctypes.c_int64(columns)
        size_of = self.library.sc_rows_packed_bytes
        size_of.restype = ctypes.c_int64
        blob = place(size_of(rows, pieces, k, tiles[2]))
        out = ctypes.c_void_p(blob.data_ptr())
        if not self.library.sc_rows_pack(pointers, rows, pieces, k, *tiles, out):
            raise CodegenError(f"the packer refuses a weight of {sum(rows)} x {columns}")
        return blob


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
