"""The parameters of a saved model: encoded by `encoding.py`, kept as one safetensors member.

The manifest says for each parameter its dtype, shape and encoding; the parts of its encoding are
the tensors `name#values`, `name#mask`, `name#deltas`. Dense ones stay mapped in the file.
trained: a parameter of the model rather than a buffer. tied_to: the parameter that it is too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from ..errors import ArtifactError
from ..ir.graph import Value
from ..ir.types import TensorType, dtype_name, torch_dtype
from .artifact import memory_bytes
from .encoding import Array, Encoded, decode, encode

_DTYPES = {"U8": np.uint8, "I16": np.int16, "I32": np.int32, "I64": np.int64}
_HEADER_BYTES = 100 << 20  # the limit of the safetensors library


def store_weights(params: Mapping[str, torch.Tensor]) -> tuple[dict[str, Any], bytes]:
    """The manifest's entries, and the member."""
    entries: dict[str, Any] = {}
    parts: dict[str, Array] = {}
    first: dict[int, str] = {}
    for name, tensor in params.items():
        owner = first.setdefault(id(tensor), name)
        if owner != name:
            entries[name] = {"tied_to": owner}
            continue
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise ArtifactError(
                f"cannot store the parameter {name}",
                why=f"it is {'quantized' if tensor.is_quantized else tensor.layout}",
                fix="make it a dense tensor",
            )
        encoded = encode(tensor)
        entries[name] = {
            "dtype": dtype_name(tensor.dtype),
            "shape": list(tensor.shape),
            "encoding": encoded.kind,
            "trained": isinstance(tensor, torch.nn.Parameter),
        }
        parts |= {f"{name}#{part}": array for part, array in encoded.parts.items()}
    return entries, safetensors.numpy.save(parts)


def read_weights(
    entries: Any, member: memoryview, params: Iterable[Value]
) -> dict[str, torch.Tensor]:
    """The parameters of a graph, by name. Raises `ArtifactError`."""
    arrays = _arrays(member)
    if not isinstance(entries, dict):
        raise ArtifactError("the manifest lists no parameters")
    wanted = {param.name: param.type for param in params}
    if set(wanted) != set(entries):
        odd = sorted(set(wanted) ^ set(entries))[0]
        raise ArtifactError(f"the graph and the manifest do not agree on the parameter {odd!r}")
    _check_room(wanted.values())
    found: dict[str, torch.Tensor] = {}
    for name, type_ in wanted.items():
        try:
            owner = entries[name].get("tied_to") if isinstance(entries[name], dict) else None
            if owner is None:
                found[name] = _parameter(name, type_, entries[name], arrays)
            elif wanted.get(owner) != type_ or owner not in found:
                raise ArtifactError(f"it is tied to {str(owner)[:60]!r}, which is another")
            else:
                found[name] = found[owner]
        except ArtifactError as error:
            raise ArtifactError(f"the parameter {name}: {error.what}") from error
    return found


def _parameter(name: str, type_: TensorType, entry: Any, arrays: dict[str, Array]) -> torch.Tensor:
    shape = tuple(dim for dim in type_.shape if isinstance(dim, int))
    stated = {"dtype": type_.dtype, "shape": list(shape)}
    if not isinstance(entry, dict) or {key: entry.get(key) for key in stated} != stated:
        raise ArtifactError("its dtype or shape is not that of the graph")
    parts = {
        key.removeprefix(f"{name}#"): array
        for key, array in ((f"{name}#{part}", arrays.get(f"{name}#{part}")) for part in _PARTS)
        if array is not None
    }
    encoded = Encoded(str(entry.get("encoding")), parts)
    tensor = decode(encoded, torch_dtype(type_.dtype), shape)
    trained = entry.get("trained") is True and tensor.is_floating_point()
    return torch.nn.Parameter(tensor, requires_grad=False) if trained else tensor


_PARTS = ("values", "mask", "deltas")


def _check_room(types: Iterable[TensorType]) -> None:
    """Zeros take no bytes in the file: a forged shape must not ask for all memory."""
    needed = 0
    for type_ in types:
        shape = [dim for dim in type_.shape if isinstance(dim, int)]
        if len(shape) != type_.rank or min(shape, default=0) < 0:
            raise ArtifactError(f"a parameter has the shape {type_.shape}")
        needed += math.prod(shape) * torch_dtype(type_.dtype).itemsize
    room = memory_bytes()
    if needed > room:
        raise ArtifactError(
            f"the parameters take {needed >> 30} GiB, this machine has {room >> 30} GiB of memory"
        )


def _arrays(member: memoryview) -> dict[str, Array]:
    """The arrays of a safetensors file, where they lie."""
    header, data = _header(member)
    found: dict[str, Array] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, (size,) = np.dtype(_DTYPES[entry["dtype"]]), entry["shape"]
            begin, end = entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"the entry of {name!r} cannot be read") from error
        integers = all(type(number) is int for number in (size, begin, end))
        if (
            not integers
            or not 0 <= begin <= end <= len(data)
            or end - begin != size * dtype.itemsize
        ):
            raise ArtifactError(f"{name!r} lies outside the member")
        if begin % dtype.itemsize:
            raise ArtifactError(f"{name!r} is not aligned")
        found[name] = np.frombuffer(data[begin:end], dtype) if size else np.empty(0, dtype)
    return found


def _header(member: memoryview) -> tuple[dict[str, Any], memoryview]:
    length = int.from_bytes(member[:8], "little")
    if len(member) < 8 or length > min(len(member) - 8, _HEADER_BYTES):
        raise ArtifactError("its header is longer than the member")
    try:
        header = json.loads(bytes(member[8 : 8 + length]))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"its header is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise ArtifactError("its header is no table")
    return header, member[8 + length :]
