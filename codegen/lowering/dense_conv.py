"""Which kernel a dense convolution gets, and what its weights become for it.

By Winograd's F(2 x 2, 3 x 3), a kernel g becomes the 16 numbers of G g G' (arXiv:1509.09308): a
matrix [rows, channels] for each.
"""

from __future__ import annotations

from dataclasses import replace

from sparse_compiler.ir.types import Dim, TensorType
from sparse_compiler.ops.conv import Conv

POINTS = 16
"""Products for a tile of 2 x 2 outputs."""

LEAST_CHANNELS = 32
"""Inputs and outputs each, below which transforming takes longer than the products that it saves:
about 150 operations a channel and tile, against 20 saved for each output channel."""

LEAST_LINE = 7
"""Outputs of a line, and lines, of which whole tiles are not mostly border."""


STEM_CHANNELS = 8
"""Inputs up to which taking lines apart once is less than gathering each tap from them."""

WIDEST_VECTOR = 16
"""Floats of the widest vectors that kernels are built for."""


def by_winograd(op: Conv, weight: TensorType, sizes: tuple[Dim, ...]) -> bool:
    """True for a dense 3 x 3 convolution of stride 1; sizes: of its images of results."""
    if weight.format != "dense" or weight.shape[2:] != (3, 3) or op.transposed or op.groups > 1:
        return False
    if set(op.stride) != {1} or set(op.dilation) != {1}:
        return False
    known = [size for size in sizes if isinstance(size, int)]
    channels = [size for size in weight.shape[:2] if isinstance(size, int)]
    return (
        len(channels) == 2
        and min(channels) >= LEAST_CHANNELS
        and min(known, default=LEAST_LINE) >= LEAST_LINE
    )


def as_stem(op: Conv, weight: TensorType, sizes: tuple[Dim, ...]) -> bool:
    """True for a dense convolution of stride 2 over few channels; sizes: of its results' images."""
    if weight.format != "dense" or len(sizes) != 2 or op.transposed or op.groups > 1:
        return False
    channels, line = weight.shape[1], sizes[1]
    return (
        set(op.stride) == {2}
        and set(op.dilation) == {1}
        and isinstance(channels, int)
        and channels <= STEM_CHANNELS
        and isinstance(line, int)
        and line >= WIDEST_VECTOR
    )


def products_weight(weight: TensorType) -> TensorType:
    """The type of the transformed weight: one matrix below the other."""
    rows, channels = weight.shape[:2]
    return replace(weight, shape=(POINTS * rows, channels))
