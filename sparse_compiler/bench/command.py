"""The `bench` command: what was typed becomes cases and engines, results become outputs."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.live import Live

from sparse_compiler.errors import OptionError, ToolchainError
from sparse_compiler.options import Options, nearest
from sparse_compiler.pruning.patterns import parse_pattern
from sparse_compiler.runtime.measure import machine_to_itself

from ..inspector.roofline import Roofs, measure_roofs
from .case import DTYPES, Case, numbers
from .check import Check, judge, read_expectations
from .engine import ENGINES, Engine, load_engine
from .isa import NATIVE, check_isa
from .markdown import write_page
from .measure import Method
from .plot import plot_results
from .results import Results, Row
from .run import Bench, Progress, run_bench
from .suites import ALL, Line, expand, suite_cases
from .table import render

OURS = ("sparse_compiler", "sparse_compiler-jit")
TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2}
STDOUT = Path("-")
EXIT_CHECK_FAILED = 1
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Request:
    """The command line, as typed; see cli.py for what each means."""

    models: tuple[str, ...] = ()
    suite: str = ""
    sparsity: str = ""
    pattern: str = "unstructured"
    batch: str = "1"
    tokens: str = ""
    threads: int = 0
    dtype: str = "float32"
    against: str = ""
    baseline: str = ""
    isa: str = NATIVE
    rounds: int = 25
    time_limit: float = 900.0
    warm: bool = True
    overhead: bool = True
    roofline: bool = True
    json: Path | None = None
    resume: bool = False
    plot: Path | None = None
    write: Path | None = None
    check: Path | None = None
    results: Path | None = None
    lock: str = ""
    command: str = "sparse-compiler bench"


def execute(request: Request, console: Console) -> int:
    """Measure (or read) results, show, write and judge them; the exit code."""
    expectations = read_expectations(request.check) if request.check else []
    if request.results:
        results = Results.load(request.results)
    else:
        results = _measure(request, expectations, console)
    console.print(render(results.rows, width=console.width))
    _write_outputs(request, results, console)
    if results.partial:
        console.print("interrupted: the results are partial and marked so", style="yellow")
        return EXIT_INTERRUPTED
    return _judge(expectations, results, console)


def cases_of(request: Request, expectations: Sequence[Check]) -> list[Case]:
    """What is to be measured: of the models named, the suite, and the check. OptionError if bad."""
    threads = request.threads or len(os.sched_getaffinity(0))
    if request.dtype not in DTYPES:
        fix = nearest(request.dtype, DTYPES)
        raise OptionError(f"no dtype is named {request.dtype!r}", fix=fix)
    cases = [expectation.case(threads) for expectation in expectations]
    if request.suite:
        cases += suite_cases(request.suite, threads)
    for model in request.models:
        cases += expand(_lines(request, model), threads, request.dtype)
    if not cases:
        raise OptionError("nothing to measure", fix="name a model, a --suite or a --check file")
    return list(dict.fromkeys(cases))


def _lines(request: Request, model: str) -> list[Line]:
    batches = numbers(request.batch, int, "--batch")
    lengths = numbers(request.tokens, int, "--tokens") if request.tokens else [None]
    lines = []
    for pattern in request.pattern.split(","):
        fixed = parse_pattern(pattern).fixed_sparsity
        default = ALL if fixed is None else (0.0, fixed)
        given = numbers(request.sparsity, float, "--sparsity") if request.sparsity else default
        lines += [
            Line(model, tuple(given), pattern, batch, tokens)
            for batch in batches
            for tokens in lengths
        ]
    return lines


def engines_of(request: Request, expectations: Sequence[Check]) -> list[Engine]:
    """Ours first, then those asked for, or all. OptionError for an unknown one."""
    named = [name for name in request.against.split(",") if name]
    if not named and expectations:
        named = [name for e in expectations for name in e.engines]
    wanted = [*OURS, *(named or ENGINES), *([request.baseline] if request.baseline else [])]
    engines = [load_engine(name) for name in dict.fromkeys(wanted)]
    names = [engine.name for engine in engines]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise OptionError(f"two engines are named {', '.join(twice)}", fix="rename one")
    return engines


def _measure(request: Request, expectations: list[Check], console: Console) -> Results:
    cases, engines = cases_of(request, expectations), engines_of(request, expectations)
    method = Method(
        rounds=request.rounds,
        tolerance=TOLERANCES[request.dtype],
        prepare_limit_s=request.time_limit,
    )
    before = _before(request)
    if request.lock:
        method = replace(method, lock=Path(request.lock))
    cache = Options.from_env().cache_dir / "bench"
    isa = check_isa(request.isa)
    roofs = _roofs(cases[0].threads, cache, isa, method, console) if request.roofline else None
    settings = Bench(
        engines=engines,
        method=method,
        cache=cache,
        baseline=load_engine(request.baseline).name if request.baseline else "",
        isa=isa,
        overhead=request.overhead,
        warm=request.warm,
        roofs=roofs,
        checkpoint=partial(_keep, request.json),
    )
    if not console.is_terminal:
        plain = replace(settings, progress=_progress_lines(Console(stderr=True, soft_wrap=True)))
        return run_bench(plain, cases, request.command, before)
    with Live(console=console, refresh_per_second=4, transient=True) as live:

        def progress(status: str, rows: Sequence[Row]) -> None:
            current = [row for row in rows if row.case == rows[-1].case]
            live.update(render(current, status, console.width))

        return run_bench(replace(settings, progress=progress), cases, request.command, before)


def _before(request: Request) -> Results | None:
    """What an interrupted run left, if it is to be taken up. OptionError if no file is named."""
    if not request.resume:
        return None
    if not request.json or request.json == STDOUT:
        raise OptionError("--resume without --json", fix="name the file that the run wrote")
    return Results.load(request.json) if request.json.exists() else None


def _keep(path: Path | None, results: Results) -> None:
    """Writes what there is so far, so that an interrupted run can be taken up."""
    if path is not None and path != STDOUT:
        results.save(path)


def _progress_lines(console: Console) -> Progress:
    """For a log: one line for each stage, none for the rounds."""
    began = time.monotonic()

    def progress(status: str, rows: Sequence[Row]) -> None:
        if ": round " not in status:
            console.print(f"{time.monotonic() - began:7.1f} s  {status}", highlight=False)

    return progress


def _roofs(threads: int, cache: Path, isa: str, method: Method, console: Console) -> Roofs | None:
    try:
        with machine_to_itself(method.lock):
            return measure_roofs(threads, cache, isa)
    except ToolchainError as error:
        console.print(f"no roofline column: {error}", style="yellow")
        return None


def _write_outputs(request: Request, results: Results, console: Console) -> None:
    if request.json == STDOUT:
        print(results.text())
    elif request.json:
        results.save(request.json)
        console.print(f"figures and samples: {request.json}")
    if request.plot:
        for path in plot_results(results, request.plot):
            console.print(f"figure: {path}")
    if request.write:
        console.print(f"page: {write_page(results, request.write)}")


def _judge(expectations: Sequence[Check], results: Results, console: Console) -> int:
    verdicts = [judge(expectation, results) for expectation in expectations]
    for verdict in verdicts:
        style = "green" if verdict.holds else "red"
        console.print(f"{'holds' if verdict.holds else 'MISSED'}: {verdict.text}", style=style)
    return 0 if all(v.holds for v in verdicts) else EXIT_CHECK_FAILED
