"""Weights for few columns of activations: packed row by row, for kernels along the weight.

One column uses each number once, so what counts is the bytes: a bitmap of the non-zeros, an index
for each, or all numbers, whichever is predicted to stream fastest at this density.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache

import torch

from ..codegen.cpu.build import Toolchain, build, kernel_folder, load_library
from ..errors import CodegenError
from ..formats.base import FORMATS, VALUE_TYPES
from .packing import nonzeros

FEW = 8
"""Columns up to which these kernels run (`kFewColumns` in decode_blob.h)."""

_KINDS = {"dense": 0, "bitmap": 1, "csr": 2}
_MOST_INDEXED = 1 << 16  # columns of a weight that 16 bits can tell apart
_LINE = 64  # numbers to which rows are padded


class DecodePacker:
    """The packing functions and kernels of one toolchain, in a library of their own."""

    def __init__(self, toolchain: Toolchain) -> None:
        source = (kernel_folder() / "pack_decode.cpp").read_text()
        self.library = load_library(build(source, toolchain))
        for name in ("sc_decode_bytes", "sc_decode_refer_bytes"):
            self.library[name].restype = ctypes.c_int64

    def plan(self, format_: str, weight: torch.Tensor, *, exact: bool) -> tuple[int, int, int]:
        """(kind of rows, values, bytes) for an fp32 [M, K] weight in a storage format.

        exact: the format was chosen for few columns, so its rows are meant; else, and for halves,
        which shift the balance between bits and indices, the best are.
        Values that the format's precision cannot hold are stored as fp32.
        """
        chosen = FORMATS[format_]
        values = VALUE_TYPES.index(chosen.values)
        matrix = _matrix(weight)
        rows, columns = matrix.shape
        meant = exact and (not values or chosen.family == "dense")
        kind = _KINDS.get(chosen.family) if meant else None
        if kind == _KINDS["csr"] and columns > _MOST_INDEXED:
            kind = None
        if kind is None:
            counts = rows, columns, nonzeros(matrix)
            sizes = tuple(map(ctypes.c_int64, counts))
            kind = int(self.library.sc_decode_kind(*sizes, values))
        for stored in (values, 0):
            size = int(self.library.sc_decode_bytes(*_args(matrix), kind, stored))
            if size:
                return kind, stored, size
        raise CodegenError(f"the decode packer refuses a weight of {tuple(weight.shape)}")

    def pack(self, weight: torch.Tensor, kind: int, values: int, blob: torch.Tensor) -> None:
        """Fills `blob`, of as many bytes as `plan` says."""
        out = ctypes.c_void_p(blob.data_ptr())
        matrix = _matrix(weight)  # held until it is read: a copy, where the weight is transposed
        if not self.library.sc_decode_pack(*_args(matrix), kind, values, out):
            raise CodegenError(f"the decode packer refuses a weight of {tuple(weight.shape)}")

    def refers_to(self, format_: str, parts: list[torch.Tensor] | None) -> bool:
        """True where a dense weight can be read where it lies, so that it is not held twice."""
        if format_ != "dense" or parts is None or len(parts) != 1:
            return False
        weight = parts[0]
        plain = weight.dtype == torch.float32 and weight.dim() == 2 and weight.is_contiguous()
        return plain and weight.shape[1] % _LINE == 0 and weight.numel() > 0

    def refer_bytes(self, weight: torch.Tensor) -> int:
        """Size of the blob that refers to a weight."""
        return int(self.library.sc_decode_refer_bytes(ctypes.c_int64(weight.shape[0])))

    def refer(self, weight: torch.Tensor, blob: torch.Tensor) -> None:
        """Fills `blob` with a header that reads `weight`, which must outlive it."""
        pointer, rows, columns, _ = _args(weight)
        self.library.sc_decode_refer(pointer, rows, columns, ctypes.c_void_p(blob.data_ptr()))


def _matrix(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().to(torch.float32).contiguous().reshape(weight.shape[0], -1)


def _args(
    matrix: torch.Tensor,
) -> tuple[ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64]:
    rows, columns = (ctypes.c_int64(size) for size in matrix.shape)
    return ctypes.c_void_p(matrix.data_ptr()), rows, columns, columns


@lru_cache(maxsize=8)
def decode_packer_for(toolchain: Toolchain) -> DecodePacker:
    """The packer, compiled once per toolchain and only where a layer has few columns."""
    return DecodePacker(toolchain)
