"""The public functions: compile, inspect, sparsify."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from .compiled import Compiled
from .errors import UnsupportedError
from .frontends.export import ExportedModel, export_module, import_program
from .inspector.report import Report, report_of
from .ir.interpret import bind_inputs
from .options import Options
from .pruning import sparsify
from .runtime.pipeline import Pipeline, lower_graph
from .runtime.weights import LiveWeights

Model = torch.nn.Module | torch.export.ExportedProgram | str | Path


def compile(
    model: Model,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    mode: str = "default",
    weights: str = "fp32",
    target: str = "cpu",
    options: Mapping[str, Any] | None = None,
) -> Compiled:
    """Compiles a model in this process, without Dynamo.

    model: a module in eval mode, an exported program, or the path of a `.pt2` file. args, kwargs:
    example arguments, as the model takes them. dynamic_shapes: as `torch.export.export` takes it;
    such dimensions stay symbolic. options: see `sparse_compiler.options.Options`.

    Raises `UnsupportedError` for a model that torch.export cannot trace, `OptionError`,
    `ToolchainError`.
    """
    settings = Options.from_dict(
        {"mode": mode, "weights": weights, "target": target, **(options or {})}
    )
    settings.configure_logging()
    exported, module, eager = _traced(model, args, kwargs, dynamic_shapes)
    pipeline = Pipeline(
        exported.imported.graph,
        LiveWeights(exported.imported.params, module),
        settings,
        *_example(exported, args, kwargs, settings),
    )
    return Compiled(pipeline, exported.call, eager)


def inspect(
    model_or_compiled: Model | Compiled,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Report:
    """What became of each layer, and why. Compiles nothing when given a model.

    Arguments as `compile`'s; a `Compiled` needs none.
    """
    if isinstance(model_or_compiled, Compiled):
        return model_or_compiled.inspect()
    settings = Options.from_env()
    exported, module, _ = _traced(model_or_compiled, args, kwargs, None)
    weights = LiveWeights(exported.imported.params, module)
    hints, _ = _example(exported, args, kwargs, settings)
    return report_of(lower_graph(exported.imported.graph, weights, settings, hints))


def _traced(
    model: Model, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, dynamic_shapes: Any
) -> tuple[ExportedModel, torch.nn.Module | None, Callable[..., Any]]:
    """The graph, the module whose weights may be replaced, and what runs while training."""
    if isinstance(model, (str, Path)):
        model = _load_program(Path(model))
    if isinstance(model, torch.export.ExportedProgram):
        return import_program(model), None, model.module()
    if not isinstance(model, torch.nn.Module):
        raise UnsupportedError(
            f"cannot compile a {type(model).__name__}",
            fix="give a torch.nn.Module, an ExportedProgram or the path of a .pt2 file",
        )
    return export_module(model, args, kwargs, dynamic_shapes), model, model


def _load_program(path: Path) -> torch.export.ExportedProgram:
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
            why=str(error).strip().split("\n")[0],
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


__all__ = ["compile", "inspect", "sparsify"]
