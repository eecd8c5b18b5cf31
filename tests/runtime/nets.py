"""The small models of these tests, and how each is compiled: natively, into the session's cache."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

import sparse_compiler as sc
from sparse_compiler.compiled import Compiled
from sparse_compiler.passes.compare import mismatch

NATIVE = {"force_native": True}


def mlp(seed: int = 0) -> nn.Sequential:
    """24 -> 33 -> 5 with GELU; three quarters of the first weight are zero. In eval mode."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(24, 33), nn.GELU(), nn.Linear(33, 5)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 5)
        model[0].weight[torch.rand(33, 24, generator=generator) < 0.75] = 0
    return model.requires_grad_(False)


def compiled(
    model: nn.Module, *args: Any, options: Mapping[str, Any] | None = None, **kwargs: Any
) -> Compiled:
    """`sc.compile` with everything native that can be."""
    return sc.compile(model, args, options=NATIVE | dict(options or {}), **kwargs)


def check(got: Any, expected: Any) -> None:
    """Same structure, shapes, dtypes and numbers."""
    leaves, spec = pytree.tree_flatten(got)
    wanted, wanted_spec = pytree.tree_flatten(expected)
    assert spec == wanted_spec
    for a, b in zip(leaves, wanted, strict=True):
        assert mismatch(a, b) is None, mismatch(a, b)


def agrees(fast: Compiled, model: nn.Module, *args: Any, **kwargs: Any) -> None:
    """The compiled model gives what the model gives now."""
    with torch.no_grad():
        check(fast(*args, **kwargs), model(*args, **kwargs))
