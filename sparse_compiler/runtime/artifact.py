"""The file of a saved model: a zip of known members, each with its hash, mapped and never trusted.

Members are stored uncompressed, so that weights can be used where they lie in the file and nothing
expands while it is read. A file is written beside its target and renamed: a crash leaves the old.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import ArtifactError
from ..files import replacing

FORMAT = 1
"""Version of the file format; a newer file is refused."""
MANIFEST, GRAPH, WEIGHTS, REPORT = "manifest.json", "model.ir", "weights.safetensors", "report.json"
REQUIRED = (MANIFEST, GRAPH, WEIGHTS, REPORT)
PROGRAM = "program.txt"
SOURCES = "sources/"
"""Folder of the generated sources: for reading, never compiled."""
BINARIES = "binaries/"
"""Folder of kernels compiled for a GPU: code, used only where `prebuilt=True` asks for it."""

_ALIGN = 64
_LOCAL = struct.Struct("<4s5H3I2H")  # the header before a member's bytes
_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal models give equal files
_MANIFEST_BYTES = 64 << 20
_PADDING_ID = 0x5343  # of the extra field that aligns a member


@dataclass(frozen=True)
class Members:
    """An opened file: the manifest, and the bytes of each other member, mapped privately."""

    path: Path
    manifest: Mapping[str, Any]
    bytes: Mapping[str, memoryview]

    def text(self, name: str) -> str:
        """A member as text."""
        try:
            return str(self.bytes[name], "utf-8")
        except UnicodeDecodeError as error:
            raise refused(self.path, name, "it is not UTF-8") from error


def refused(path: Path, member: str, why: str, fix: str = "") -> ArtifactError:
    """The error of a member that cannot be used."""
    fix = fix or "export the model again"
    return ArtifactError(f"cannot load {path.name}: {member}", why=why, fix=fix)


def write_members(path: Path, manifest: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
    """Writes the file at once or not at all. Raises `ArtifactError` where it cannot be written."""
    sums = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in sorted(members.items())
    }
    described = {"format": FORMAT, **manifest, "members": sums}
    text = json.dumps(described, indent=1, sort_keys=True).encode()
    try:
        with replacing(path) as beside, beside.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, data in ((MANIFEST, text), *sorted(members.items())):
                    archive.writestr(_aligned(file.tell(), name), data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ArtifactError(
            f"cannot write {path}",
            why=str(error.strerror or error),
            fix="make room or give another path; a file that was there before is untouched",
        ) from error


def memory_bytes() -> int:
    """Physical memory of this machine: what a file may ask for at most."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _aligned(offset: int, name: str) -> zipfile.ZipInfo:
    """A member whose bytes begin at a cache line: an extra field takes up the space before."""
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = 0o644 << 16
    begin = offset + _LOCAL.size + len(name.encode()) + 4
    pad = -begin % _ALIGN
    info.extra = struct.pack("<2H", _PADDING_ID, pad) + bytes(pad)
    return info


def open_members(path: Path) -> Members:
    """Maps a file and checks its members against the manifest. Raises `ArtifactError`."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise refused(path, "the file", "it is empty")
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
            found = _directory(path, file, mapped)
    except OSError as error:
        raise ArtifactError(
            f"cannot read {path}", why=str(error.strerror or error), fix="give the path of a file"
        ) from error
    missing = [name for name in REQUIRED if name not in found]
    if missing:
        raise refused(path, missing[0], "the member is missing")
    manifest = _manifest(path, found.pop(MANIFEST))
    _check_sums(path, manifest, found)
    return Members(path, manifest, found)


def _directory(path: Path, file: BinaryIO, mapped: memoryview) -> dict[str, memoryview]:
    """The bytes of each member. Nothing of the file is believed but what its place confirms."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos, end = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise refused(path, "the file", f"it is no whole zip: {error}") from error
    found: dict[str, memoryview] = {}
    free = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        name = info.orig_filename
        if name in found:
            raise refused(path, repr(name), "the member is there twice")
        if not _is_known(name):
            raise refused(path, repr(name), "a saved model has no such member")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & ~0x800:
            raise refused(path, name, "it is compressed or encrypted, which we never write")
        begin = _data_offset(path, info, mapped, free)
        free = begin + info.file_size
        if info.compress_size != info.file_size or free > end:
            raise refused(path, name, "it reaches beyond its place in the file")
        found[name] = mapped[begin:free]
    return found


def _is_known(name: str) -> bool:
    folder = next((f for f in (SOURCES, BINARIES) if name.startswith(f)), "")
    stem = name.removeprefix(folder)
    plain = stem.replace(".", "").replace("_", "").isalnum() and stem.isascii()
    return name in REQUIRED or name == PROGRAM or (bool(folder) and plain)


def _data_offset(path: Path, info: zipfile.ZipInfo, mapped: memoryview, free: int) -> int:
    """Where a member's bytes begin, by the header before them, which must agree."""
    at, name = info.header_offset, info.orig_filename.encode()
    if at < free or at + _LOCAL.size + len(name) > len(mapped):
        raise refused(path, info.orig_filename, "it lies over another member or outside the file")
    signature, *_, name_length, extra_length = _LOCAL.unpack_from(mapped, at)
    own = bytes(mapped[at + _LOCAL.size : at + _LOCAL.size + name_length])
    if signature != b"PK\x03\x04" or own != name:
        raise refused(path, info.orig_filename, "its two headers disagree")
    return int(at + _LOCAL.size + name_length + extra_length)


def _manifest(path: Path, data: memoryview) -> Mapping[str, Any]:
    if len(data) > _MANIFEST_BYTES:
        raise refused(path, MANIFEST, f"it has {len(data)} bytes")
    try:
        manifest = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise refused(path, MANIFEST, f"it is no JSON: {error}") from error
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if type(version) is not int or version < 1:
        raise refused(path, MANIFEST, "it states no version of the format")
    if version > FORMAT:
        raise refused(
            path,
            MANIFEST,
            f"the file has format {version}, this version reads up to {FORMAT}",
            "use a newer sparse_compiler, or export the model with this one",
        )
    return dict(manifest)


def _check_sums(path: Path, manifest: Mapping[str, Any], found: Mapping[str, memoryview]) -> None:
    sums = manifest.get("members")
    if not isinstance(sums, dict) or set(sums) != set(found):
        raise refused(path, MANIFEST, "it lists other members than the file has")
    for name, data in found.items():
        stated = sums[name].get("sha256") if isinstance(sums[name], dict) else None
        if hashlib.sha256(data).hexdigest() != stated:
            raise refused(path, name, "its bytes are not those that were written")
