"""`sparse-compiler`: the command line. Each command imports what it needs when it is called."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sparse_compiler import cli_models
from sparse_compiler.errors import SparseCompilerError

app = typer.Typer(
    name="sparse-compiler",
    help="A sparsity compiler for PyTorch: zeros go in, speed comes out.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


@app.callback()
def _root() -> None:
    """A sparsity compiler for PyTorch: zeros go in, speed comes out."""


@app.command()
def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL...", help="minilm, bert, resnet50, ... or linear-3072x768."),
    ] = None,
    suite: Annotated[
        str,
        typer.Option(
            help="Named lists of cases: short, layers, models, engine, engine-batch, "
            "engine-one-thread, zoo, decode, structured."
        ),
    ] = "",
    sparsity: Annotated[
        str, typer.Option(help="Shares of zeros, as 0,0.9; by default 0 to 0.95.")
    ] = "",
    pattern: Annotated[
        str, typer.Option(help="unstructured, channel, N:M as 2:4, blocks as 4x1; or a list.")
    ] = "unstructured",
    batch: Annotated[str, typer.Option(help="Batch sizes.")] = "1",
    tokens: Annotated[str, typer.Option(help="Sequence lengths, for models of tokens.")] = "",
    threads: Annotated[int, typer.Option(min=0, help="0: one for each usable core.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    against: Annotated[
        str, typer.Option(help="Engines to compare with, or files that define one; default all.")
    ] = "",
    baseline: Annotated[
        str, typer.Option(help="Engine that ratios refer to; default the fastest dense one.")
    ] = "",
    rounds: Annotated[int, typer.Option(min=2, help="Timed calls of each engine.")] = 25,
    time_limit: Annotated[
        float, typer.Option(min=0.1, help="Seconds an engine may take to compile a case.")
    ] = 900.0,
    warm: Annotated[bool, typer.Option(help="Measure compile times with warm caches too.")] = True,
    overhead: Annotated[bool, typer.Option(help="Measure the overhead of a call.")] = True,
    roofline: Annotated[bool, typer.Option(help="Measure the machine's roofs.")] = True,
    json: Annotated[Path | None, typer.Option(help="Write all figures and samples here.")] = None,
    resume: Annotated[
        bool, typer.Option(help="Keep the cases that the file of --json holds already.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Folder for figures, PNG and SVG.")] = None,
    write: Annotated[
        Path | None, typer.Option(help="Folder in which benchmarks.md is rewritten.")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="TOML of ratios that must hold; see benchmarks/.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Take figures from this JSON; measure nothing.")
    ] = None,
    lock: Annotated[
        str, typer.Option(help="File locked while timing, so that two runs do not overlap.")
    ] = "",
) -> None:
    """Measure this compiler against its peers on MODEL..., a suite, or the cases of a check."""
    from sparse_compiler.bench.command import Request, execute

    request = Request(
        models=tuple(models or ()),
        suite=suite,
        sparsity=sparsity,
        pattern=pattern,
        batch=batch,
        tokens=tokens,
        threads=threads,
        dtype=dtype,
        against=against,
        baseline=baseline,
        rounds=rounds,
        time_limit=time_limit,
        warm=warm,
        overhead=overhead,
        roofline=roofline,
        json=json,
        resume=resume,
        plot=plot,
        write=write,
        check=check,
        results=results,
        lock=lock,
        command="sparse-compiler " + " ".join(sys.argv[1:]),
    )
    raise typer.Exit(execute(request, Console()))


@app.command()
def doctor() -> None:
    """Say what is there, what is missing, and what to do about it."""
    from sparse_compiler.doctor import examine

    console = Console()
    findings = examine()
    for finding in findings:
        sign, style = ("ok", "green") if finding.ok else finding.sign
        console.print(f"[{style}]{sign:>7}[/]  [bold]{finding.name}[/]: {finding.what}")
        if finding.fix:
            console.print(f"         {finding.fix}", style="dim")
    raise typer.Exit(1 if any(f.needed and not f.ok for f in findings) else 0)


@app.command()
def calibrate(
    threads: Annotated[int, typer.Option(min=0, help="0: as many as torch uses.")] = 0,
) -> None:
    """Measure this machine for the cost model again, a few seconds; the figures are kept."""
    import torch

    from sparse_compiler.options import Options
    from sparse_compiler.runtime.calibrate import calibrate as measure
    from sparse_compiler.runtime.calibrate import calibration_path

    options = Options.from_env()
    count = threads or torch.get_num_threads()
    machine = measure(options, count)
    console = Console()
    if not machine.scale:
        console.print("the machine is too busy to be measured; try again when it is idle")
        raise typer.Exit(1)
    for kernel, factor in machine.scale:
        name = kernel or "all other kernels"
        console.print(f"{name:<20} {factor:.2f} times as long as on the reference core")
    for kernel, figures in machine.torch:
        console.print(f"{kernel:<20} " + ", ".join(f"{c:.4g} ns" for c in figures))
    console.print(f"{'memory':<20} {machine.bytes_per_ns:.0f} GB/s")
    console.print(f"{'cache':<20} {machine.cache_bytes_per_ns:.0f} GB/s")
    console.print(f"for {count} threads, in {calibration_path(options, count)}", style="dim")


cli_models.register(app)


def main() -> None:
    """The console script; what is raised on purpose is printed without a traceback.

    SIGTERM counts as Ctrl-C: a benchmark keeps what it has.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except SparseCompilerError as error:
        Console(stderr=True).print(str(error), style="red", markup=False, highlight=False)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
