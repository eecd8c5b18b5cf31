"""Where threads wait, how they share a segment, and where its buffers lie.

Threads share the samples of a segment in one of two ways: *alone*, each runs all of it on samples
of its own and never waits, or *together*, they share every call of one chunk. Together they may
hold tokens of one sample each in the spaces that allow it (*split*) and meet around attention only:
a thread's activations then never leave its cache. (MiniLM, 90 % zeros, 128 tokens, two threads on
Zen 5: every call shared 2.4 ms, split 1.7.) Tokens that do not divide evenly leave a *rest*, which
each thread has behind its own: linears and attention share the work on it. (ViT, 197 tokens: 6
vectors each and one of the rest, where one thread of two would have 7.)

Waits follow from the flow of data. Memory is given out when shapes are bound, first fit by
liveness, and given back only where a wait stands between the old use and the new one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sparse_compiler.codegen.lowering.places import Place, keeps_to_columns
from sparse_compiler.codegen.operands import Elements, Planes
from sparse_compiler.codegen.program import Buffer, Call, Segment, Wait

CHUNK_COLUMNS = 256  # what a chunk aims at: uses each weight often enough
CHUNK_FLOATS = 1 << 20  # of its largest value, with more samples: it is read out of a cache
SAVED = 3  # percent of the work, from which a chunk of twice the samples pays
ALONE_COLUMNS = 128  # fewer would read the weights too often
SPLIT_COLUMNS = 32  # fewer leave vectors half empty
LINE = 16  # floats of a cache line
UNEVEN = 1.05  # columns of the busiest thread to those of the mean, from which a rest pays
EVEN = 0.9  # share of the threads that must be busy for them to work alone


def buffer_of(place: Place) -> int | None:
    """The buffer that a place lies in; None for tensors of torch's."""
    if isinstance(place, Elements):
        return place.index if place.kind == "buffer" else None
    return place.buffer


@dataclass(frozen=True)
class _Use:
    """A call's use of a place. own: the space in which a thread keeps to columns of its own, else
    NaN, unequal to all; kept: the same, where a rest counts as that of whoever writes it."""

    place: Place
    mode: str
    own: int | float
    kept: int | float
    label: str


def _uses(call: Call) -> list[_Use]:
    uses = []
    for place, mode in call.places:
        if buffer_of(place) is None:
            continue
        keeps = call.tokens is not None and keeps_to_columns(call, place, mode)
        own = call.tokens if call.tokens is not None and keeps else math.nan
        kept = math.nan if call.gives and mode == "write" else own
        uses.append(_Use(place, mode, own, kept, call.label))
    return uses


def waits_of(calls: Sequence[Call]) -> dict[int, Wait]:
    """Per call that needs it: where threads meet.

    A wait is needed where a call touches what another thread may still read or write. Threads that
    split, and keep to columns of their own as those before did, need none.
    """
    waits: dict[int, Wait] = {}
    split: list[_Use] = []  # since the last wait that threads observe however they share
    rest: list[_Use] = []  # since the last one of those that share a rest
    joint: list[_Use] = []  # since the last one of those that do not split
    for i, call in enumerate(calls):
        now = _uses(call)
        meet = any(_conflict(a, b) for a in joint for b in now)
        given = any(_conflict(a, b) and a.kept != b.kept for a in rest for b in now)
        mixed = any(_conflict(a, b) and a.own != b.own for a in split for b in now)
        if mixed or (meet and call.tokens is None):
            waits[i] = Wait()
        elif meet or given:
            waits[i] = Wait(call.tokens, given)
        if i in waits:
            joint = []
            rest = [] if waits[i].stands(split=True, rest=True) else rest
            split = [] if waits[i].stands(split=True, rest=False) else split
        split += now
        rest += now
        joint += now
    return waits


def _conflict(a: _Use, b: _Use) -> bool:
    """True where two uses of the same memory must not happen at the same time."""
    if "write" not in (a.mode, b.mode) or buffer_of(a.place) != buffer_of(b.place):
        return False
    if a.mode == b.mode and a.label == b.label:
        return False  # pieces of one concatenation
    if isinstance(a.place, Planes) and isinstance(b.place, Planes):
        bounds = (a.place.first, a.place.rows, b.place.first, b.place.rows)
        if all(isinstance(n, int) for n in bounds):
            first, rows, other, others = map(int, bounds)
            return first < other + others and other < first + rows
    return True


@dataclass(frozen=True)
class Sharing:
    """How threads share a segment at given sizes.

    samples, per: in all and in a chunk. alone: each thread runs chunks of its own. ld, columns: per
    space, the floats between planes, and the columns of one sample. part: per space the columns
    that each thread holds, 0 where they do not split; rest: those at the end that
    all of them have.
    """

    samples: int
    per: int
    alone: bool
    threads: int
    columns: tuple[int, ...]
    part: tuple[int, ...]
    rest: tuple[int, ...]
    ld: tuple[int, ...]


def share(segment: Segment, samples: int, columns: Sequence[int], threads: int) -> Sharing:
    """Decides how `threads` threads share `samples` samples of these columns per space."""
    unit = max((c for c, s in zip(columns, segment.spaces, strict=True) if s.tokens), default=0)
    unit = unit or max(columns, default=1) or 1
    most = _widened(segment, samples, columns, max(1, CHUNK_COLUMNS // unit))
    count = -(-samples // most)
    busy = samples * unit >= threads * ALONE_COLUMNS
    if count < threads <= samples and busy:
        count = threads
    if count > threads:
        count = -(-count // threads) * threads
    per = -(-samples // count) if count < samples else 1
    if unit == 1:
        per = min(lines(per), lines(samples))
    chunks = -(-samples // per)
    turns = -(-chunks // threads)
    alone = threads > 1 and samples >= turns * threads * per * EVEN
    parts, rests = [], []
    for size, space in zip(columns, segment.spaces, strict=True):
        splits = threads > 1 and not alone and space.tokens
        part, rest = _divided(size, threads) if splits else (0, 0)
        parts.append(part)
        rests.append(rest)
    if any(parts):
        per = 1
    ld = [
        (lines(part + rest or per * size) // LINE | 1) * LINE
        for part, rest, size in zip(parts, rests, columns, strict=True)
    ]
    return Sharing(
        samples, per, alone, threads, tuple(columns), tuple(parts), tuple(rests), tuple(ld)
    )


def _widened(segment: Segment, samples: int, columns: Sequence[int], most: int) -> int:
    """Samples of a chunk, doubled while small planes then leave fewer lanes of vectors empty.

    A layer's work per vector goes with its rows times those of what it reads: their square. (64 x
    64 pixels, batch 16, one thread on Zen 5: MobileNetV3 14.6 => 5.2 ms, ConvNeXt 3.4 => 1.8.)
    """
    rows = [
        (buffer.size, columns[buffer.space])
        for buffer in segment.buffers
        if buffer.space is not None and isinstance(buffer.size, int)
    ]
    while 2 * most <= samples:
        if any(size * lines(2 * most * wide) > CHUNK_FLOATS for size, wide in rows):
            break
        work = 2 * sum(size * size * lines(most * wide) for size, wide in rows)
        wider = sum(size * size * lines(2 * most * wide) for size, wide in rows)
        if 100 * wider >= (100 - SAVED) * work:
            break
        most *= 2
    return most


def _divided(columns: int, threads: int) -> tuple[int, int]:
    """The columns that each thread holds, and the rest; (0, 0) where too few for a split."""
    most, least = lines(-(-columns // threads)), columns // threads // LINE * LINE
    if least >= SPLIT_COLUMNS and most * threads >= UNEVEN * lines(columns):
        return least, columns - least * threads
    fits = most >= SPLIT_COLUMNS and most * (threads - 1) < columns
    return (most, 0) if fits else (0, 0)


def lines(floats: int) -> int:
    """Floats of whole cache lines."""
    return -(-floats // LINE) * LINE


@dataclass(frozen=True)
class Arena:
    """Places of buffers in floats. local: those of which each thread has its own."""

    offsets: tuple[int, ...]
    local: tuple[bool, ...]
    local_floats: int
    shared_floats: int


def arrange(segment: Segment, sharing: Sharing, floats: Sequence[int]) -> Arena:
    """Gives each buffer, of that many floats, a place: first fit by liveness."""
    local = [_is_local(b, sharing) for b in segment.buffers]
    split, rest = any(sharing.part), any(sharing.rest)
    waits = [i for i in sorted(segment.waits) if segment.waits[i].stands(split=split, rest=rest)]
    ends = []
    for buffer, mine in zip(segment.buffers, local, strict=True):
        kept = buffer.space is not None and mine and not buffer.foreign
        if sharing.alone or (kept and not rest):
            ends.append(buffer.last + 1)
        else:
            ends.append(_next(waits, buffer.last, len(segment.calls)))
    offsets = [0] * len(floats)
    totals = {True: 0, False: 0}
    order = sorted(range(len(floats)), key=lambda i: segment.buffers[i].first)
    for side in (True, False):
        placed: list[int] = []
        for i in (j for j in order if local[j] is side):
            buffer = segment.buffers[i]
            lasting = buffer.shared
            alive = [
                j for j in placed if lasting or segment.buffers[j].shared or ends[j] > buffer.first
            ]
            offsets[i] = _first_fit(alive, offsets, floats, floats[i])
            totals[side] = max(totals[side], offsets[i] + lines(floats[i]))
            placed.append(i)
    return Arena(tuple(offsets), tuple(local), totals[True], totals[False])


def _is_local(buffer: Buffer, sharing: Sharing) -> bool:
    if buffer.shared:
        return False
    return sharing.alone or (buffer.space is not None and sharing.part[buffer.space] > 0)


def _next(waits: Sequence[int], after: int, end: int) -> int:
    """The first call with a wait before it that comes after call `after`."""
    return next((i for i in waits if i > after), end)


def _first_fit(
    alive: Sequence[int], offsets: Sequence[int], floats: Sequence[int], size: int
) -> int:
    place = 0
    for j in sorted(alive, key=lambda j: offsets[j]):
        if offsets[j] - place >= lines(size):
            break
        place = max(place, offsets[j] + lines(floats[j]))
    return place
