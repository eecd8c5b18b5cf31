"""When an exact 2:4 weight goes to torch's semi-structured kernels, and why not: their limits.

The limits are torch 2.13's: CUTLASS's kernels on compute capability 8.x, cuSPARSELt's from 9.0 on.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.refusal import No
from .gpu_arch import Arch

NAME, CODE = "nm_2_4", "semi_structured"
"""The format that such a weight has; the code of its refusals."""


@dataclass(frozen=True)
class Library:
    """Whose kernel torch calls. rows, columns: which the weight's must be multiples of; pads: what
    the other operand's are padded to, by torch."""

    name: str
    rows: int
    columns: int
    pads: int = 8


CUTLASS = Library("CUTLASS", 32, 64)
CUSPARSELT = Library("cuSPARSELt", 16, 16)
_HALF = ("fp16", "bf16")


def library_for(arch: Arch) -> Library | None:
    """The library of an architecture; None where torch has none."""
    if not arch.sparse_tensor:
        return None
    return CUTLASS if int(arch.chip) // 10 == 8 else CUSPARSELT


def limit(
    rows: int, columns: int, dtype: str, arch: Arch, *, convolution: bool = False
) -> No | None:
    """The limit that keeps a 2:4 weight of [rows, columns] from torch's kernels; None for none.

    dtype: fp16, bf16, tf32 or fp32.
    """
    library = library_for(arch)
    if library is None:
        return No(CODE, f"torch has no 2:4 kernel for {arch.label}")
    if convolution:
        return No(CODE, "torch's 2:4 kernels multiply matrices: no convolutions")
    if dtype not in _HALF:
        return No(
            CODE,
            f"torch's 2:4 kernels take fp16 and bf16, not {dtype}, which would need 1:2",
        )
    for size, step, what in ((rows, library.rows, "rows"), (columns, library.columns, "columns")):
        if size % step:
            why = f"{library.name} on {arch.label} takes multiples of {step} {what}, not {size}"
            return No(CODE, why)
    return None
