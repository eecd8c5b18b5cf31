"""Models that are not torch's: Relax modules and ONNX files, told apart without importing TVM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import OptionError
from .export import ExportedModel
from .tvm_version import require_tvm

SUFFIXES = (".onnx", ".py", ".json")


def is_relax(model: Any) -> bool:
    """True for a `tvm.IRModule`."""
    kind = type(model)
    return kind.__module__.split(".")[0] == "tvm" and kind.__name__ == "IRModule"


def is_foreign(model: Any) -> bool:
    """True for a Relax module, and for the path of one or of an ONNX file."""
    if isinstance(model, (str, Path)):
        return Path(model).suffix in SUFFIXES
    return is_relax(model)


def import_foreign(
    model: Any, args: tuple[Any, ...] = (), kwargs: Any = None, dynamic_shapes: Any = None
) -> ExportedModel:
    """The graph of a model for which `is_foreign` holds; arguments as `sc.compile`'s.

    Raises `UnsupportedError` where TVM is not installed, or for what cannot be imported.
    """
    path = Path(model) if isinstance(model, (str, Path)) else None
    require_tvm("a Relax module" if path is None else str(path))
    if path is not None and path.suffix == ".onnx":
        from .onnx import import_onnx

        return import_onnx(path, args, kwargs, dynamic_shapes)
    from .relax import import_relax, read_params, read_relax

    if dynamic_shapes is not None:
        raise OptionError(
            "dynamic_shapes is given with a Relax module",
            why="which of its sizes may change is said in the types of its inputs",
            fix="leave it out; a size that may change is a symbol, as n in R.Tensor((n, 128))",
        )
    if path is None:
        return import_relax(model)
    return import_relax(read_relax(path), params=read_params(path))


__all__ = ["SUFFIXES", "import_foreign", "is_foreign", "is_relax"]
