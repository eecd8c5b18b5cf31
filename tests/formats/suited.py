"""Weights that a format can store, made from any weight."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_compiler.formats.base import Format

BLOCKS = ("block", "sorted")


def thinned(format_: Format, weight: Tensor) -> Tensor:
    """A matrix [M, K] with as many non-zeros in each group of columns as the format can store."""
    if format_.family != "nm":
        return weight
    n, m = format_.parameters
    groups = F.pad(weight, (0, -weight.shape[1] % m)).unflatten(1, (-1, m))
    kept = torch.where((groups != 0).cumsum(2) <= n, groups, 0.0)
    return kept.flatten(1)[:, : weight.shape[1]].contiguous()


def divides(format_: Format, columns: int) -> bool:
    """True where blocks of the format fill so many columns exactly."""
    return format_.family not in BLOCKS or columns % format_.parameters[1] == 0


def suited(format_: Format, weight: Tensor) -> Tensor:
    """The part of a matrix [M, K] that the format can store: columns cut, groups thinned."""
    if format_.family in BLOCKS:
        columns = format_.parameters[1]
        return weight[:, : max(columns, weight.shape[1] // columns * columns)].contiguous()
    return thinned(format_, weight)
