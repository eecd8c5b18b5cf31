"""The commands that take a model: compile, inspect, run; and those of the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from sparse_compiler.terminal import console as _console
from sparse_compiler.terminal import print_json as _print

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A .pt2 or .onnx file, a Relax module as .py or .json, a saved model, a Hugging Face "
        "folder, or module:function, which returns (model, args).",
    ),
]
Batch = Annotated[int, typer.Option(min=1, metavar="N", help="Samples of an example input.")]
Tokens = Annotated[int, typer.Option(min=1, metavar="N", help="Tokens of an example input.")]
Given = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Of an ONNX or Relax file: the size of a dynamic axis, its range as 32..640..32, or "
        "the value of an input of one number.",
    ),
]
Json = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON and nothing else.")]

cache = typer.Typer(help="The folder of compiled kernels.", no_args_is_help=True)


def compile(
    model: Model,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="PATH", help="The file, or a library's folder, to write."
        ),
    ],
    library: Annotated[
        bool,
        typer.Option(
            "--library", metavar="", help="Make a library for C programs, without Python."
        ),
    ] = False,
    target: Annotated[
        str,
        typer.Option(metavar="ISA", help="Of a library: native, x86-64-v3, x86-64-v4 or aarch64."),
    ] = "native",
    batch: Batch = 1,
    tokens: Tokens = 128,
    given: Given = None,
    json: Json = False,
) -> None:
    """Save MODEL ahead of time, for `run`, for sc.load in another program, or for C programs."""
    if target != "native" and not library:
        raise typer.BadParameter("--target needs --library: a saved model serves every machine")
    from sparse_compiler.commands import Example, compile_library, compile_model

    example, console = Example(batch, tokens, tuple(given or ())), _console(json=json)
    if library:
        _print(compile_library(model, output, example, console, target), json)
        return
    _print(compile_model(model, output, example, console), json)


def inspect(
    model: Model,
    after: Annotated[str, typer.Option(metavar="PASS", help="The graph after this pass.")] = "",
    diff: Annotated[
        bool, typer.Option("--diff", metavar="", help="What --after's pass changed.")
    ] = False,
    why: Annotated[str, typer.Option(metavar="LAYER", help="One layer: candidates, reason.")] = "",
    groups: Annotated[
        bool, typer.Option("--groups", metavar="", help="The channels that go together.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report as a page.")
    ] = None,
    explorer: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write Model Explorer's JSON.")
    ] = None,
    batch: Batch = 1,
    tokens: Tokens = 128,
    given: Given = None,
    json: Json = False,
) -> None:
    """Say what became of each layer of MODEL, and why; or show its graph."""
    if diff and not after:
        raise typer.BadParameter("--diff needs --after PASS")
    from sparse_compiler.commands import Example, Inspection, inspect_model

    example, console = Example(batch, tokens, tuple(given or ())), _console(json=json)
    request = Inspection(after, diff, why, html, explorer, groups)
    found = inspect_model(model, example, console, request)
    _print(found, json)


def run(
    model: Model,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Timed calls.")] = 20,
    threads: Annotated[int, typer.Option(min=0, metavar="N", help="0: as torch has it.")] = 0,
    batch: Batch = 1,
    tokens: Tokens = 128,
    given: Given = None,
    json: Json = False,
) -> None:
    """Run MODEL on example inputs: what comes out, and how long a call takes."""
    from sparse_compiler.commands import Example, run_model

    example, console = Example(batch, tokens, tuple(given or ())), _console(json=json)
    _print(run_model(model, example, console, rounds=rounds, threads=threads), json)


@cache.command("list")
def list_cache(json: Json = False) -> None:
    """List compiled kernels, newest first."""
    from sparse_compiler.commands import cache_folder, cached_kernels, print_cache

    folder = cache_folder()
    entries = cached_kernels(folder)
    print_cache(folder, entries, _console(json=json))
    _print({"folder": str(folder), "files": entries}, json)


@cache.command("clear")
def clear(json: Json = False) -> None:
    """Remove all compiled kernels; they are built again when needed."""
    from sparse_compiler.commands import cache_folder, clear_cache

    folder = cache_folder()
    found = {"folder": str(folder), **clear_cache(folder)}
    _console(json=json).print(f"removed {found['removed']} files from {folder}", highlight=False)
    _print(found, json)


@cache.command("size")
def size(json: Json = False) -> None:
    """Print how many bytes the compiled kernels take."""
    from sparse_compiler.commands import cache_folder, cached_kernels

    folder = cache_folder()
    entries = cached_kernels(folder)
    total = sum(entry["bytes"] for entry in entries)
    _console(json=json).print(f"{total} bytes in {len(entries)} files, {folder}", highlight=False)
    _print({"folder": str(folder), "files": len(entries), "bytes": total}, json)


EXAMPLES: Mapping[Callable[..., None], str] = {
    compile: "sparse-compiler compile model.pt2 -o model.scz",
    inspect: "sparse-compiler inspect model.scz --why encoder.fc1",
    run: "sparse-compiler run model.scz --rounds 100",
}


def register(app: typer.Typer) -> None:
    """Adds the commands that take a model to the program's."""
    for command, example in EXAMPLES.items():
        app.command(epilog=f"For instance: {example}")(command)


def register_cache(app: typer.Typer) -> None:
    """Adds `cache` and its own commands."""
    app.add_typer(cache, name="cache")
