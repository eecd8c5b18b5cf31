"""Weights in the form in which kernels read them: packed blobs, planes of constants, masks."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch

from ..codegen.cpu.build import Toolchain, build, load_library, support_source
from ..errors import CodegenError
from ..ir.types import TensorType

ALIGN = 64
LINE = 16
"""Floats of a cache line."""
_IN_PLACE = 1 << 16  # bytes from which a constant read element by element is not copied


def lines(floats: int) -> int:
    """Floats of whole cache lines."""
    return -(-floats // LINE) * LINE


def aligned_bytes(size: int) -> torch.Tensor:
    """`size` uninitialised bytes that start at a cache line."""
    memory = torch.empty(size + ALIGN, dtype=torch.uint8)
    skip = -memory.data_ptr() % ALIGN
    return memory[skip : skip + size]


class WeightStream:
    """Weights one after another in memory reserved for them; pages never written to cost nothing.

    room: bytes that will do; what does not fit gets memory of its own.
    """

    def __init__(self, room: int) -> None:
        self._free = aligned_bytes(room)
        self.pieces = [self._free]
        self.used = 0

    def place(self, size: int) -> torch.Tensor:
        """The next `size` bytes, uninitialised, from a cache line on."""
        whole = -(-size // ALIGN) * ALIGN
        self.used += whole
        if whole > self._free.numel():
            self.pieces.append(aligned_bytes(whole))
            return self.pieces[-1][:size]
        found, self._free = self._free[:size], self._free[whole:]
        return found


def room_for(shape: Sequence[int], groups: int) -> int:
    """Bytes that no format needs more of, for an [M, K, ...] weight."""
    columns = _product(shape[1:])
    return (_product(shape) + 16 * groups * columns + 64 * shape[0]) * 8 + groups * 4096


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
        place: Callable[[int], torch.Tensor] = aligned_bytes,
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


def raw_elements(value: torch.Tensor, place: Callable[[int], torch.Tensor]) -> torch.Tensor:
    """A tensor's elements, row-major: where they lie if they are many, else copied to `place`."""
    value = value.detach()
    size = value.numel() * value.element_size()
    if size >= _IN_PLACE and value.is_contiguous():
        return value
    copy = place(size).view(value.dtype).view(value.shape)
    return copy.copy_(value)


def in_planes(value: torch.Tensor, type_: TensorType, repeats: int) -> tuple[torch.Tensor, int]:
    """A constant in the planes of `type_`, its columns `repeats` times; and floats between planes.

    Its columns are those of one sample, so a chunk of several samples reads them once for each.
    """
    layout = type_.layout
    if layout is None:
        raise CodegenError("a constant without a layout has no planes")
    moved = value.detach().to(torch.float32).permute(layout.order)
    rows = _product(moved.shape[: layout.planes])
    plane = moved.reshape(rows, -1)
    columns = plane.shape[1] * repeats
    ld = lines(max(columns, 1))
    memory = aligned_bytes(max(rows, 1) * ld * 4).view(torch.float32).view(max(rows, 1), ld)
    memory.zero_()
    memory[:rows, :columns] = plane.repeat(1, repeats)
    return memory, ld


def additive_mask(value: torch.Tensor) -> torch.Tensor:
    """A constant attention mask, up to [n, H, Sq, Sk], as the kernel reads it.

    Keys outside and queries in whole cache lines; or, for a mask without queries, rows of keys.
    """
    mask = value.detach()
    mask = mask.reshape((1,) * (4 - mask.dim()) + tuple(mask.shape))
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape).masked_fill_(~mask, float("-inf"))
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
