"""A linear layer whose weight is exactly 2:4: torch's sparse tensor-core product, our epilogue.

y = f(W x)   =>   p = torch.mm(W, x) on the planes of x;   y = f(p), a sweep over planes
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparse_compiler.codegen.gpu.source import Printer, each_element, planes_args
from sparse_compiler.codegen.operands import Planes, ld_of
from sparse_compiler.codegen.program import Call, Segment
from sparse_compiler.formats.base import FORMATS
from sparse_compiler.formats.gpu_arch import Arch
from sparse_compiler.formats.semi_structured import NAME, limit

FINISH = """\
def $name(out, ldo, product, ldp, P, M, $params HIGH: tl.constexpr, WIDE: tl.constexpr):
    row = tl.program_id(0) * HIGH + tl.arange(0, HIGH)[:, None]
    at = tl.program_id(1) * WIDE + tl.arange(0, WIDE)[None, :]
    mask = (row < M) & (at < P)
    x0 = tl.load(product + row * ldp + at, mask=mask, other=0.0).to(tl.float32)
$epilogue
    value = value + tl.zeros([HIGH, WIDE], tl.float32)
    tl.store(out + row * ldo + at, value.to(out.dtype.element_ty), mask=mask)
"""


@dataclass(frozen=True)
class SparseProduct:
    """An argument that torch computes before the launch: weight number `weight` times the planes
    `x`, of which it reads `depth`; lines as far apart as those of x."""

    weight: int
    x: Planes
    depth: int


def is_sparse_dot(segment: Segment, call: Call, dtype: str, arch: Arch) -> bool:
    """Whether torch's 2:4 kernels multiply by a call's weight: exact, and within their limits."""
    if call.weight is None or not call.kernel.startswith("linear"):
        return False
    entry = segment.weights[call.weight]
    if entry.groups != 1 or FORMATS[str(entry.type.format)].stem != NAME:
        return False
    rows, columns = (int(size) for size in entry.type.shape)
    return limit(rows, columns, dtype, arch) is None


def print_sparse_dot(printer: Printer, call: Call) -> None:
    """The launch of the epilogue, on the product that torch makes."""
    arguments: tuple[Any, ...] = call.args
    weight, x, to, columns, _, functor = arguments
    rows, depth = printer.segment.weights[weight.index].type.shape
    product = SparseProduct(weight.index, x, int(depth))
    tile, grid = each_element(int(rows), columns)
    args = {**planes_args(to), "product": product, "ldp": ld_of(x.space), **tile}
    printer.launch(FINISH, "sparse_dot", args, grid, call.label, functors={"epilogue": functor})


__all__ = ["SparseProduct", "is_sparse_dot", "print_sparse_dot"]
