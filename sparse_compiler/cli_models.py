"""The commands that take a model: compile, inspect, run; and those of the cache."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

Model = Annotated[
    str,
    typer.Argument(
        help="A .pt2 file, a saved model, a Hugging Face folder, or module:function, which "
        "returns (model, args)."
    ),
]
Batch = Annotated[int, typer.Option(min=1, help="Samples of an example input.")]
Tokens = Annotated[int, typer.Option(min=1, help="Tokens of an example input.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]

cache = typer.Typer(help="The folder of compiled kernels.", no_args_is_help=True)


def compile(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    batch: Batch = 1,
    tokens: Tokens = 128,
    json: Json = False,
) -> None:
    """Save MODEL ahead of time, for `run`, or for sc.load in another program."""
    from sparse_compiler.commands import Example, compile_model

    console = _console(json)
    _print(compile_model(model, output, Example(batch, tokens), console), json)


def inspect(
    model: Model,
    after: Annotated[str, typer.Option(metavar="PASS", help="The graph after this pass.")] = "",
    diff: Annotated[bool, typer.Option("--diff", help="What --after's pass changed.")] = False,
    why: Annotated[str, typer.Option(metavar="LAYER", help="One layer: candidates, reason.")] = "",
    html: Annotated[Path | None, typer.Option(help="Write the report as a page.")] = None,
    explorer: Annotated[Path | None, typer.Option(help="Write Model Explorer's JSON.")] = None,
    batch: Batch = 1,
    tokens: Tokens = 128,
    json: Json = False,
) -> None:
    """Say what became of each layer of MODEL, and why; or show its graph."""
    from sparse_compiler.commands import Example, Inspection, inspect_model

    if diff and not after:
        raise typer.BadParameter("--diff needs --after PASS")
    example, console = Example(batch, tokens), _console(json)
    request = Inspection(after, diff, why, html, explorer)
    found = inspect_model(model, example, console, request)
    _print(found, json)


def run(
    model: Model,
    rounds: Annotated[int, typer.Option(min=1, help="Timed calls.")] = 20,
    threads: Annotated[int, typer.Option(min=0, help="0: as torch has it.")] = 0,
    batch: Batch = 1,
    tokens: Tokens = 128,
    json: Json = False,
) -> None:
    """Run MODEL on example inputs: what comes out, and how long a call takes."""
    from sparse_compiler.commands import Example, run_model

    example, console = Example(batch, tokens), _console(json)
    _print(run_model(model, example, console, rounds=rounds, threads=threads), json)


@cache.command("list")
def list_cache(json: Json = False) -> None:
    """List compiled kernels, newest first."""
    from sparse_compiler.commands import cache_folder, cached_kernels, print_cache

    folder = cache_folder()
    entries = cached_kernels(folder)
    print_cache(folder, entries, _console(json))
    _print({"folder": str(folder), "files": entries}, json)


@cache.command("clear")
def clear(json: Json = False) -> None:
    """Remove all compiled kernels; they are built again when needed."""
    from sparse_compiler.commands import cache_folder, clear_cache

    folder = cache_folder()
    found = {"folder": str(folder), **clear_cache(folder)}
    _console(json).print(f"removed {found['removed']} files from {folder}", highlight=False)
    _print(found, json)


@cache.command("size")
def size(json: Json = False) -> None:
    """Print how many bytes the compiled kernels take."""
    from sparse_compiler.commands import cache_folder, cached_kernels

    folder = cache_folder()
    entries = cached_kernels(folder)
    total = sum(entry["bytes"] for entry in entries)
    _console(json).print(f"{total} bytes in {len(entries)} files, {folder}", highlight=False)
    _print({"folder": str(folder), "files": len(entries), "bytes": total}, json)


def register(app: typer.Typer) -> None:
    """Adds these commands to the program's."""
    for command in (compile, inspect, run):
        app.command()(command)
    app.add_typer(cache, name="cache")


def _console(json: bool) -> Console:
    return Console(quiet=json)


def _print(found: dict[str, Any], json: bool) -> None:
    if json:
        typer.echo(json_text.dumps(found, indent=1, default=str))
