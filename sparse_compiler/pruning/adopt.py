"""Masks of torch.nn.utils.prune become ours: same Parameter, same zeros, no hook.

There `weight` is an attribute that a hook computes before each call, of `weight_orig` and
`weight_mask`; here it is a parametrization of the Parameter that `weight_orig` was.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

from torch import nn
from torch.nn.utils.prune import BasePruningMethod

from sparse_compiler.errors import UnsupportedError
from sparse_compiler.pruning.layers import is_layer
from sparse_compiler.pruning.masks import Mask, attach


def has_hooks(model: nn.Module) -> bool:
    """Whether a linear or convolution weight is pruned by torch.nn.utils.prune."""
    return any(True for _ in _hooked(model))


def copied(model: nn.Module) -> nn.Module:
    """A deep copy. What a pruning hook computed is no leaf of autograd, which torch refuses to
    copy: it is detached first, and computed again at the next call anyway."""
    for module, name, _ in _hooked(model):
        if name in module.__dict__:
            module.__dict__[name] = module.__dict__[name].detach()
    return copy.deepcopy(model)


def adopt(model: nn.Module) -> None:
    """Turns the hooks on weights of linear and convolution layers into `Mask`s, in place.

    Raises UnsupportedError, before anything is changed, for a mask of other values than 0 and 1.
    """
    found = list(_hooked(model))
    for module, name, _ in found:
        mask = getattr(module, f"{name}_mask")
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise UnsupportedError(
                f"a {type(module).__name__}'s {name}_mask holds values other than 0 and 1",
                why="a mask of torch.nn.utils.prune that scales weights is no mask here",
                fix="make it permanent with torch.nn.utils.prune.remove",
            )
    for module, name, key in found:
        mask = getattr(module, f"{name}_mask") != 0
        original = getattr(module, f"{name}_orig")
        del module._forward_pre_hooks[key]
        del module._parameters[f"{name}_orig"], module._buffers[f"{name}_mask"]
        module.__dict__.pop(name, None)
        module.register_parameter(name, original)
        attach(module, name, Mask(mask))


def _hooked(model: nn.Module) -> Iterator[tuple[nn.Module, str, int]]:
    """(layer, tensor name, key of the hook)"""
    for module in model.modules():
        if not is_layer(module):
            continue
        for key, hook in module._forward_pre_hooks.items():
            name = getattr(hook, "_tensor_name", "")
            if isinstance(hook, BasePruningMethod) and name == "weight":
                yield module, name, key


__all__ = ["adopt", "copied", "has_hooks"]
