"""Where the time of a call goes: a line for each kernel call and each step run by torch.

useful operations: 2 for each non-zero of a weight and each column; bytes: every number that the
call reads or writes, once; roofline fraction: the time in which the machine could have done the
slower of the two, by its measured peaks, over the time taken (Williams, Waterman, Patterson,
"Roofline", CACM 52(4), 2009). What stays in a cache may beat the peak, which is of main memory.
"""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ..codegen.operands import Elements, Planes, Vector
from ..codegen.program import Call, Segment
from ..errors import ToolchainError
from ..ir.types import Dim, TensorType, evaluate, torch_dtype
from ..options import Options
from ..runtime.clock import Spent
from ..runtime.executor import Executor
from ..runtime.native import NativeSegment
from ..runtime.pipeline import Pipeline
from .roofline import Roofs, measure_roofs

WARM_UP, RUNS = 3, 10
WAITING = "(threads waiting for one another)"
ENTERING = "(entering and leaving native code)"
PYTHON = "(Python around the steps)"


@dataclass(frozen=True)
class ProfileRow:
    """One kernel call, torch step, or kind of overhead (in brackets).

    kernel: the C++ kernel, or the torch operator; layer: the graph value it computes; ms: per call
    of the model; flops, bytes: useful work likewise, 0 where there is none or it is not known.
    """

    kernel: str
    layer: str
    ms: float
    flops: float = 0.0
    bytes: float = 0.0
    native: bool = True

    @property
    def gflops(self) -> float:
        """Useful 10^9 operations a second."""
        return self.flops / (self.ms * 1e6) if self.ms > 0 else 0.0

    @property
    def gbytes(self) -> float:
        """10^9 bytes a second."""
        return self.bytes / (self.ms * 1e6) if self.ms > 0 else 0.0

    def roofline(self, roofs: Roofs) -> float:
        """Least time that the machine's peaks allow, over the time taken."""
        least = max(self.flops / roofs.flops, self.bytes / roofs.bytes_per_s)
        return least / (self.ms / 1e3) if self.ms > 0 else 0.0


@dataclass(frozen=True)
class Profile:
    """rows in execution order, overheads last; total_ms: of the call, measured from outside;
    what: how it was measured; roofs: the machine's peaks, None where they cannot be measured."""

    rows: tuple[ProfileRow, ...]
    total_ms: float
    what: str
    roofs: Roofs | None = None

    @property
    def explained(self) -> float:
        """Share of the call that the lines add up to."""
        return sum(row.ms for row in self.rows) / self.total_ms if self.total_ms > 0 else 1.0

    def by_kernel(self) -> Profile:
        """One line for each kernel, the longest first; `layer` counts its calls."""
        groups: dict[str, list[ProfileRow]] = {}
        for row in self.rows:
            groups.setdefault(row.kernel, []).append(row)
        rows = [
            replace(
                group[0],
                layer=f"{len(group)} calls" if len(group) > 1 else group[0].layer,
                ms=sum(r.ms for r in group),
                flops=sum(r.flops for r in group),
                bytes=sum(r.bytes for r in group),
            )
            for group in groups.values()
        ]
        return replace(self, rows=tuple(sorted(rows, key=lambda row: -row.ms)))

    def text(self) -> str:
        """The table, and a line with the sum."""
        header = ("kernel", "layer", "ms", "share", "GFLOP/s", "GB/s", "roofline")
        table = [header, *(self._cells(row) for row in self.rows)]
        widths = [max(len(cells[i]) for cells in table) for i in range(len(header))]
        lines = []
        for cells in table:
            left = [c.ljust(w) for c, w in zip(cells[:2], widths[:2], strict=True)]
            right = [c.rjust(w) for c, w in zip(cells[2:], widths[2:], strict=True)]
            lines.append("  ".join([*left, *right]).rstrip())
        lines.insert(1, "  ".join("-" * w for w in widths))
        return "\n".join([*lines, *self.notes]) + "\n"

    @property
    def notes(self) -> tuple[str, ...]:
        """The sum, and the machine's peaks where they are known: a line each."""
        total = f"{self.total_ms:.3f} ms a call, {self.explained:.1%} above; {self.what}."
        if self.roofs is None:
            return (total,)
        peaks = (
            f"peaks: {self.roofs.flops / 1e9:.0f} GFLOP/s, "
            f"{self.roofs.bytes_per_s / 1e9:.0f} GB/s from memory"
            f"{' (measured while something else ran)' if self.roofs.disturbed else ''}."
        )
        return total, peaks

    def _cells(self, row: ProfileRow) -> tuple[str, ...]:
        share = row.ms / self.total_ms if self.total_ms > 0 else 0.0
        work = row.flops or row.bytes
        return (
            row.kernel,
            row.layer,
            f"{row.ms:.4f}",
            f"{share:.1%}",
            f"{row.gflops:.1f}" if row.flops else "-",
            f"{row.gbytes:.1f}" if row.bytes else "-",
            f"{row.roofline(self.roofs):.0%}" if work and self.roofs is not None else "-",
        )


# --- building -------------------------------------------------------------------------------------


def profile_of(executor: Executor, roofs: Roofs | None = None, what: str | None = None) -> Profile:
    """What an executor with a clock measured since it was made, per call."""
    clock = executor.clock
    if clock is None or clock.runs == 0:
        return Profile((), 0.0, "nothing ran", roofs)
    rows: list[ProfileRow] = []
    native = iter(executor.segments)
    for step, seconds in zip(clock.steps, clock.seconds, strict=True):
        if isinstance(step, Segment):
            rows += _segment_rows(next(native), clock.runs, seconds)
        else:
            op = step.node.op
            kernel = str(getattr(op, "target", op.name))
            ms = seconds / clock.runs * 1e3
            rows.append(ProfileRow(kernel, step.node.name, ms, native=False))
    around = (clock.total - sum(clock.seconds)) / clock.runs * 1e3
    rows.append(ProfileRow(PYTHON, "", around, native=False))
    said = what or f"mean of {clock.runs} calls"
    return Profile(_merged(rows), clock.total / clock.runs * 1e3, said, roofs)


def profile_of_segments(segments: Sequence[NativeSegment], options: Options) -> Profile:
    """What segments with clocks measured, where something else runs between them."""
    runs = max((sum(s.runs for s in _spent(n)) for n in segments), default=0)
    if runs == 0:
        return Profile((), 0.0, "nothing ran")
    roofs = machine_roofs(options, torch.get_num_threads())
    rows: list[ProfileRow] = []
    total = 0.0
    for native in segments:
        seconds = sum(spent.total for spent in _spent(native))
        rows += _segment_rows(native, runs, seconds)
        total += seconds
    what = f"mean of {runs} calls of the native parts alone"
    return Profile(_merged(rows), total / runs * 1e3, what, roofs)


def _spent(native: NativeSegment) -> list[Spent]:
    return [] if native.clock is None else list(native.clock.spent.values())


def _merged(rows: Sequence[ProfileRow]) -> tuple[ProfileRow, ...]:
    """Overheads of all segments in one line each, at the end."""
    kept = [row for row in rows if not row.kernel.startswith("(")]
    for kind in (WAITING, ENTERING, PYTHON):
        found = [row.ms for row in rows if row.kernel == kind]
        if found:
            kept.append(ProfileRow(kind, "", sum(found), native=kind != PYTHON))
    return tuple(kept)


def _segment_rows(native: NativeSegment, runs: int, seconds: float) -> list[ProfileRow]:
    """A line for each call of a segment that took `seconds` in `runs` calls of the model."""
    rows = []
    work = _Work(native)
    inside = 0.0
    for i, call in enumerate(native.segment.calls):
        ms = flops = moved = 0.0
        for spent in _spent(native):
            ms += spent.work[i] * 1e3
            flops += work.flops(call, spent.symbols) * spent.runs
            moved += work.bytes(call, spent.symbols) * spent.runs
        inside += ms
        rows.append(ProfileRow(call.kernel, call.label, ms / runs, flops / runs, moved / runs))
    waiting = sum(sum(spent.wait) + spent.end for spent in _spent(native)) * 1e3
    rows.append(ProfileRow(WAITING, "", waiting / runs))
    rows.append(ProfileRow(ENTERING, "", (seconds * 1e3 - inside - waiting) / runs))
    return rows


class _Work:
    """Useful operations and bytes of the calls of a segment."""

    def __init__(self, native: NativeSegment) -> None:
        self.native, self.segment = native, native.segment
        self._weights: dict[int, tuple[float, int]] = {}

    def flops(self, call: Call, symbols: Mapping[str, int]) -> float:
        """Operations on non-zeros."""
        dense = _number(call.flops, symbols) * self._samples(call, symbols)
        weight = call.weight if call.weight is not None else _kernel_weight(self.segment, call)
        return dense if weight is None or not dense else dense * self._weight(weight)[0]

    def bytes(self, call: Call, symbols: Mapping[str, int]) -> float:
        """Numbers read and written; of a table that is looked up in, no more than is written."""
        written, read, constants = 0.0, 0.0, 0.0
        for place, mode in dict.fromkeys(call.places):
            size = self._place_bytes(place, symbols)
            if isinstance(place, Elements) and place.kind == "weight":
                constants += size
            elif mode == "write":
                written += size
            else:
                read += size
        if call.weight is not None:
            read += self._weight(call.weight)[1]
        return written + read + min(constants, written)

    def _samples(self, call: Call, symbols: Mapping[str, int]) -> int:
        return 1 if call.once else _number(self.segment.samples, symbols)

    def _weight(self, index: int) -> tuple[float, int]:
        if index not in self._weights:
            self._weights[index] = self.native.weight_work(index)
        return self._weights[index]

    def _place_bytes(self, place: Planes | Elements, symbols: Mapping[str, int]) -> float:
        if isinstance(place, Planes):
            columns = _number(self.segment.spaces[place.space].columns, symbols)
            samples = _number(self.segment.samples, symbols)
            return 4.0 * _number(place.rows, symbols) * columns * samples
        if place.kind == "buffer":
            buffer = self.segment.buffers[place.index]
            samples = 1 if buffer.shared else _number(self.segment.samples, symbols)
            size = torch_dtype(buffer.dtype).itemsize
            return float(_number(buffer.size, symbols) * samples * size)
        types = {
            "in": [type_ for _, type_ in self.segment.inputs],
            "out": [type_ for _, type_ in self.segment.outputs],
            "weight": [entry.type for entry in self.segment.weights],
        }[place.kind]
        return _tensor_bytes(types[place.index], symbols)


def _kernel_weight(segment: Segment, call: Call) -> int | None:
    """The weight of a kernel that takes it unpacked and skips its zeros: more than a vector."""
    vectors = [arg.weight for arg in call.args if isinstance(arg, Vector)]
    return next((i for i in vectors if segment.weights[i].type.rank > 1), None)


def _tensor_bytes(type_: TensorType, symbols: Mapping[str, int]) -> float:
    size = torch_dtype(type_.dtype).itemsize
    for dim in type_.shape:
        size *= _number(dim, symbols)
    return float(size)


def _number(value: Dim, symbols: Mapping[str, int]) -> int:
    return int(evaluate(value, symbols))


# --- taking ---------------------------------------------------------------------------------------


def machine_roofs(options: Options, threads: int) -> Roofs | None:
    """The peaks of the machine within the option `isa`, from the cache once they were measured;
    None without a compiler."""
    try:
        return measure_roofs(threads, options.cache_dir, options.isa)
    except ToolchainError:
        return None


def fastest_of(
    pipeline: Pipeline, run: Callable[[Executor], object], roofs: Roofs | None
) -> Profile:
    """The profile of the fastest of some runs of a compiled model, each by `run`."""
    executor = pipeline.executor_with_clock()
    found: Profile | None = None
    for i in range(WARM_UP + RUNS):
        executor.restart_clock()
        began = time.perf_counter()
        run(executor)
        seconds = time.perf_counter() - began
        if executor.clock is not None:
            executor.clock.finish(seconds)
        if i >= WARM_UP and (found is None or seconds * 1e3 < found.total_ms):
            found = profile_of(executor, roofs, f"fastest of {RUNS} calls")
    return found or Profile((), 0.0, "nothing ran", roofs)


def profile_of_pipeline(pipeline: Pipeline) -> Profile:
    """What a pipeline compiled with the option `profile` measured since its weights changed."""
    return profile_of(pipeline.executor, machine_roofs(pipeline.options, torch.get_num_threads()))


def print_at_exit(owner: object, take: Callable[[], Profile]) -> None:
    """Prints a profile when `owner` is gone or Python ends, if anything ran."""

    def write() -> None:
        profile = take()
        if profile.rows:
            print(profile.text(), file=sys.stderr, flush=True)

    weakref.finalize(owner, write)
