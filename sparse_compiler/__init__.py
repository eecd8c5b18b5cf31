"""sparse_compiler: zeros in a model's weights go in, a faster model comes out.

Names load on first use, so that importing the package costs next to nothing beyond torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import errors

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import tvm
    from .api import compile, export, inspect, load, shrink
    from .compiled import Compiled
    from .inspector.coupled import find_groups, metrics, sparsify
    from .inspector.report import Report
    from .pruning import (
        BatchNormScale,
        Magnitude,
        Metrics,
        Movement,
        Random,
        Recipe,
        SecondOrder,
        Taylor,
        Wanda,
        WoodFisher,
        insert_masks,
        load_recipe,
        parameter_slack,
    )

_HOMES = {
    "compile": "api",
    "export": "api",
    "inspect": "api",
    "load": "api",
    "metrics": "inspector.coupled",
    "shrink": "api",
    "sparsify": "inspector.coupled",
    "find_groups": "inspector.coupled",
    "BatchNormScale": "pruning",
    "Magnitude": "pruning",
    "Metrics": "pruning",
    "Movement": "pruning",
    "Random": "pruning",
    "Recipe": "pruning",
    "SecondOrder": "pruning",
    "Taylor": "pruning",
    "Wanda": "pruning",
    "WoodFisher": "pruning",
    "insert_masks": "pruning",
    "load_recipe": "pruning",
    "parameter_slack": "pruning",
    "Compiled": "compiled",
    "Report": "inspector.report",
}

__all__ = [
    "BatchNormScale",
    "Compiled",
    "Magnitude",
    "Metrics",
    "Movement",
    "Random",
    "Recipe",
    "Report",
    "SecondOrder",
    "Taylor",
    "Wanda",
    "WoodFisher",
    "__version__",
    "compile",
    "errors",
    "export",
    "find_groups",
    "insert_masks",
    "inspect",
    "load",
    "load_recipe",
    "metrics",
    "parameter_slack",
    "shrink",
    "sparsify",
    "tvm",
]


_FOLDERS = ("tvm",)
"""Sub-packages that load on first use."""


def __getattr__(name: str) -> Any:
    if name in _FOLDERS:
        return import_module(f".{name}", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
