"""What a storage format states: its ideal size and the predicted time of a linear that uses it.

A linear of an [M, K] weight on n columns is its arithmetic, or the stream of its weight from
memory, whichever takes longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..registry import Registry


@dataclass(frozen=True)
class Machine:
    """vector: floats per vector; flops_per_ns: peak of one core; bytes_per_ns: of all memory.

    cache_bytes, cache_bytes_per_ns: the same for what stays in the shared cache between calls.
    torch_share: part of the peak that torch's own dense linear reaches.
    """

    vector: int = 8
    flops_per_ns: float = 100.0
    bytes_per_ns: float = 28.0
    cache_bytes: int = 16 << 20
    cache_bytes_per_ns: float = 64.0
    torch_share: float = 0.9

    def stream_ns(self, size: float) -> float:
        """Reading `size` bytes of weights once."""
        cached = size <= self.cache_bytes
        return size / (self.cache_bytes_per_ns if cached else self.bytes_per_ns)

    @property
    def slowness(self) -> float:
        """Time of one vector multiply-add relative to the core on which costs were fitted."""
        return 2 * self.vector / self.flops_per_ns / 0.125


@dataclass(frozen=True)
class LinearShape:
    """A [rows, columns] weight with nnz non-zeros applied to n columns of activations."""

    rows: int
    columns: int
    nnz: int
    n: int


def torch_linear_ns(shape: LinearShape, machine: Machine, threads: int) -> float:
    """What torch's dense linear takes: every weight times every column, or reading the weight."""
    numbers = shape.rows * shape.columns
    compute = 2 * numbers * shape.n / (machine.flops_per_ns * machine.torch_share) / threads
    return max(compute, machine.stream_ns(numbers * 4))


class Format(Protocol):
    """One way to store a weight; the target has a packer and a kernel of the same name."""

    name: str

    def ideal_bits(self, rows: int, columns: int, nnz: int, bits: int) -> float:
        """Size of values of `bits` bits and their index, without padding (Hoefler et al., 2.2)."""

    def linear_ns(self, shape: LinearShape, machine: Machine, threads: int) -> float:
        """Predicted time of a linear in nanoseconds."""


FORMATS: Registry[Format] = Registry("format", "sparse_compiler.formats")
