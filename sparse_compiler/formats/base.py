"""What a storage format states: its ideal size and the predicted time of a linear that uses it.

A linear of an [M, K] weight on n columns is its arithmetic, or the stream of its weight from
memory, whichever takes longer.
"""

from __future__ import annotations

import math
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


@dataclass(frozen=True)
class ConvShape:
    """A [rows, columns] weight with nnz non-zeros, of all groups, applied to n output columns.

    columns: channels of a group times taps. strided: neighbours in the output are not neighbours in
    the input (any stride above 1, or an output of another width).
    """

    rows: int
    columns: int
    nnz: int
    n: int
    taps: int
    groups: int = 1
    strided: bool = False

    @property
    def depthwise(self) -> bool:
        """One input channel to each group."""
        return self.columns == self.taps and self.groups > 1


@dataclass(frozen=True)
class ConvCopy:
    """Nanoseconds of making one vector of a panel, by how it lies in the input; of one mask."""

    rows: float
    windows: float
    strided: float
    mask: float

    def busy_ns(self, shape: ConvShape, machine: Machine, threads: int) -> float:
        """Copying all panels; as in `divide_conv` of conv.h, wide planes are shared out."""
        vectors = -(-shape.n // machine.vector)
        each = self.rows if shape.taps == 1 else self.windows
        each = self.strided if shape.strided else each
        masks = 0.0 if shape.taps == 1 else self.mask * shape.taps
        parts = max(1, min(threads, vectors // _WIDE))
        if shape.groups > 1:
            parts = max(parts, min(threads, shape.groups))
        return vectors * (each * shape.columns * shape.groups + masks) / parts


_WIDE = 16  # vectors of a thread's part of a plane


def torch_conv_ns(shape: ConvShape, machine: Machine, threads: int) -> float:
    """What torch's dense convolution takes: its arithmetic on whole vectors of channels, and
    bringing the weight into oneDNN's order, which happens at every call.

    Fitted to `benchmarks/kernels/conv.py`, within 18 % on ResNet-50 and MobileNetV1.
    """
    peak = machine.flops_per_ns * machine.torch_share * threads
    if shape.depthwise:
        compute = 2 * shape.rows * shape.columns * shape.n / (peak * _DEPTHWISE_SHARE)
        return compute + _TORCH_CONV_NS
    rows = -(-shape.rows // shape.groups // machine.vector) * machine.vector
    channels = shape.columns / shape.taps
    if channels > _FIRST_LAYER:
        channels = math.ceil(channels / machine.vector) * machine.vector
    numbers = shape.groups * rows * channels * shape.taps
    reorder = shape.rows * shape.columns * 4 / _REORDER_BYTES_PER_NS
    return 2 * numbers * shape.n / peak + reorder + _TORCH_CONV_NS


_TORCH_CONV_NS = 20_000.0  # a call, two reorders of the activations
_REORDER_BYTES_PER_NS = 35.0
_DEPTHWISE_SHARE = 0.13  # of the speed of a full convolution
_FIRST_LAYER = 4  # channels up to which oneDNN does not pad them


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

    def conv_ns(self, shape: ConvShape, machine: Machine, threads: int) -> float:
        """Predicted time of a convolution in nanoseconds."""


FORMATS: Registry[Format] = Registry("format", "sparse_compiler.formats")
