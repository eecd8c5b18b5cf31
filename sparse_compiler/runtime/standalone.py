"""The weights of a standalone library: packed here for the target, written as one file.

The file holds what kernels read, so its size follows the non-zeros; equal constants are held once.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..codegen.cpu.build import Toolchain
from ..codegen.cpu.standalone.tables import Constant, bounds
from ..codegen.program import Program, Segment, WeightEntry
from ..errors import ArtifactError, UnsupportedError
from ..ir.graph import Range
from .decode import FEW
from .native import expected_columns
from .packing import ALIGN, PACKED, additive_mask, packer_for
from .stream import HeldWeights, hold_weights, weight_for
from .weights import WeightTimeValues

_HEADER = struct.Struct("<8s2I2Q28sI")  # FileHeader in weights.h
_VERSION = 1
_DECODE = 64  # as kDecode in decode_blob.h, where a packed weight has its format
_RUN = slice(80, 112)  # of a DecodeHeader: addresses of kernels, entered by who maps the file


@dataclass
class Blobs:
    """The blobs of a file, each content once."""

    parts: list[bytes] = field(default_factory=list)
    _known: dict[bytes, int] = field(default_factory=dict)

    def add(self, data: bytes) -> int:
        """The number of a blob."""
        key = hashlib.sha256(data).digest()
        if key not in self._known:
            self._known[key] = len(self.parts)
            self.parts.append(data)
        return self._known[key]


def store_constants(
    program: Program, values: WeightTimeValues, hints: Mapping[str, int], packers: Toolchain
) -> tuple[tuple[tuple[Constant, ...], ...], Blobs]:
    """Packs the constants of all segments; gives where each lies, and the blobs.

    values: not read in place, since the file must hold what it refers to.
    Raises `UnsupportedError` on a constant that depends on sizes.
    """
    blobs, found = Blobs(), []
    packer = packer_for(packers)
    for segment in program.segments:
        columns = expected_columns(segment, hints)
        held = hold_weights(segment, values, columns, packer, hints)
        constants = []
        for i, entry in enumerate(segment.weights):
            if entry.kind in PACKED:
                ways = _ways(segment, i, program.symbols)
                wide = max(FEW + 1, columns.get(i, 1))
                many, few = (
                    blobs.add(_packed(weight_for(held, segment, i, n, packer).value)) if way else -1
                    for way, n in zip(ways, (wide, 1), strict=True)
                )
                constants.append(Constant(many, few))
            elif i in held.held:
                constants.append(Constant(blobs.add(bytes_of(held.held[i].value))))
            else:
                constants.append(_late(entry, held, blobs))
        found.append(tuple(constants))
    return tuple(found), blobs


def _ways(segment: Segment, index: int, ranges: Mapping[str, Range]) -> tuple[bool, bool]:
    """Whether a packed weight is needed for many columns, and for few."""
    if segment.weights[index].taps or segment.weights[index].kind != "packed":
        return True, False
    spaces = [c.space for c in segment.calls if c.weight == index and c.space is not None]
    least, most = 1, 1
    for space in spaces:
        low, high = bounds(segment.spaces[space].columns, ranges)
        samples = bounds(segment.samples, ranges)[1]
        least = max(least, low)
        most = FEW + 1 if high is None or samples is None else max(most, high * samples)
    return most > FEW, least <= FEW


def _late(entry: WeightEntry, held: HeldWeights, blobs: Blobs) -> Constant:
    """A constant that the library lays out when sizes are set, or a mask."""
    value = held.values.get(entry.name)
    if value is None:
        raise UnsupportedError(
            f"%{entry.name} depends on the sizes of inputs",
            why="the library cannot compute such constants",
            fix="export with fixed sizes",
        )
    if entry.kind == "mask":
        return Constant(blobs.add(bytes_of(additive_mask(value))))
    if entry.kind != "planes" or entry.type.layout is None:
        return Constant(blobs.add(bytes_of(value)))
    value = value.detach().to(torch.float32)
    value = value.reshape((1,) * (entry.type.rank - value.dim()) + tuple(value.shape)).contiguous()
    strides = tuple(0 if n == 1 else s for n, s in zip(value.shape, value.stride(), strict=True))
    return Constant(
        blobs.add(bytes_of(value)), -1, tuple(strides[d] for d in entry.type.layout.order)
    )


def bytes_of(value: torch.Tensor) -> bytes:
    """A tensor's elements, row-major."""
    flat = value.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _packed(blob: torch.Tensor) -> bytes:
    """A packed weight, without addresses of this process."""
    data = bytearray(bytes_of(blob))
    if struct.unpack_from("<3I", data)[2] == _DECODE:
        data[_RUN] = bytes(_RUN.stop - _RUN.start)
    return bytes(data)


def write_weights(path: Path, blobs: Blobs, target: str, identity: int) -> None:
    """Writes the file that `weights.h` reads. Raises `OSError`."""
    at = -(-(_HEADER.size + 16 * len(blobs.parts)) // ALIGN) * ALIGN
    table, body = b"", bytearray(at - _HEADER.size - 16 * len(blobs.parts))
    for part in blobs.parts:
        table += struct.pack("<2q", at, len(part))
        padded = -(-len(part) // ALIGN) * ALIGN
        body += part + bytes(padded - len(part))
        at += padded
    name = target.encode().ljust(28, b"\0")
    fields = (b"SCWEIGHT", _VERSION, len(blobs.parts), at, identity, name)
    head = _HEADER.pack(*fields, 0)[:-4]
    crc = zlib.crc32(body, zlib.crc32(table, zlib.crc32(head)))
    with path.open("wb") as file:
        file.write(head + struct.pack("<I", crc) + table)
        file.write(body)
        file.flush()
        os.fsync(file.fileno())


@dataclass
class Replacing:
    """Files that replace those of a folder when all of them are written: none is left half done."""

    folder: Path
    names: tuple[str, ...]

    def __enter__(self) -> dict[str, Path]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._beside = tempfile.TemporaryDirectory(dir=self.folder, prefix=".export-")
        except OSError as error:
            raise self._failed(error) from error
        return {name: Path(self._beside.name) / name for name in self.names}

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                for name in self.names:
                    (Path(self._beside.name) / name).replace(self.folder / name)
            elif isinstance(error, OSError):
                raise self._failed(error) from error
        except OSError as late:
            raise self._failed(late) from late
        finally:
            with suppress(OSError):
                self._beside.cleanup()

    def _failed(self, error: OSError) -> ArtifactError:
        return ArtifactError(
            f"cannot write a library into {self.folder}",
            why=str(error.strerror or error),
            fix="make room or give another folder; files that were there are untouched",
        )
