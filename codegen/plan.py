"""Where values lie: rows of one arena, first fit by liveness, in place where that is legal.

All values of a segment have the same columns in a chunk, so the plan is in rows and holds for every
size of chunk.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sparse_compiler.codegen.program import Planes


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
