"""`make never-slower`: is any model slower with us than with the faster of eager and Inductor?

A seeded sample of architectures, sparsities, patterns and batches. Each case runs in a process of
its own, which times all ways of running it in turn; what is finished is kept, and a second run goes
on from there. A case fails where the upper end of its 95 % interval stays below the bound in each
of three runs: chance alone does not fail it.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sparse_compiler.files import replacing

from .case import Case
from .machine import describe_machine
from .small import SMALL

SPARSITIES = (0.0, 0.3, 0.5, 0.7, 0.9)
PATTERNS = ("unstructured", "2:4", "4x1", "channel")
BATCHES = (1, 16)
FULL = tuple(name for name in SMALL if name not in ("segformer", "unet", "yolo"))
"""Full size, where a forward pass at batch 16 stays below a few seconds."""
TUNED_BOUND, DEFAULT_BOUND = 0.98, 0.9
ATTEMPTS = 3
LIMIT_S = 1500.0
SCHEMA = 2
LOCK = Path(tempfile.gettempdir()) / "never-slower.lock"


@dataclass(frozen=True)
class Result:
    """A case as it ran. ms: medians by way of running; tuned, default: (ratio, low, high) of each
    run, the faster dense way's time over ours; error: why there are no figures; tuning_s: seconds
    that `max-autotune` took to compile."""

    case: Case
    small: bool
    ms: Mapping[str, float]
    tuned: tuple[tuple[float, float, float], ...] = ()
    default: tuple[tuple[float, float, float], ...] = ()
    winner: str = ""
    error: str = ""
    commit: str = ""
    tuning_s: float = 0.0

    @property
    def fails(self) -> list[str]:
        """The modes in which every run lies below its bound."""
        pairs = (
            ("max-autotune", self.tuned, TUNED_BOUND),
            ("default", self.default, DEFAULT_BOUND),
        )
        return [
            mode
            for mode, runs, bound in pairs
            if len(runs) >= ATTEMPTS and all(high < bound for _, _, high in runs)
        ]


def sample(count: int, small: bool, threads: int, seed: int = 0) -> list[Case]:
    """`count` different cases, always the same for a seed; the first ones of a longer sample."""
    every: dict[str, Case] = {}
    names = tuple(SMALL) if small else FULL
    for name, zeros, pattern, batch in itertools.product(names, SPARSITIES, PATTERNS, BATCHES):
        case = Case(name, zeros, pattern if zeros else "unstructured", batch, threads=threads)
        if zeros and pattern == "2:4":
            case = replace(case, sparsity=0.5)
        every[case.key] = case
    cases = list(every.values())
    random.Random(seed).shuffle(cases)
    return cases[:count]


def interleaved(small: Sequence[Case], full: Sequence[Case]) -> list[tuple[Case, bool]]:
    """Cases, and whether they are small; spread evenly, so that half a run has half of each."""
    places = [
        (i / len(cases), cases is small, case)
        for cases in (small, full)
        for i, case in enumerate(cases)
    ]
    return [(case, is_small) for _, is_small, case in sorted(places, key=lambda p: p[:2])]


def _stored(path: Path, commit: str) -> dict[str, Any]:
    """Results so far by key; of one commit alone, unless it is empty."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    if data.get("schema") != SCHEMA:
        return {}
    found = dict(data["results"])
    return {key: r for key, r in found.items() if not commit or r["commit"] == commit}


def _result(data: Mapping[str, Any]) -> Result:
    case = Case(**data["case"])
    tuned, default = (tuple(tuple(run) for run in data[mode]) for mode in ("tuned", "default"))
    return Result(**{**data, "case": case, "tuned": tuned, "default": default})


def _run_case(case: Case, small: bool, lock: Path, folder: Path) -> dict[str, Any]:
    request = json.dumps({"case": case.to_json(), "small": small, "lock": str(lock)})
    env = {
        **os.environ,
        "OMP_NUM_THREADS": str(case.threads),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "SPARSE_COMPILER_CACHE": str(folder / "sparse_compiler"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]),
    }
    command = [sys.executable, "-m", "sparse_compiler.bench.never_slower_case", request]
    blank = asdict(Result(case, small, {}))
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return {**blank, "error": f"no result within {LIMIT_S:.0f} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        last = done.stderr.strip().splitlines()[-1:] or [f"code {done.returncode}"]
        return {**blank, "error": last[0][:200]}
    return {**blank, **json.loads(lines[-1])}


def markdown(results: Sequence[Result], cpu: str) -> str:
    """The table of docs/never_slower.md."""
    fine = [r for r in results if not r.error]
    failed = [r for r in fine if r.fails]
    commits = ", ".join(f"`{c}`" for c in sorted({r.commit for r in results}))
    lines = [
        f"{len(fine)} cases ran at commit {commits} on {cpu}, "
        f"{sum(r.small for r in fine)} small and {sum(not r.small for r in fine)} of full size; "
        f"{len(failed)} failed, {len(results) - len(fine)} gave no figures.",
        "",
        "| model | size | zeros | batch | eager, ms | frozen Inductor | default | max-autotune "
        "| runs | ratio, default | ratio, max-autotune (95 %) | |",
        "| --- " * 12 + "|",
    ]
    for r in sorted(results, key=lambda r: (not r.small, r.case.key)):
        zeros = f"{r.case.sparsity:.0%} {r.case.pattern}" if r.case.sparsity else "none"
        cells = [r.case.model, "small" if r.small else "full", zeros, str(r.case.batch)]
        if r.error:
            lines.append(f"| {' | '.join([*cells, *['-'] * 7, r.error])} |")
            continue
        cells += [f"{r.ms[name]:.2f}" for name in ("eager", "inductor", "default", "tuned")]
        best = max(r.tuned, key=lambda run: run[2])
        cells += [r.winner, f"{max(run[0] for run in r.default):.2f}"]
        cells += [f"{best[0]:.2f} ({best[1]:.2f} to {best[2]:.2f})", " ".join(r.fails)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(
    small: Annotated[int, typer.Option(help="Cases at small size.")] = 100,
    full: Annotated[int, typer.Option(help="Cases at full size.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    threads: Annotated[int, typer.Option(help="0: one for each usable core.")] = 0,
    json_file: Annotated[Path, typer.Option("--json")] = Path("build/never-slower.json"),
    write: Annotated[Path | None, typer.Option(help="Markdown file to write.")] = None,
    lock: Annotated[Path, typer.Option(help="File locked while timing.")] = LOCK,
    any_commit: Annotated[bool, typer.Option(help="Keep results of other commits.")] = False,
    again: Annotated[bool, typer.Option(help="Run cases anew that failed or broke.")] = False,
    only: Annotated[str, typer.Option(help="Part of the names of the cases to run.")] = "",
) -> None:
    """Run the sample, or the rest of it; code 1 where a case failed."""
    console = Console(stderr=True)
    machine = describe_machine()
    commit, threads = str(machine["commit"]), threads or len(os.sched_getaffinity(0))
    stored = _stored(json_file, "" if any_commit else commit)
    if again:
        known = {key: _result(data) for key, data in stored.items()}
        stored = {k: stored[k] for k, r in known.items() if not (r.error or r.fails)}
    wanted = interleaved(sample(small, True, threads, seed), sample(full, False, threads, seed))
    for at, (case, is_small) in enumerate(wanted):
        key = f"{'small' if is_small else 'full'}-{case.key}"
        if key in stored or only not in key:
            continue
        found = _run_case(case, is_small, lock, json_file.parent / "never-slower-cache")
        stored[key] = {**found, "commit": commit}
        data = {"schema": SCHEMA, "machine": machine, "results": stored}
        with replacing(json_file) as beside:
            beside.write_text(json.dumps(data, indent=1, default=str))
        result = _result(stored[key])
        said = result.error or " ".join(f"{k} {v:.3f}" for k, v in result.ms.items())
        console.print(f"{at + 1}/{len(wanted)} {key}: {said} {' '.join(result.fails)}")
        _write(write, stored, machine)
    console.print(_write(write, stored, machine))
    results = [_result(data) for data in stored.values()]
    raise typer.Exit(1 if any(r.fails for r in results) else 0)


def _write(path: Path | None, stored: Mapping[str, Any], machine: Mapping[str, Any]) -> str:
    """The first line of the table, which a page gets as a whole."""
    text = markdown([_result(data) for data in stored.values()], str(machine["cpu"]))
    if path is not None:
        path.write_text(_page(path, text))
    return text.splitlines()[0]


BEGIN, END = "<!-- table -->", "<!-- end of table -->"


def _page(path: Path, table: str) -> str:
    """The page with its table renewed."""
    text = path.read_text() if path.is_file() else f"{BEGIN}\n{END}\n"
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n\n{table}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    typer.run(main)
