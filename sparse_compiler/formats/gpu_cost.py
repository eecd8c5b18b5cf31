"""A GPU in the place of the processor for which the choice of formats asks costs.

A format takes the time of its best kernel and tile; dense is cuBLAS's, taken to be ideal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..ir.refusal import No
from .base import Format
from .cost import ConvShape, Machine, Shape, Timed
from .gpu_arch import DEFAULT, Arch, find_arch
from .gpu_kernels import form_of, ranked
from .gpu_roofline import dense_ns, semi_structured_ns
from .semi_structured import NAME, limit

AS_CSR = 1.001
"""Of csr's time, for a format that is stored as csr here: of the two names csr's is taken."""


@dataclass(frozen=True)
class GpuMachine(Machine):
    """A GPU in the place of the processor for which costs are asked.

    dtype: one of `DTYPES`. Dense layers are left to cuBLAS, which is taken to reach its ideal.
    """

    arch: Arch = DEFAULT
    dtype: str = "fp32"

    def format_ns(self, format_: Timed, shape: Shape, threads: int) -> float:
        """Predicted nanoseconds of a layer in a format; infinite where no kernel fits the GPU."""
        if not isinstance(format_, Format):
            return math.inf
        if format_.family == "dense":
            return dense_ns(shape, self.dtype, self.arch)
        if format_.stem == NAME and self.limit(format_, shape) is None:
            return semi_structured_ns(shape, self.dtype, self.arch)
        stored = form_of(format_, shape)
        found = ranked(stored, shape, self.dtype, self.arch)
        other = stored.kind == "csr" and format_.family != "csr"
        return found[0].ns * (AS_CSR if other else 1.0) if found else math.inf

    def limit(self, format_: Timed, shape: Shape) -> No | None:
        """The limit of torch's 2:4 kernels that an exact 2:4 layer breaks."""
        if not isinstance(format_, Format) or format_.stem != NAME:
            return None
        conv = isinstance(shape, ConvShape)
        return limit(shape.rows, shape.columns, self.dtype, self.arch, convolution=conv)

    def dense_flops_per_ns(self, threads: int) -> float:
        """The peak of the matrix units, in whose dtype a dense layer may be computed."""
        return self.arch.dot_rate(self.dtype) / 1e9

    def ideal_ns(self, shape: Shape) -> float | None:
        """The ideal time of a dense layer, and torch's."""
        return dense_ns(shape, self.dtype, self.arch)

    def without_memory(self) -> Machine:
        """The same with memory that costs nothing."""
        return replace(self, arch=replace(self.arch, memory=math.inf))


def gpu_machine(target: str | Arch, dtype: str) -> GpuMachine:
    """What choices for a target reckon with. dtype: "fp32", "tf32", "fp16" or "bf16"."""
    arch = target if isinstance(target, Arch) else find_arch(target)
    return GpuMachine(
        flops_per_ns=arch.fp32 / 1e9, bytes_per_ns=arch.memory / 1e9, arch=arch, dtype=dtype
    )
