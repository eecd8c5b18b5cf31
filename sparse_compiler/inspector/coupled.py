"""Pruning that looks at the model's graph: groups of channels, and which weights still matter.

The graph is that of `torch.export`, with attention, norms and activations recognised, so that a
model written with plain operators shows its heads too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparse_compiler import pruning
from sparse_compiler.errors import UnsupportedError
from sparse_compiler.frontends.export import export_module
from sparse_compiler.frontends.importer import Imported
from sparse_compiler.ir.graph import Graph
from sparse_compiler.options import Options
from sparse_compiler.passes.base import Context, Pass
from sparse_compiler.passes.eliminate_dead_channels import EliminateDeadChannels
from sparse_compiler.passes.eliminate_dead_nodes import EliminateDeadNodes
from sparse_compiler.passes.pipeline import run_passes
from sparse_compiler.passes.recognize_activations import RecognizeActivations
from sparse_compiler.passes.recognize_attention import RecognizeAttention
from sparse_compiler.passes.recognize_layer_norm import RecognizeLayerNorm
from sparse_compiler.passes.recognize_rms_norm import RecognizeRmsNorm
from sparse_compiler.passes.recognize_rotary import RecognizeRotary
from sparse_compiler.passes.sink_expands import SinkExpands
from sparse_compiler.pruning.calibration import evaluating
from sparse_compiler.pruning.coupling import FINDERS, couple, layer_path
from sparse_compiler.pruning.groups import Group
from sparse_compiler.pruning.layers import find_layers
from sparse_compiler.pruning.metrics import Metrics
from sparse_compiler.pruning.recipe import Recipe
from sparse_compiler.pruning.recipe_file import load_recipe

_RECOGNIZE: tuple[Pass, ...] = (
    RecognizeRmsNorm(),
    RecognizeLayerNorm(),
    RecognizeActivations(),
    RecognizeRotary(),
    RecognizeAttention(),
    SinkExpands(),
    EliminateDeadNodes(),
)

Arguments = tuple[Any, ...] | None
Keywords = Mapping[str, Any] | None


def sparsify(
    model: nn.Module,
    recipe: Recipe | str | Path,
    data: Iterable[object] | None = None,
    *,
    args: Arguments = None,
    kwargs: Keywords = None,
    inplace: bool = False,
) -> nn.Module:
    """Insert masks into `model` as `recipe` says; see `sparse_compiler.pruning.sparsify`.

    args, kwargs: example arguments of the model, to see which channels hang together. The patterns
    "neuron" and "head" need them; with them "channel" drops the same channel of all layers that
    write it (those of a residual sum), and leaves the channels that the model gives out; without,
    the rows of each layer by itself.
    """
    if isinstance(recipe, str | Path):
        recipe = load_recipe(recipe)
    groups = None
    given = args is not None or kwargs is not None
    if given and isinstance(recipe, Recipe) and recipe.parsed_pattern().grouped:
        groups = find_groups(model, recipe.pattern, args or (), kwargs)
    return pruning.sparsify(model, recipe, data, inplace=inplace, groups=groups)


def find_groups(
    model: nn.Module, pattern: str, args: tuple[Any, ...], kwargs: Keywords = None
) -> tuple[Group, ...]:
    """The units of `pattern` ("channel", "neuron" or "head") in a model; they print as text.

    Raises UnsupportedError for another pattern, and for a model that torch.export cannot trace.
    """
    if pattern not in FINDERS:
        raise UnsupportedError(
            f'pattern "{pattern}" has no groups', fix=f"use {' or '.join(FINDERS)}"
        )
    graph, params = traced(model, args, kwargs)
    return tuple(FINDERS[pattern](couple(graph, params)))


def metrics(model: nn.Module, args: Arguments = None, kwargs: Keywords = None) -> Metrics:
    """Sparsity, effective sparsity, FLOPs and bytes of `model`, masks applied; `.text()` prints.

    args, kwargs: example arguments. Without them there are no FLOPs and no effective sparsity.
    Formulas stand at `sparse_compiler.pruning.metrics.Metrics`.

    Raises UnsupportedError for a model without linear or convolution layers, and for one that
    torch.export cannot trace.
    """
    if args is None and kwargs is None:
        return pruning.metrics(model)
    graph, params = traced(model, args or (), kwargs)
    context = Context(params=params)
    EliminateDeadChannels().run(graph, context)
    example = pruning.Call(args or (), kwargs or {})
    return pruning.metrics(model, example, effective=_effective(model, graph, context))


def traced(
    model: nn.Module, args: tuple[Any, ...], kwargs: Keywords
) -> tuple[Graph, dict[str, torch.Tensor]]:
    """A model's graph with attention, norms and activations recognised, and its tensors."""
    with evaluating(model):
        return recognised(export_module(model, args, kwargs, None).imported)


def recognised(imported: Imported) -> tuple[Graph, dict[str, torch.Tensor]]:
    """The same for a model that is traced already."""
    options = Options.from_dict({})
    graph, _ = run_passes(imported.graph, Context(), options, passes=_RECOGNIZE)
    return graph, {name: tensor.detach() for name, tensor in imported.params.items()}


def _effective(model: nn.Module, graph: Graph, context: Context) -> dict[str, int]:
    """Layer -> non-zeros that are left of it once everything dead is taken out."""
    every = {path: layer for layer in find_layers(model) for path in layer.paths}
    if context.structure is None:
        return {x.name: int(x.values.count_nonzero()) for x in every.values()}
    by_node = {node.name: layer_path(graph, node) for node in graph.nodes}
    found = dict.fromkeys((layer.name for layer in every.values()), 0)
    for removed in context.structure.layers:
        path = by_node.get(removed.layer)
        if path in every:
            name = every[path].name
            found[name] = max(found[name], removed.effective)
    return found
