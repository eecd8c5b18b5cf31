"""The command that prunes a model: sparsify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparse_compiler import terminal
from sparse_compiler.cli_models import Batch, Json, Tokens


def sparsify(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A Hugging Face folder, a .pt2 file, or module:function, which returns "
            "(model, args).",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="A folder for a Hugging Face folder; a .pt2 file; or a state dict, as "
            ".safetensors or .pt.",
        ),
    ],
    recipe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A recipe in YAML, instead of the options below."),
    ] = None,
    sparsity: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Share of zeros, such as 0.9.")
    ] = None,
    criterion: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="magnitude, wanda, second_order, ...; default magnitude."
        ),
    ] = "",
    pattern: Annotated[
        str, typer.Option(metavar="NAME", help="unstructured, 2:4, 4x1, channel, neuron or head.")
    ] = "",
    scope: Annotated[str, typer.Option(metavar="NAME", help="uniform, row, global or erk.")] = "",
    include: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Layers to prune.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Layers that stay dense.")
    ] = None,
    loss: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="cross_entropy, mse, ..., for data of pairs (inputs, target)."
        ),
    ] = "",
    data: Annotated[
        str,
        typer.Option(
            metavar="MODULE:FUNCTION", help="A function that returns or yields calibration inputs."
        ),
    ] = "",
    batch: Batch = 1,
    tokens: Tokens = 128,
    json: Json = False,
) -> None:
    """Put zeros into MODEL's weights by a recipe, and write it in a form that `compile` takes."""
    from sparse_compiler.command_sparsify import Wish, sparsify_model
    from sparse_compiler.commands import Example

    wish = Wish(
        recipe,
        criterion,
        sparsity,
        pattern,
        scope,
        tuple(include or ()),
        tuple(exclude or ()),
        loss,
    )
    found = sparsify_model(
        model, output, wish, data, Example(batch, tokens), terminal.console(json=json)
    )
    terminal.print_json(found, json)
