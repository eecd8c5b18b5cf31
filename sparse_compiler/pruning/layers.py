"""Which weights can be pruned, and each of them as a matrix [output, the rest].

A weight is a Parameter, not a place: one that is tied is listed once, with all its holders.
Linear and convolution layers qualify, transposed ones too, and transformers' Conv1D.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import cast

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from sparse_compiler.pruning.masks import Mask, masks_of


@dataclass(frozen=True)
class MatrixView:
    """weight -> reshape(`split`) -> permute(`order`) -> reshape [`rows`, the rest], and back."""

    shape: tuple[int, ...]
    split: tuple[int, ...]
    order: tuple[int, ...]
    rows: int

    @property
    def columns(self) -> int:
        return math.prod(self.shape) // self.rows if self.rows else 0

    def matrix(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.reshape(self.split).permute(self.order).reshape(self.rows, self.columns)

    def weight(self, matrix: torch.Tensor) -> torch.Tensor:
        """The inverse; contiguous."""
        permuted = matrix.reshape([self.split[axis] for axis in self.order])
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return permuted.permute(back).reshape(self.shape).contiguous()


@dataclass(frozen=True)
class Holder:
    """A place where a weight is used: `module`.`tensor_name`, the module at `path`."""

    path: str
    module: nn.Module
    tensor_name: str

    @property
    def name(self) -> str:
        return f"{self.path}.{self.tensor_name}" if self.path else self.tensor_name


@dataclass(frozen=True, eq=False)
class Layer:
    """A weight that can be pruned. `holders` are all its users, embeddings tied to it included;
    the first of `paths` names it. `first_conv`: it belongs to the model's first convolution."""

    paths: tuple[str, ...]
    holders: tuple[Holder, ...]
    first_conv: bool

    @property
    def name(self) -> str:
        return self.paths[0]

    @property
    def module(self) -> nn.Module:
        """The linear or convolution layer at the first of `paths`."""
        return next(h.module for h in self.holders if h.path == self.name)

    @property
    def modules(self) -> list[nn.Module]:
        """The linear and convolution layers that read the weight, each once."""
        found = (h.module for h in self.holders if h.path in self.paths)
        return list({id(module): module for module in found}.values())

    @property
    def originals(self) -> list[torch.Tensor]:
        """The Parameters that the weight is computed from, where it is parametrized."""
        module, name = self.module, "weight"
        if not parametrize.is_parametrized(module, name):
            return [self.weight]
        chain = module.parametrizations[name]  # type: ignore[index]
        return list(chain.parameters(recurse=False))  # type: ignore[union-attr]

    @property
    def weight(self) -> torch.Tensor:
        """The weight as the layer sees it: masks, and other parametrizations, applied."""
        return cast(torch.Tensor, self.module.weight)

    @property
    def values(self) -> torch.Tensor:
        """The weight, detached, in f32 where it has half precision."""
        weight = self.weight.detach()
        half = weight.dtype in (torch.float16, torch.bfloat16)
        return weight.float() if half else weight  # sums over blocks outgrow half precision

    @property
    def assignable(self) -> bool:
        """Whether the weight is stored as it is, with nothing but masks over it."""
        if not parametrize.is_parametrized(self.module, "weight"):
            return isinstance(self.weight, nn.Parameter)
        chain = self.module.parametrizations["weight"]  # type: ignore[index]
        plain = isinstance(getattr(chain, "original", None), nn.Parameter)
        return plain and all(isinstance(step, Mask) for step in chain)

    def assign(self, weight: torch.Tensor) -> None:
        """Stores `weight`, shaped as the weight, under the masks. In place: optimizers keep it."""
        self.originals[0].copy_(weight)

    @property
    def view(self) -> MatrixView:
        return _matrix_view(self.module, tuple(self.weight.shape))

    @property
    def erk_shape(self) -> tuple[int, ...]:
        """[outputs, inputs per group, kernel...]"""
        view, kernel = self.view, tuple(getattr(self.module, "kernel_size", ()))
        return (view.rows, view.columns // max(math.prod(kernel), 1), *kernel)

    @property
    def masks(self) -> list[Mask]:
        """Masks that stand on the weight already, each once."""
        found = (mask for h in self.holders for mask in masks_of(h.module, h.tensor_name))
        return list({id(mask): mask for mask in found}.values())

    @property
    def live(self) -> torch.Tensor:
        """bool, shaped as the weight: False where a mask stands already."""
        every = torch.ones(self.weight.shape, dtype=torch.bool, device=self.weight.device)
        return reduce(torch.logical_and, (mask.mask for mask in self.masks), every)


def find_layers(model: nn.Module) -> Iterator[Layer]:
    """All linear and convolution weights of `model`, in the order of its modules."""
    holders: dict[int, list[Holder]] = {}
    for path, module in model.named_modules():
        for tensor_name, original in _parameters(module):
            holders.setdefault(id(original), []).append(Holder(path, module, tensor_name))
    paths: dict[int, list[str]] = {}
    first_conv: int | None = None
    for path, module in model.named_modules():
        if not is_layer(module):
            continue
        key = next((id(p) for name, p in _parameters(module) if name == "weight"), id(module))
        paths.setdefault(key, []).append(path)
        if first_conv is None and isinstance(module, _ConvNd):
            first_conv = key
        if key == id(module):  # the weight is computed by a hook: listed, to be refused by name
            holders[key] = [Holder(path, module, "weight")]
    for key, names in paths.items():
        yield Layer(tuple(names), tuple(holders[key]), key == first_conv)


def is_layer(module: nn.Module) -> bool:
    """Linear and convolution layers, and transformers' Conv1D."""
    if isinstance(module, nn.Linear | _ConvNd):
        return True
    # transformers.pytorch_utils.Conv1D, known by name: transformers need not be installed
    base = type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)
    if base.__name__ != "Conv1D" or not hasattr(module, "nf"):
        return False
    return cast(torch.Tensor, module.weight).dim() == 2


def _parameters(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """(tensor name, what it is stored as), parametrized ones under their own name."""
    if isinstance(module, parametrize.ParametrizationList):
        return
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield name, parameter
    if parametrize.is_parametrized(module):
        for name, chain in module.parametrizations.items():  # type: ignore[union-attr, operator]
            yield name, chain.original if chain.is_tensor else chain.original0


def _matrix_view(module: nn.Module, shape: tuple[int, ...]) -> MatrixView:
    straight = tuple(range(len(shape)))
    if isinstance(module, nn.Linear):
        return MatrixView(shape, shape, straight, shape[0])
    if isinstance(module, _ConvTransposeNd):  # stored [input, output / groups, ...]
        groups = module.groups
        split = (groups, shape[0] // groups, *shape[1:])
        order = (0, 2, 1, *range(3, len(split)))
        return MatrixView(shape, split, order, groups * shape[1])
    if isinstance(module, _ConvNd):
        return MatrixView(shape, shape, straight, shape[0])
    return MatrixView(shape, shape, (1, 0), shape[1])  # Conv1D, stored [input, output]
