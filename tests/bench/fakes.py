"""Fake engines: files written on the fly, each with one behaviour to be caught or measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparse_compiler.bench.case import Case
from sparse_compiler.bench.engine import load_engine
from sparse_compiler.bench.measure import Method
from sparse_compiler.bench.results import Results, Row
from sparse_compiler.bench.run import Bench, Progress, run_bench

TINY = Case("linear-32x16", 0.5, tokens=4)

# Sleeps instead of arithmetic: their length does not depend on what else the machine does.
TEMPLATE = """
import os, signal, time
from sparse_compiler.bench.engine import Engine, EngineRunner

class FakeRunner(EngineRunner):
    calls = 0
    def __init__(self, module, inputs):
        self.module, self.inputs = module, inputs
        self.result = [module(*inputs).numpy()]
    def run(self):
        self.calls += 1
        calls, result = self.calls, self.result
        {body}
        return result

class Fake(Engine):
    name = {name!r}
    dense = {dense}
    def prepare(self, job):
        return FakeRunner(job.module, job.inputs)
"""


def make_engine(folder: Path, name: str, body: str, dense: bool = True) -> str:
    """The path of a file in `folder` that defines an engine whose calls execute `body`."""
    path = folder / f"{name}.py"
    path.write_text(TEMPLATE.format(name=name, body=body, dense=dense))
    return str(path)


def run(
    folder: Path,
    engines: Sequence[str],
    cases: Sequence[Case] = (TINY,),
    baseline: str = "",
    progress: Progress = lambda text, rows: None,
    **method: Any,
) -> Results:
    """Measure tiny cases with short rests; `method` overrides fields of Method."""
    settings = {"rounds": 9, "rest_ms": 1.0, "retries": 1, "lock": folder / "lock", **method}
    bench = Bench(
        [load_engine(name) for name in engines],
        Method(**settings),
        folder / "cache",
        baseline=baseline,
        overhead=False,
        progress=progress,
    )
    return run_bench(bench, cases, "test")


def row_of(results: Results, engine: str) -> Row:
    """The only row of that engine."""
    (row,) = [row for row in results.rows if row.engine == engine]
    return row
