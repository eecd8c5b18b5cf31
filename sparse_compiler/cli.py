"""`sparse-compiler`: the command line. Each command imports what it needs when it is called."""

from __future__ import annotations

import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sparse_compiler import cli_models, cli_sparsify, terminal
from sparse_compiler.errors import InternalError, SparseCompilerError

ABOUT = "A sparsity compiler for PyTorch: zeros go in, speed comes out."
app = typer.Typer(
    name="sparse-compiler",
    help=ABOUT,
    epilog="MODEL is a .pt2 file, a Hugging Face folder, module:function, or a saved model. "
    "Exit codes: 0 done, 1 a check failed or a defect of ours, 2 the input, an option or the "
    "environment must change, 130 interrupted.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)

EXIT_DEFECT = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


@app.callback()
def _root() -> None:
    pass


cli_models.register(app)
app.command(epilog="For instance: sparse-compiler sparsify bert-folder -o pruned --sparsity 0.9")(
    cli_sparsify.sparsify
)


@app.command(
    epilog="For instance: sparse-compiler bench minilm --sparsity 0,0.9 --against inductor-frozen"
)
def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="minilm, bert, resnet50, ... or linear-3072x768."),
    ] = None,
    suite: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Named lists of cases: short, layers, models, engine, engine-batch, "
            "engine-one-thread, zoo, decode, structured.",
        ),
    ] = "",
    sparsity: Annotated[
        str, typer.Option(metavar="LIST", help="Shares of zeros, as 0,0.9; by default 0 to 0.95.")
    ] = "",
    pattern: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="unstructured, channel, N:M as 2:4, blocks as 4x1; or a list."
        ),
    ] = "unstructured",
    batch: Annotated[str, typer.Option(metavar="LIST", help="Batch sizes, as 1,8.")] = "1",
    tokens: Annotated[
        str, typer.Option(metavar="LIST", help="Sequence lengths, for models of tokens.")
    ] = "",
    threads: Annotated[
        int, typer.Option(metavar="N", min=0, help="0: one for each usable core.")
    ] = 0,
    dtype: Annotated[str, typer.Option(metavar="NAME", help="float32 or bfloat16.")] = "float32",
    against: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="Engines to compare with, or files that define one; default all."
        ),
    ] = "",
    baseline: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Engine that ratios refer to; default the fastest dense one."
        ),
    ] = "",
    isa: Annotated[
        str,
        typer.Option(metavar="NAME", help="x86-64-v3 holds every engine to AVX2; default native."),
    ] = "native",
    rounds: Annotated[
        int, typer.Option(metavar="N", min=2, help="Timed calls of each engine.")
    ] = 25,
    time_limit: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.1, help="What an engine may take to compile a case."),
    ] = 900.0,
    warm: Annotated[
        bool, typer.Option(metavar="", help="Measure compile times with warm caches too.")
    ] = True,
    overhead: Annotated[
        bool, typer.Option(metavar="", help="Measure the overhead of a call.")
    ] = True,
    roofline: Annotated[bool, typer.Option(metavar="", help="Measure the machine's roofs.")] = True,
    json: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write all figures and samples here; - for standard output alone."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option(metavar="", help="Keep the cases that the file of --json holds already.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for figures, PNG and SVG.")
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder in which benchmarks.md is rewritten."),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML of ratios that must hold; see benchmarks/."),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Take figures from this JSON; measure nothing."),
    ] = None,
    lock: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="File locked while timing, so that two runs do not overlap."
        ),
    ] = "",
    static: Annotated[
        bool,
        typer.Option(metavar="", help="Compile the kernels for GPUs, without one, and read them."),
    ] = False,
    arch: Annotated[
        str, typer.Option(metavar="LIST", help="With --static: cuda:80, cuda:90, hip:gfx942, ...")
    ] = "",
) -> None:
    """Measure this compiler against its peers on MODEL..., a suite, or the cases of a check."""
    command = "sparse-compiler " + " ".join(sys.argv[1:])
    console = terminal.console(json=json == Path("-"))
    if static:
        from sparse_compiler.bench.gpu_command import StaticRequest, execute_static

        chosen = StaticRequest(tuple(models or ()), sparsity, batch, arch, json, write, command)
        raise typer.Exit(execute_static(chosen, console))
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
        isa=isa,
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
        command=command,
    )
    raise typer.Exit(execute(request, console))


@app.command()
def doctor(json: cli_models.Json = False) -> None:
    """Say what is there, what is missing, and what to do about it."""
    from sparse_compiler.doctor import examine

    console = terminal.console(json=json)
    findings = examine()
    terminal.print_json([asdict(finding) for finding in findings], json)
    for finding in findings:
        sign, style = ("ok", "green") if finding.ok else finding.sign
        console.print(f"[{style}]{sign:>7}[/]  [bold]{finding.name}[/]: {finding.what}")
        if finding.fix:
            console.print(f"         {finding.fix}", style="dim")
    raise typer.Exit(1 if any(f.needed and not f.ok for f in findings) else 0)


@app.command()
def calibrate(
    threads: Annotated[int, typer.Option(metavar="N", min=0, help="0: as many as torch uses.")] = 0,
    json: cli_models.Json = False,
) -> None:
    """Measure this machine for the cost model again, a few seconds; the figures are kept."""
    import torch

    from sparse_compiler.options import Options
    from sparse_compiler.runtime.calibrate import calibrate as measure
    from sparse_compiler.runtime.calibrate import calibration_path

    options = Options.from_env()
    count = threads or torch.get_num_threads()
    with terminal.progress() as progress:
        progress.add_task("measuring")
        machine = measure(options, count)
    if not machine.scale:
        busy = "the machine is too busy to be measured; try again when it is idle"
        terminal.console(err=True).print(busy)
        raise typer.Exit(1)
    console, path = terminal.console(json=json), calibration_path(options, count)
    terminal.print_json({**asdict(machine), "threads": count, "path": str(path)}, json)
    for kernel, factor in machine.scale:
        name = kernel or "all other kernels"
        console.print(f"{name:<20} {factor:.2f} times as long as on the reference core")
    for kernel, figures in machine.torch:
        console.print(f"{kernel:<20} " + ", ".join(f"{c:.4g} ns" for c in figures))
    console.print(f"{'memory':<20} {machine.bytes_per_ns:.0f} GB/s")
    console.print(f"{'cache':<20} {machine.cache_bytes_per_ns:.0f} GB/s")
    console.print(f"for {count} threads, in {path}", style="dim")


cli_models.register_cache(app)


def main() -> None:
    """The console script; what is raised on purpose is printed without a traceback.

    SIGTERM counts as Ctrl-C: a benchmark keeps what it has.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app(prog_name="sparse-compiler")
    except InternalError as error:
        _complain(f"{error}\nThis is a defect of sparse_compiler: please report it.")
        sys.exit(EXIT_DEFECT)
    except SparseCompilerError as error:
        _complain(str(error))
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _complain(text: str) -> None:
    terminal.console(err=True).print(text, style="red", markup=False, highlight=False)


if __name__ == "__main__":
    main()
