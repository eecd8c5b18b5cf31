"""The public functions that compile: compile, export, load, inspect, shrink."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from .compiled import Compiled
from .errors import UnsupportedError, first_line
from .formats.gpu_arch import find_arch
from .frontends.export import ExportedModel, export_module, import_program
from .frontends.foreign import import_foreign, is_foreign
from .inspector.report import Report, report_of
from .ir.interpret import bind_inputs
from .options import Options
from .runtime.gpu_place import placed
from .runtime.pipeline import Pipeline, lower_graph
from .runtime.plain import PlainModule
from .runtime.weights import LiveWeights
from .saved import export_graph, load_compiled
from .standalone import export_library
from .tuned import tuned

Model = torch.nn.Module | torch.export.ExportedProgram | str | Path | Any
"""A module, an exported program, a Relax module (`tvm.IRModule`), or a path: see `compile`."""


def compile(
    model: Model,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    mode: str = "default",
    weights: str = "fp32",
    target: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Compiled:
    """Compiles a model in this process, without Dynamo.

    model: a module in eval mode, an exported program, a TVM Relax module, or the path of a `.pt2`
    or `.onnx` file, or of a Relax module as script (`.py`) or JSON. args, kwargs: example
    arguments, as the model takes them. dynamic_shapes: as `torch.export.export` takes it; such
    dimensions stay symbolic. Of an ONNX file, the names of the axes that stay so, see docs/onnx.md.
    target: "cpu", "cuda", or a GPU by its compute capability as "cuda:90"; left out, it is where
    the model lies. options: see `sparse_compiler.options.Options`.

    Raises `UnsupportedError` for a model that cannot be traced or imported, `OptionError`,
    `ToolchainError`.
    """
    asked = {"mode": mode, "weights": weights, **({"target": target} if target else {})}
    asked |= options or {}
    settings = Options.from_dict(asked)
    settings.configure_logging()
    exported, module, eager = _traced(model, args, kwargs, dynamic_shapes)
    params = exported.imported.params.values()
    settings = placed(settings, params, named="target" in asked)
    live = LiveWeights(exported.imported.params, module)
    hints, sample = _example(exported, args, kwargs, settings)
    if settings.mode == "max-autotune":
        return tuned(exported, live, settings, hints, eager, args, kwargs or {})
    pipeline = Pipeline(exported.imported.graph, live, settings, hints, sample)
    return Compiled(pipeline, exported.call, eager)


def export(
    model: Model,
    args: tuple[Any, ...],
    path: str | Path,
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    library: bool = False,
    weights: str = "fp32",
    target: str = "cpu",
) -> Path:
    """Saves a model ahead of time; `load` makes it a compiled model again, without its code.

    Arguments as `compile`'s. The file's size follows the non-zeros; see docs/saved_models.md. It
    keeps the weights as they are: `weights` is the precision in which `load` will store them.

    library: writes `model.so`, `model.weights` and `model.h` into the folder `path` instead, for C
    programs without Python; see docs/c_library.md. target: of a library, "cpu" for machines like
    this one, or "x86-64-v3", "x86-64-v4", "aarch64"; of a file, "cuda:90" and the like to carry
    kernels compiled for that GPU too, see docs/gpu.md.

    Returns the path. Raises `UnsupportedError` for a model that cannot be traced or saved,
    `ArtifactError` where the file cannot be written; a file that was there before stays whole.
    """
    arch = None if library or target == "cpu" else find_arch(target)
    settings = Options.from_dict({"weights": weights})
    settings.configure_logging()
    exported, _, _ = _traced(model, args, kwargs, dynamic_shapes)
    hints, _ = _example(exported, args, kwargs, settings)
    if library:
        name = "native" if target == "cpu" else target
        return export_library(exported, settings, hints, Path(path), name)
    return export_graph(exported, settings, hints, Path(path), arch)


def load(
    path: str | Path, *, prebuilt: bool = False, options: Mapping[str, Any] | None = None
) -> Compiled:
    """The compiled model in a file that `export` wrote.

    The file is read as data: nothing in it is run, and kernels are built for this machine (once:
    they are cached). Dense weights stay mapped in the file. options: of this machine, see
    `sparse_compiler.options.Options`. prebuilt: to run the kernels for a GPU that the file carries,
    which is running code of whoever made it.

    Raises `ArtifactError` naming the member and the reason.
    """
    return load_compiled(Path(path), options or {}, prebuilt=prebuilt)


def inspect(
    model_or_compiled: Model | Compiled,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    options: Mapping[str, Any] | None = None,
) -> Report:
    """What became of each layer, and why. Compiles nothing when given a model.

    Arguments as `compile`'s; a `Compiled` needs none.
    """
    if isinstance(model_or_compiled, Compiled):
        return model_or_compiled.inspect()
    settings = Options.from_dict(options or {})
    exported, module, _ = _traced(model_or_compiled, args, kwargs, dynamic_shapes)
    params = exported.imported.params.values()
    settings = placed(settings, params, named="target" in (options or {}))
    weights = LiveWeights(exported.imported.params, module)
    hints, _ = _example(exported, args, kwargs, settings)
    lowered = lower_graph(exported.imported.graph, weights, settings, hints)
    return report_of(lowered, tensors=weights.tensors)


def shrink(
    model: torch.nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
) -> torch.nn.Module:
    """The same results from a plain module of smaller standard layers.

    model: in eval mode; what is zero, constant or unread in it is taken out, see docs/structure.md.
    args, kwargs: example arguments. dynamic_shapes: as `torch.export.export` takes it; by default
    the first dimension of every argument may change where the model allows it, and no other.

    The result is a `torch.fx.GraphModule` on `nn.Linear`, `nn.Conv2d` and the like under the paths
    that they had, with a `state_dict`, in need of torch alone; `.plan` says for each tensor what it
    was made of. Raises `UnsupportedError` for a model that cannot be traced, or is training.
    """
    from .frontends.shrink import shrink_module

    return shrink_module(model, args, kwargs, dynamic_shapes)


def _traced(
    model: Model, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, dynamic_shapes: Any
) -> tuple[ExportedModel, torch.nn.Module | None, Callable[..., Any]]:
    """The graph, the module whose weights may be replaced, and what runs while training."""
    if is_foreign(model):
        exported = import_foreign(model, args, kwargs, dynamic_shapes)
        imported = exported.imported
        return exported, None, PlainModule(imported.graph, imported.params, exported.call)
    if isinstance(model, (str, Path)):
        model = load_program(Path(model))
    if isinstance(model, torch.export.ExportedProgram):
        return import_program(model), None, model.module()
    if not isinstance(model, torch.nn.Module):
        raise UnsupportedError(
            f"cannot compile a {type(model).__name__}",
            fix="give a torch.nn.Module, an ExportedProgram, a Relax IRModule, or the path of "
            "a .pt2, .onnx, Relax script or JSON file",
        )
    return export_module(model, args, kwargs, dynamic_shapes), model, model


def load_program(path: Path) -> torch.export.ExportedProgram:
    """A program that `torch.export.save` wrote. Raises `UnsupportedError`."""
    if path.suffix != ".pt2" or not path.is_file():
        raise UnsupportedError(
            f"cannot read a model from {path}",
            why="it is not the path of an existing .pt2 file",
            fix="save one with torch.export.save",
        )
    try:
        return torch.export.load(path)
    except (RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UnsupportedError(
            f"cannot read a model from {path}",
            why=first_line(error),
            fix="save it again with torch.export.save, in this version of torch",
        ) from error


def _example(
    exported: ExportedModel,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    settings: Options,
) -> tuple[dict[str, int], tuple[torch.Tensor, ...] | None]:
    """Sizes of symbols in the example arguments, and the arguments where verify=2 needs them."""
    if not args and not kwargs:
        return {}, None
    inputs = exported.call.flatten(args, kwargs or {})
    hints = bind_inputs(exported.imported.graph, inputs)
    return hints, tuple(inputs) if settings.verify >= 2 else None


__all__ = ["compile", "export", "inspect", "load", "shrink"]
