"""Masks as torch parametrizations: `module.weight` becomes where(mask, original, 0).

`original` stays the same Parameter, so optimizers need no change; masked weights get no gradient
and no value they take, NaN included, shows. `parametrize.remove_parametrizations(module,
"weight")` leaves the masked weight as a plain Parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize


class Mask(nn.Module):
    """Parametrization with a bool buffer `mask` shaped as the weight: True is kept.

    Two weights that are tied share one Mask object.
    """

    mask: torch.Tensor

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return torch.where(self.mask, weight, 0.0)  # not a product: NaN · 0 is NaN

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """`module.weight = w` stores all of w; what is masked does not show."""
        return weight

    def extra_repr(self) -> str:
        if self.mask.is_meta:
            return f"shape={tuple(self.mask.shape)}"
        zeros = self.mask.numel() - int(self.mask.sum())
        return f"shape={tuple(self.mask.shape)}, zeros={zeros}"


def masks_of(module: nn.Module, tensor_name: str) -> Iterator[Mask]:
    """The masks that stand on `module.<tensor_name>` already."""
    if parametrize.is_parametrized(module, tensor_name):
        chain = module.parametrizations[tensor_name]  # type: ignore[index]
        yield from (step for step in chain if isinstance(step, Mask))


def attach(module: nn.Module, tensor_name: str, mask: Mask) -> None:
    """Put `mask` on `module.<tensor_name>`, after any parametrization that stands there."""
    parametrize.register_parametrization(module, tensor_name, mask)
    # torch gives each parametrized module a class of its own and forbids to pickle it, since
    # pickle cannot find that class by name. It can be made again from the class below it.
    type(module).__reduce_ex__ = _reduce  # type: ignore[method-assign, assignment]


def make_plain(model: nn.Module) -> nn.Module:
    """`model` itself, its masks gone and their zeros in the weights: the same results."""
    for module in list(model.modules()):
        chains = getattr(module, "parametrizations", {})
        for name in [n for n, chain in chains.items() if any(isinstance(s, Mask) for s in chain)]:
            parametrize.remove_parametrizations(module, name)
    return model


def _reduce(module: nn.Module, protocol: int) -> Any:
    """Pickle as the plain module with its original weights, and the masks to attach again."""
    state = dict(module.__dict__)
    for kind in ("_modules", "_parameters", "_buffers"):
        state[kind] = dict(state[kind])
    masks: dict[str, list[nn.Module]] = {}
    for name, chain in state["_modules"].pop("parametrizations").items():
        masks[name] = list(chain)
        if not all(isinstance(step, Mask) for step in masks[name]):
            return object.__reduce_ex__(module, protocol)  # torch's refusal: not ours to rebuild
        kind = "_parameters" if isinstance(chain.original, nn.Parameter) else "_buffers"
        state[kind][name] = chain.original
    base = type(module).__bases__[0]
    return _new, (base,), (state, masks), None, None, _restore


def _new(cls: type[nn.Module]) -> nn.Module:
    return cls.__new__(cls)  # not copyreg.__newobj__: pickle holds that one to the object's class


def _restore(module: nn.Module, state: tuple[dict[str, Any], dict[str, list[Mask]]]) -> None:
    plain, masks = state
    module.__setstate__(plain)  # type: ignore[no-untyped-call]
    for name, chain in masks.items():
        for mask in chain:
            attach(module, name, mask)
