"""sparse_compiler: zeros in a model's weights go in, a faster model comes out.

Names load on first use, so that importing the package costs next to nothing beyond torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import errors

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import compile, inspect, sparsify
    from .compiled import Compiled
    from .inspector.report import Report
    from .pruning import Magnitude

_HOMES = {
    "compile": "api",
    "inspect": "api",
    "sparsify": "api",
    "Magnitude": "pruning",
    "Compiled": "compiled",
    "Report": "inspector.report",
}

__all__ = [
    "Compiled",
    "Magnitude",
    "Report",
    "__version__",
    "compile",
    "errors",
    "inspect",
    "sparsify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
