"""What a storage format states: its ideal size and the predicted time of a linear that uses it.

A linear of an [M, K] weight on n columns is arithmetic at a share of the machine's peak, or the
stream of its weight from memory, whichever takes longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..registry import Registry


@dataclass(frozen=True)
class Machine:
    """vector: floats per vector; flops_per_ns: peak of one core; bytes_per_ns: of all memory."""

    vector: int = 8
    flops_per_ns: float = 100.0
    bytes_per_ns: float = 28.0

    @property
    def fma_ns(self) -> float:
        """One vector multiply-add at full throughput."""
        return 2 * self.vector / self.flops_per_ns


@dataclass(frozen=True)
class LinearShape:
    """A [rows, columns] weight with nnz non-zeros applied to n columns of activations."""

    rows: int
    columns: int
    nnz: int
    n: int


class Format(Protocol):
    """One way to store a weight; the target has a packer and a kernel of the same name."""

    name: str

    def ideal_bits(self, rows: int, columns: int, nnz: int, bits: int) -> float:
        """Size of values of `bits` bits and their index, without padding (Hoefler et al., 2.2)."""

    def linear_ns(self, shape: LinearShape, machine: Machine, threads: int) -> float:
        """Predicted time of a linear in nanoseconds."""


FORMATS: Registry[Format] = Registry("format", "sparse_compiler.formats")
