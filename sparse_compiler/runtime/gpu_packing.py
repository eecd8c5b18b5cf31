"""Weights as the kernels of `codegen/gpu/weights.py` read them: a few arrays on the device.

starts: int32 [bands + 1], where each band of rows begins; index: int32, the block column of each
block (csr: 1 x 1 blocks); number: the blocks, row-major, in the dtype of the products. order: rows
of csr, the longest first, so that those of one program are of about the same length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ..codegen.gpu import semi_structured
from ..errors import UnsupportedError
from ..formats.gpu_arch import DEFAULT, Arch
from ..formats.gpu_kernels import CHUNK, Stored

INT32 = 2**31 - 1


@dataclass(frozen=True)
class OnDevice:
    """arrays: by name; sizes: numbers that kernels take beside them; bytes of all arrays; matrix:
    of a weight that torch multiplies by."""

    arrays: Mapping[str, torch.Tensor]
    sizes: Mapping[str, int] = field(default_factory=dict)
    density: float = 1.0
    matrix: torch.Tensor | None = None

    @property
    def bytes(self) -> int:
        """Memory of the arrays."""
        return sum(a.numel() * a.element_size() for a in self.arrays.values())


def pack(
    weight: torch.Tensor,
    stored: Stored,
    dtype: torch.dtype,
    device: torch.device,
    arch: Arch = DEFAULT,
) -> OnDevice:
    """A weight [M, K, ...] in that form, its numbers of `dtype`; arch: whose 2:4 layout it gets.

    Raises `UnsupportedError` where an index would not fit 32 bits.
    """
    matrix = weight.detach().reshape(weight.shape[0], -1).to("cpu", torch.float32)
    density = float((matrix != 0).sum()) / max(1, matrix.numel())
    if matrix.numel() > INT32:
        raise UnsupportedError(
            f"a weight of {tuple(weight.shape)} is too large for the GPU's kernels",
            why=f"they count its numbers with 32 bits, up to {INT32}",
            fix="split the layer",
        )
    if stored.kind == "semi_structured":
        return _semi_structured(matrix.to(dtype), density, device, arch)
    made = _PACKERS[stored.kind](matrix, stored)
    arrays = {
        name: (array.to(dtype) if name == "number" else array).contiguous().to(device)
        for name, array in made.arrays.items()
    }
    return OnDevice(arrays, made.sizes, density)


def settled(value: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on the device, contiguous, its place a multiple of 16 bytes as everything that a GPU
    allocates: kernels are compiled for that, also where none is."""
    moved = value.detach().contiguous().to(device)
    return moved.clone() if moved.data_ptr() % 16 else moved


def _semi_structured(
    matrix: torch.Tensor, density: float, device: torch.device, arch: Arch
) -> OnDevice:
    """As torch's sparse tensor-core kernels read it; dense where there is no GPU to run them."""
    packed = semi_structured.pack(matrix, arch)
    if device.type == "cpu":
        return OnDevice({"number": packed.values}, {}, density, packed.to_dense())
    found = packed.on(device)
    return OnDevice(semi_structured.arrays_of(found), {}, density, found)


def _dense(matrix: torch.Tensor, stored: Stored) -> OnDevice:
    padded = _padded(matrix, stored.high, stored.deep)
    return OnDevice({"number": padded}, {"columns": padded.shape[1]})


def _rows(matrix: torch.Tensor, _: Stored) -> OnDevice:
    return OnDevice({"number": matrix}, {"columns": matrix.shape[1]})


def _blocks(matrix: torch.Tensor, stored: Stored) -> OnDevice:
    high, deep = stored.high, stored.deep
    padded = _padded(matrix, high, deep)
    blocks = padded.reshape(padded.shape[0] // high, high, -1, deep).transpose(1, 2)
    kept = (blocks != 0).flatten(2).any(2)
    number, index = blocks[kept], kept.nonzero()[:, 1]
    return OnDevice(
        {"starts": _starts(kept.sum(1)), "index": _int32(index), "number": _any(number)}
    )


def _csr(matrix: torch.Tensor, _: Stored) -> OnDevice:
    kept = matrix != 0
    counts = kept.sum(1)
    arrays = {
        "order": counts.argsort(descending=True, stable=True).to(torch.int32),
        "starts": _starts(counts),
        "index": _int32(kept.nonzero()[:, 1]),
        "number": _any(matrix[kept]),
    }
    return OnDevice(arrays)


def _nm(matrix: torch.Tensor, stored: Stored) -> OnDevice:
    kept, of = stored.high, stored.deep
    padded = _padded(matrix, 1, of)
    runs = padded.reshape(padded.shape[0], -1, of)
    order = (runs == 0).to(torch.int8).argsort(dim=2, stable=True)[:, :, :kept]
    place = order.sort(dim=2).values
    arrays = {"place": place.to(torch.int8), "number": runs.gather(2, place)}
    return OnDevice(arrays, {"runs": runs.shape[1]})


def _bitmap(matrix: torch.Tensor, _: Stored) -> OnDevice:
    padded = _padded(matrix, 1, CHUNK)
    kept = padded != 0
    powers = 2 ** torch.arange(32, dtype=torch.int64)
    words = (kept.reshape(padded.shape[0], -1, 32) * powers).sum(2)
    chunks = kept.reshape(padded.shape[0], -1, CHUNK).sum(2)
    arrays = {
        "starts": _starts(chunks.flatten()),
        "bits": _int32(words),
        "number": _any(padded[kept]),
    }
    return OnDevice(arrays, {"words": words.shape[1], "chunks": chunks.shape[1]})


def _padded(matrix: torch.Tensor, high: int, deep: int) -> torch.Tensor:
    rows, columns = matrix.shape
    return torch.nn.functional.pad(matrix, (0, -columns % deep, 0, -rows % high))


def _starts(counts: torch.Tensor) -> torch.Tensor:
    return _int32(torch.cat([counts.new_zeros(1), counts.cumsum(0)]))


def _int32(values: torch.Tensor) -> torch.Tensor:
    """Their low 32 bits; at least one, since a kernel takes no empty array."""
    return _any(values).to(torch.int32)


def _any(values: torch.Tensor) -> torch.Tensor:
    return values if values.numel() else values.new_zeros((1, *values.shape[1:]))


_PACKERS = {
    "dense": _dense,
    "rows": _rows,
    "csr": _csr,
    "blocks": _blocks,
    "nm": _nm,
    "bitmap": _bitmap,
}
