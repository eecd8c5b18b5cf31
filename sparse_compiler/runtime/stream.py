"""The constants of a segment in memory: packed one after another in the order of their use.

Nothing is held twice that need not be: each value is made, packed into its place and freed before
the next; large tables, and dense weights that would take much memory, are read where they lie.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ..codegen.plan import lines
from ..codegen.program import Segment, WeightEntry
from ..ir.types import evaluate, torch_dtype
from .decode import FEW, decode_packer_for
from .packing import (
    ALIGN,
    IN_PLACE,
    PACKED,
    Packer,
    Place,
    aligned_bytes,
    as_multiplied,
    nonzeros,
)
from .weights import WeightTimeValues

_LARGE = 4 << 20  # bytes of a value after which freed memory is worth giving back
_COPIES = 64 << 20  # bytes of dense weights that may be held twice: 2 % faster than in place


@dataclass(frozen=True)
class Held:
    """A constant as kernels read it. bytes: of its numbers; parts: parameters it refers to."""

    value: torch.Tensor
    bytes: int
    parts: tuple[torch.Tensor, ...]

    packed_density: float | None = None
    few: bool = False
    """Packed for few columns of activations; the panel kernels read it not, these no other."""

    @property
    def density(self) -> float:
        """The share of non-zeros."""
        return density([self.value]) if self.packed_density is None else self.packed_density


@dataclass(frozen=True)
class HeldWeights:
    """The weights of a segment: `held` by number; `values` by name, for what sizes change.

    others: weights in the form that `held` has not, for few columns or for many, made when a shape
    first needs it; source: gives their values again.
    """

    held: Mapping[int, Held]
    values: Mapping[str, torch.Tensor]
    source: WeightTimeValues
    others: dict[int, Held] = field(default_factory=dict)


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


def constants_read(segment: Segment) -> tuple[list[str], list[str]]:
    """Names of weight-time values that `hold_weights` takes, and of those read once bound."""
    packed = [entry.name for entry in segment.weights if not entry.per_shape]
    return packed, [entry.name for entry in segment.weights if entry.per_shape]


def hold_weights(
    segment: Segment,
    values: WeightTimeValues,
    columns: Mapping[int, int],
    packer: Packer,
    hints: Mapping[str, int],
) -> HeldWeights:
    """Packs what does not depend on sizes.

    columns: those that each packed weight is applied to. hints: expected sizes of symbols.
    """
    _give_back_freed()  # what tracing and passes held, before the peak
    entries = {i: e for i, e in enumerate(segment.weights) if not e.per_shape}
    stream = WeightStream(sum(map(_room, entries.values())))
    dense = [e for e in entries.values() if e.kind in PACKED and e.type.format == "dense"]
    copy = sum(_numel(e) for e in dense) * 4 <= _COPIES
    held = {}
    for i, entry in entries.items():
        if entry.kind not in PACKED:
            held[i] = _raw(values.take(entry.name), stream.place)
            continue
        wide = columns.get(i, 1)
        if wide <= FEW and not entry.taps:
            held[i] = _hold_few(entry, values, packer, stream.place, exact=True)
            continue
        parts = None if copy or entry.taps else values.parts(entry.name)
        format_ = str(entry.type.format)
        if parts and packer.reads_in_place(format_, parts, wide):
            size = sum(part.numel() for part in parts) * 4
            held[i] = Held(packer.refer(parts, stream.place), size, tuple(parts), density(parts))
            continue
        value = values.take(entry.name)
        share, large = density([value]), value.numel() * 4 >= _LARGE
        value = as_multiplied(entry.kind, value)
        if large:  # what other numbers were made of
            _give_back_freed()
        conv = (entry.groups, entry.taps)
        image = tuple(evaluate(size, hints) for size in entry.image)
        blob = packer.pack(format_, value, wide, *conv, stream.place, image)
        held[i] = Held(blob, blob.numel(), (), share)
        if large:
            del value
            _give_back_freed()
    _give_back_freed()
    return HeldWeights(held, values.kept, values)


def weight_for(
    weights: HeldWeights, segment: Segment, index: int, columns: int, packer: Packer
) -> Held:
    """A packed weight in the form for that many columns, packed now where it has not been.

    Only a program whose sizes vary over that border holds both forms.
    """
    entry, held = segment.weights[index], weights.held[index]
    few = columns <= FEW and not entry.taps
    if entry.kind not in PACKED or held.few == few:
        return held
    if index not in weights.others:
        again = weights.source.again(entry.name)
        if few:
            made = _hold_few(entry, again, packer, aligned_bytes, exact=False)
        else:
            value = as_multiplied(entry.kind, again.take(entry.name))
            blob = packer.pack(str(entry.type.format), value, columns)
            made = Held(blob, blob.numel(), (), density([value]))
        weights.others[index] = made
    return weights.others[index]


def _hold_few(
    entry: WeightEntry, values: WeightTimeValues, packer: Packer, place: Place, *, exact: bool
) -> Held:
    """A linear's weight for few columns: where it lies if it is dense and alone."""
    decode = decode_packer_for(packer.toolchain)
    format_, parts = str(entry.type.format), values.parts(entry.name)
    if parts is not None and decode.refers_to(format_, parts):
        (weight,) = parts
        blob = place(decode.refer_bytes(weight))
        decode.refer(weight, blob)
        return Held(blob, weight.numel() * 4, (weight,), density(parts), few=True)
    value = values.take(entry.name)
    kind, stored, size = decode.plan(format_, value, exact=exact)
    blob = place(size)
    decode.pack(value, kind, stored, blob)
    return Held(blob, size, (), density([value]), few=True)


def _give_back_freed() -> None:
    """Returns freed memory to the system, of which glibc keeps up to 64 MB; elsewhere nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def density(parts: Sequence[torch.Tensor]) -> float:
    """The share of non-zeros."""
    total = sum(part.numel() for part in parts)
    return sum(map(nonzeros, parts)) / max(1, total)


def _raw(value: torch.Tensor, place: Place) -> Held:
    """A tensor's elements, row-major: where they lie if they are many, else copied."""
    value = value.detach()
    size = value.numel() * value.element_size()
    if size < IN_PLACE or not value.is_contiguous():
        value = place(size).view(value.dtype).view(value.shape).copy_(value)
    return Held(value, size, ())


def _room(entry: WeightEntry) -> int:
    """Bytes for a constant in the stream: no format needs more of."""
    numel, rows = _numel(entry), int(entry.type.shape[0]) if entry.type.rank else 1
    if entry.kind not in PACKED:
        return lines(numel * torch_dtype(entry.type.dtype).itemsize // 4 + 1) * 4
    columns = numel // max(1, rows)
    return (numel + 16 * entry.groups * columns + 64 * rows) * 8 + entry.groups * 4096


def _numel(entry: WeightEntry) -> int:
    return math.prod(int(size) for size in entry.type.shape)
