"""Where values lie, and where threads wait: rows of one arena, first fit by liveness.

All values of a segment have the same columns in a chunk, so the plan is in rows and holds for every
size of chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sparse_compiler.codegen.program import (
    AttentionCall,
    Call,
    LinearCall,
    Load,
    NormCall,
    Planes,
    PointwiseCall,
    SoftmaxCall,
    Store,
)


@dataclass
class RowAllocator:
    """Hands out runs of rows; `rows` is the high-water mark."""

    rows: int = 0
    _used: list[Planes] = field(default_factory=list)

    def take(self, rows: int) -> Planes:
        """The lowest free run of `rows` rows."""
        first = 0
        for other in sorted(self._used, key=lambda p: p.first):
            if other.first - first >= rows:
                break
            first = max(first, other.first + other.rows)
        planes = Planes(first, rows)
        self._used.append(planes)
        self.rows = max(self.rows, first + rows)
        return planes

    def free(self, planes: Planes) -> None:
        """Gives a run back."""
        self._used.remove(planes)


def overlaps(a: Planes, b: Planes) -> bool:
    """True where two runs share a row."""
    return a.first < b.first + b.rows and b.first < a.first + a.rows


def accesses(call: Call) -> tuple[list[Planes], list[Planes]]:
    """(rows read, rows written) of a call."""
    match call:
        case Load():
            return [], [call.to]
        case Store():
            return [call.planes], []
        case AttentionCall():
            return [call.q, call.k, call.v], [call.to]
        case LinearCall() | NormCall():
            return [call.x, *(o for o in call.operands if isinstance(o, Planes))], [call.to]
        case SoftmaxCall():
            return [call.x], [call.to]
        case PointwiseCall():
            return [o for o in call.operands if isinstance(o, Planes)], [call.to]


def sync_points(calls: Sequence[Call]) -> frozenset[int]:
    """Calls that touch rows which another thread may still read or write since the last wait."""
    points: set[int] = set()
    reads: list[Planes] = []
    writes: list[Planes] = []
    for i, call in enumerate(calls):
        now_reads, now_writes = accesses(call)
        hazard = any(overlaps(a, b) for a in now_reads + now_writes for b in writes) or any(
            overlaps(a, b) for a in now_writes for b in reads
        )
        if hazard or (isinstance(call, AttentionCall) and call.mask is not None and not points):
            points.add(i)
            reads, writes = [], []
        reads += now_reads
        writes += now_writes
    return frozenset(points)
