"""What ops on images [B, C, *sizes] share: their layout, and the arithmetic of windows.

In planes the channels are the rows and a row holds the samples one after another, `{1|0,2,3}`;
there are no borders around an image, the kernels that need one make it as they read.
"""

from __future__ import annotations

from torch.utils._sympy.functions import FloorDiv, Min

from ..errors import VerifyError
from ..ir.op import Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Dim, Layout, TensorType, Type, as_dim


def channel_planes(rank: int) -> Layout:
    """The layout in which dimension 1 counts planes: `{1|0,2,3}` for rank 4."""
    return Layout((1, 0, *range(2, rank)), 1)


def image_in_planes(
    op: Op, types: tuple[Type, ...], weight_time: tuple[bool, ...], operands: int = 1
) -> tuple[Layout | None, ...] | No:
    """What an op over windows or channels needs: the one layout it has a kernel for.

    Inputs from 1 to `operands` are vectors. Asked for with the input outside of planes too, since
    the op has no row-major kernel; whether the copy pays is the caller's question.
    """
    tensors = tensor_inputs(op, types, 1, 64)
    x = tensors[0]
    if x.dtype != "f32":
        return No("dtype_unsupported", f"kernels compute in f32, this op in {x.dtype}")
    if not isinstance(x.shape[1], int):
        return No("symbolic_channels", f"the number of channels, {x.shape[1]}, is not fixed")
    if not all(weight_time[1:operands]):
        return No("weight_is_computed", "a vector that it reads changes from call to call")
    return (channel_planes(x.rank), *(None for _ in tensors[1:operands]))


def spatial(op: Op, x: TensorType, count: int) -> tuple[Dim, ...]:
    """The `count` sizes of an image [B, C, *sizes]. Raises `VerifyError` on another rank."""
    if x.rank != 2 + count or not count:
        raise VerifyError(f"{op.name} over {count} dimensions of {x.shape}")
    return x.shape[2:]


def floor_div(a: Dim, b: int) -> Dim:
    """a // b, also of symbols, written as torch writes it."""
    return a // b if isinstance(a, int) else as_dim(FloorDiv(a, b))


def window_count(
    size: Dim, kernel: int, stride: int, padding: int, dilation: int, *, ceil_mode: bool = False
) -> Dim:
    """How many windows fit along a dimension padded by `padding` on either side.

    ceil_mode: a window may hang over the end, but one that starts in the padding does not count
    (torch's `pooling_output_shape`).
    """
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return as_dim(floor_div(as_dim(span), stride) + 1)
    up = as_dim(floor_div(as_dim(span + stride - 1), stride) + 1)
    if stride + padding <= dilation * (kernel - 1) + 1:
        return up  # then the last window that hangs over always starts inside
    last = as_dim(floor_div(as_dim(size + padding - 1), stride) + 1)
    if isinstance(up, int) and isinstance(last, int):
        return min(up, last)
    return as_dim(Min(up, last))  # type: ignore[no-untyped-call]


def check_positive(op: Op, **fields: tuple[int, ...]) -> None:
    """Raises `VerifyError` where a size among the attributes is not at least 1."""
    for name, values in fields.items():
        if any(value < 1 for value in values):
            raise VerifyError(f"{op.name} with {name}={values}, which must be positive")


def check_shape(op: Op, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """`shape`, unless a dimension of the result is known to be negative."""
    if any(isinstance(dim, int) and dim < 0 for dim in shape):
        raise VerifyError(f"{op.name} gives the shape {shape}")
    return shape
