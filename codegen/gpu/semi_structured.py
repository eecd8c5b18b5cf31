"""An exact 2:4 weight packed for torch's sparse tensor-core kernels, on the CPU.

    W [m, k]  =>  values [m, k / 2], meta: two bits for the place of each value in its four

CUTLASS's layout is made when the model is compiled. cuSPARSELt, which torch uses from compute
capability 9.0 on, has a layout of its own that only it can make, on the GPU: there the weight is
handed over dense, once, when it is loaded.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from sparse_compiler.errors import UnsupportedError
from sparse_compiler.formats.gpu_arch import Arch
from sparse_compiler.formats.semi_structured import CUTLASS, library_for, limit

DTYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}


@dataclass(frozen=True, eq=False)
class Packed24:
    """A packed weight of `shape`; `meta` is None where cuSPARSELt packs it on the device."""

    shape: tuple[int, int]
    values: torch.Tensor
    meta: torch.Tensor | None

    def to_dense(self) -> torch.Tensor:
        """The weight [m, k] as it was."""
        if self.meta is None:
            return self.values
        dense: torch.Tensor = sparse_semi_structured_to_dense_cutlass(  # type: ignore[no-untyped-call]
            self.values, self.meta
        )
        return dense

    def on(self, device: torch.device | str) -> torch.Tensor:
        """The tensor that `torch.mm(weight, x)` multiplies by torch's 2:4 kernels on a GPU."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that torch's interface is a prototype
            if self.meta is None:
                return torch.sparse.to_sparse_semi_structured(self.values.to(device))
            return torch.sparse.SparseSemiStructuredTensorCUTLASS(
                torch.Size(self.shape),
                packed=self.values.to(device),
                meta=self.meta.to(device),
                packed_t=None,
                meta_t=None,
                compressed_swizzled_bitmask=None,
                requires_grad=False,
            )


def arrays_of(matrix: Any) -> dict[str, torch.Tensor]:
    """What memory holds of torch's 2:4 matrix, by name."""
    found = {"number": matrix.packed, "meta": matrix.meta}
    return {name: array for name, array in found.items() if array is not None}


def pack(weight: torch.Tensor, arch: Arch) -> Packed24:
    """Packs a weight [m, k] of fp16 or bf16 with at most two non-zeros in each aligned four.

    Raises `UnsupportedError` naming the limit that it breaks.
    """
    rows, columns = weight.shape
    refused = limit(rows, columns, DTYPES.get(weight.dtype, str(weight.dtype)), arch)
    if refused is not None:
        raise UnsupportedError(f"a weight {rows}x{columns} cannot be 2:4", why=refused.why)
    most = int((weight.view(rows, columns // 4, 4) != 0).sum(-1).max())
    if most > 2:
        raise UnsupportedError("a weight is not 2:4", why=f"four of its numbers hold {most}")
    weight = weight.contiguous()
    if library_for(arch) is not CUTLASS:
        return Packed24((rows, columns), weight, None)
    values, meta = sparse_semi_structured_from_dense_cutlass(weight)  # type: ignore[no-untyped-call]
    return Packed24((rows, columns), values, meta)
