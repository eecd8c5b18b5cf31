"""Passes for TVM's own pipeline: sparse layers of a Relax module run in our kernels.

Needs apache-tvm, which loads on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..frontends.tvm_version import require_tvm

if TYPE_CHECKING:
    from .partition import SparseConv2d, SparseLinear

__all__ = ["SparseConv2d", "SparseLinear"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_tvm(f"sc.tvm.{name}")
    value = getattr(import_module(".partition", __name__), name)
    globals()[name] = value
    return value
