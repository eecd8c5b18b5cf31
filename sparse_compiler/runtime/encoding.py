"""A tensor as bytes proportional to its non-zeros, and back, exactly; -0.0 comes back as 0.0.

Three ways, the smallest wins: `dense`; `bitmap`, one bit for each element and the non-zeros;
`deltas`, for each non-zero the zeros before it in 8 bits, 256 of them as a stored zero (Hoefler
et al. 2021, section 2.2: "padded delta"). Masks leave -0.0 behind, so it counts as a zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ..errors import ArtifactError

Array = npt.NDArray[np.generic]

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_FAR = 256  # positions that one delta reaches


@dataclass(frozen=True)
class Encoded:
    """kind: one of `DECODERS`; parts: its arrays by name, values as integers of their bits."""

    kind: str
    parts: Mapping[str, Array]

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts.values())


def encode(tensor: torch.Tensor) -> Encoded:
    """The smallest encoding of a strided tensor of any dtype of 1 to 8 bytes."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    live = (plain != 0).numpy()  # true for NaN
    bits = plain.view(_BITS[plain.dtype.itemsize]).numpy()
    places = np.flatnonzero(live)
    dense, width = bits.nbytes, bits.itemsize
    gaps = np.diff(places, prepend=-1) - 1
    padded = len(places) + int((gaps // _FAR).sum())
    sizes = {
        "dense": dense,
        "bitmap": -(-bits.size // 8) + len(places) * width,
        "deltas": padded * (1 + width),
    }
    kind = min(sizes, key=lambda name: (sizes[name], name != "dense"))
    if kind == "dense":
        return Encoded(kind, {"values": bits})
    if kind == "bitmap":
        mask = np.packbits(live, bitorder="little")
        return Encoded(kind, {"mask": mask, "values": bits[places]})
    ends = np.arange(len(places)) + np.cumsum(gaps // _FAR)
    deltas = np.full(padded, _FAR - 1, np.uint8)
    values = np.zeros(padded, bits.dtype)
    deltas[ends] = gaps % _FAR
    values[ends] = bits[places]
    return Encoded(kind, {"deltas": deltas, "values": values})


def decode(encoded: Encoded, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """The tensor that was encoded; a dense one is a view of its part.

    Raises `ArtifactError` where the parts do not make such a tensor.
    """
    if dtype.itemsize not in _BITS:
        raise ArtifactError(f"a tensor of {dtype} cannot be stored")
    read = DECODERS.get(encoded.kind)
    if read is None:
        raise ArtifactError(
            f"the encoding {encoded.kind!r} is unknown", fix=f"one of {', '.join(DECODERS)}"
        )
    bits_dtype = _BITS[dtype.itemsize]
    values = encoded.parts.get("values")
    if values is None or values.dtype != torch.empty(0, dtype=bits_dtype).numpy().dtype:
        raise ArtifactError(f"the values are not {dtype.itemsize} bytes wide, as {dtype} is")
    if any(part.ndim != 1 for part in encoded.parts.values()):
        raise ArtifactError("the parts of a tensor are not flat")
    flat = read(encoded.parts, values, math.prod(shape))
    return torch.from_numpy(flat).view(dtype).reshape(shape)


def _dense(parts: Mapping[str, Array], values: Array, size: int) -> Array:
    if len(values) != size:
        raise ArtifactError(f"{len(values)} values for {size} elements")
    return values


def _bitmap(parts: Mapping[str, Array], values: Array, size: int) -> Array:
    mask = parts.get("mask")
    if mask is None or mask.dtype != np.uint8 or len(mask) != -(-size // 8):
        raise ArtifactError(f"the mask is not one bit for each of {size} elements")
    bits = mask.view(np.uint8)
    used = np.unpackbits(bits, bitorder="little")
    if int(np.bitwise_count(bits).sum(dtype=np.int64)) != len(values) or used[size:].any():
        raise ArtifactError("the mask counts other non-zeros than are stored")
    flat = np.zeros(size, values.dtype)
    flat[used[:size].view(np.bool_)] = values
    return flat


def _deltas(parts: Mapping[str, Array], values: Array, size: int) -> Array:
    deltas = parts.get("deltas")
    if deltas is None or deltas.dtype != np.uint8 or len(deltas) != len(values):
        raise ArtifactError("there is not one delta for each value")
    places = np.cumsum(deltas, dtype=np.int64)
    places += np.arange(len(deltas))
    if len(places) and places[-1] >= size:
        raise ArtifactError(f"a delta points behind the last of {size} elements")
    flat = np.zeros(size, values.dtype)
    flat[places] = values
    return flat


DECODERS: Mapping[str, Callable[[Mapping[str, Array], Array, int], Array]] = {
    "dense": _dense,
    "bitmap": _bitmap,
    "deltas": _deltas,
}
