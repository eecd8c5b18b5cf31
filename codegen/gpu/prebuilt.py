"""Kernels compiled for a GPU that is not at hand, carried in a saved model, used where it is.

A binary goes by triton's own key: the hash of the kernel's source and types, the architecture and
triton's version. So one that does not fit what the model asks for is never found, and triton
compiles the kernel from the source that was generated here. A binary is code of whoever made the
file: it is used in this process alone, in which `sc.load(..., prebuilt=True)` asked for it.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparse_compiler.codegen.gpu.static import Kernel, build, require_triton
from sparse_compiler.errors import ArtifactError
from sparse_compiler.formats.gpu_arch import Arch

_HEX = frozenset("0123456789abcdef")
_NOTES = ".json"


@dataclass(frozen=True)
class Prebuilt:
    """key: triton's. name: of the kernel. notes: triton's metadata as JSON. binary: cubin or
    hsaco, as `kind` says."""

    key: str
    name: str
    kind: str
    notes: bytes
    binary: bytes


def prebuild(kernel: Kernel, arch: Arch) -> Prebuilt:
    """Compiles a kernel off-line. Raises as `static.compile_kernel`."""
    built = build(kernel, arch)
    kind = "cubin" if arch.backend == "cuda" else "hsaco"
    notes = next(Path(p) for name, p in built.metadata_group.items() if name.endswith(_NOTES))
    return Prebuilt(built.hash, built.name, kind, notes.read_bytes(), built.asm[kind])


def members(found: Iterable[Prebuilt]) -> dict[str, bytes]:
    """The members of a saved model, by name without their folder."""
    named: dict[str, bytes] = {}
    for one in found:
        named[f"{one.key}.{one.name}.{one.kind}"] = one.binary
        named[f"{one.key}.{one.name}{_NOTES}"] = one.notes
    return named


def read_members(stored: Mapping[str, bytes]) -> tuple[Prebuilt, ...]:
    """The kernels of such members. Raises `ArtifactError` for what we do not write."""
    found = []
    for member, binary in sorted(stored.items()):
        if member.endswith(_NOTES):
            continue
        key, _, rest = member.partition(".")
        name, _, kind = rest.rpartition(".")
        notes = stored.get(f"{key}.{name}{_NOTES}")
        if len(key) != 64 or set(key) - _HEX or kind not in ("cubin", "hsaco") or notes is None:
            raise ArtifactError(f"the kernel {member} has no key, no notes or is of no kind")
        _check(member, notes, key)
        found.append(Prebuilt(key, name, kind, bytes(notes), bytes(binary)))
    return tuple(found)


def _check(member: str, notes: bytes, key: str) -> None:
    try:
        told = json.loads(bytes(notes))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"the notes of {member} are no JSON: {error}") from error
    if not isinstance(told, dict) or told.get("hash") != key:
        raise ArtifactError(f"the notes of {member} are those of another kernel")


def use(found: Iterable[Prebuilt]) -> None:
    """Lets triton find these kernels, in this process and for as long as it lives."""
    require_triton()
    from triton import knobs
    from triton.runtime.cache import FileCacheManager

    folder = tempfile.TemporaryDirectory(prefix="sparse-compiler-prebuilt-")
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for one in found:
        asked = base64.b32encode(bytes.fromhex(one.key)).decode().rstrip("=")  # as triton asks
        group = groups.setdefault((asked, f"{one.name}{_NOTES}"), {})
        for suffix, data in ((_NOTES, one.notes), (f".{one.kind}", one.binary)):
            path = Path(folder.name) / f"{one.key}.{one.name}{suffix}"
            path.write_bytes(data)
            group[f"{one.name}{suffix}"] = str(path)
    before = knobs.cache.manager_class or FileCacheManager

    class Manager(before):  # type: ignore[misc,valid-type]
        """triton's cache, asked after what was given."""

        kept = folder  # the files live as long as the class

        def __init__(self, key: str, **options: Any) -> None:
            super().__init__(key, **options)
            self.asked = key

        def get_group(self, filename: str) -> dict[str, str] | None:
            given = groups.get((self.asked, filename))
            if given is not None:
                return given
            stored: dict[str, str] | None = super().get_group(filename)
            return stored

    knobs.cache.manager_class = Manager
