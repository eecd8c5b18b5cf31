"""Runs cases: make the case, prepare each engine in its own process, check it, time the rounds.

    reference process -> per engine: cold worker, output check, warm worker -> rounds -> rows

Whatever happens to one engine becomes its row's status; an interrupt keeps what is finished.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..inspector.roofline import Roofs, shares
from ..runtime.measure import machine_to_itself
from .case import Case
from .engine import Engine
from .host import Worker, WorkerError
from .isa import NATIVE
from .machine import describe_machine
from .measure import (
    Method,
    Samples,
    clean_rounds,
    run_rounds,
    spread_ms,
)
from .results import Results, Row, check_same_machine, interrupted, ratio_between
from .stats import relative_error

OVERHEAD_CASE = Case("call-overhead")
OVERHEAD_CALLS = 500
SOURCE = Path(__file__).parents[2]  # workers import the package from where it is

Progress = Callable[[str, Sequence[Row]], None]


@dataclass(frozen=True)
class Bench:
    """One run's settings. baseline: an engine's name, or "" for the fastest dense engine.

    cache: where engines that make environments keep them. isa: what all engines are held to.
    overhead and warm say whether call overhead and warm compile times are measured. stage: stands
    before what `progress` is told.
    """

    engines: Sequence[Engine]
    method: Method
    cache: Path
    baseline: str = ""
    isa: str = NATIVE
    overhead: bool = True
    warm: bool = True
    roofs: Roofs | None = None
    stage: str = ""
    progress: Progress = lambda text, rows: None
    checkpoint: Callable[[Results], None] = lambda results: None


@dataclass
class _CaseRun:
    """The state of one case while it runs; `rows` is always fit to be shown."""

    case: Case
    folder: Path
    rows: dict[str, Row] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    samples: Samples = field(default_factory=Samples)

    def update(self, engine: str, **changes: Any) -> None:
        """Replace fields of an engine's row."""
        self.rows[engine] = replace(self.rows[engine], **changes)

    def fail(self, engine: str, error: WorkerError) -> None:
        """Turn an engine's row into one that says why there is no figure."""
        self.update(
            engine,
            status=error.status,
            reason=error.reason,
            median_ms=None,
            low_ms=None,
            high_ms=None,
            samples_ns=(),
            disturbed=(),
        )


def run_bench(
    bench: Bench, cases: Sequence[Case], command: str, before: Results | None = None
) -> Results:
    """Measure every case; Ctrl-C gives the partial results, marked.

    bench.checkpoint gets the results so far, marked partial too, after every case. before: the
    results of an earlier run, whose finished cases are not measured again. Raises InputError if
    that run was on another machine or commit.
    """
    method = {
        **asdict(bench.method),
        "lock": str(bench.method.lock),
        "isa": bench.isa,
        "baseline": bench.baseline or "fastest dense engine of the case",
        "roofs": asdict(bench.roofs) if bench.roofs else None,
    }
    results = Results(
        (), describe_machine(), command, method, {}, datetime.now(UTC).isoformat(timespec="seconds")
    )
    if before:
        check_same_machine(before, results)
        kept = before.keep(cases, [engine.name for engine in bench.engines])
        results = replace(results, rows=kept.rows, cases=kept.cases)
    remaining = [case for case in cases if not results.of_case(case)]
    overheads: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="sparse-compiler-bench-") as scratch:
        try:
            if bench.overhead and remaining:
                overheads = _overheads(bench, Path(scratch), cases[0].threads)
            for at, case in enumerate(remaining):
                bench = replace(bench, stage=f"case {at + 1} of {len(remaining)}, ")
                state = _CaseRun(case, _fresh(Path(scratch) / case.key))
                try:
                    _run_case(bench, state, results.rows)
                finally:
                    _finish(bench, state, overheads)
                    results = _with_case(results, state)
                shutil.rmtree(state.folder)
                bench.progress(f"{bench.stage}{case.key}: done", results.rows)
                bench.checkpoint(replace(results, partial=case is not remaining[-1]))
        except KeyboardInterrupt:
            return replace(results.in_order(cases), partial=True)
    return results.in_order(cases)


def _with_case(results: Results, state: _CaseRun) -> Results:
    facts = {**state.facts, "busy_share": state.samples.busy_share}
    return replace(
        results,
        rows=(*results.rows, *interrupted(state.rows.values())),
        cases={**results.cases, state.case.key: facts},
    )


def worker_environment(threads: int, cache: Path, held: Mapping[str, str]) -> dict[str, str]:
    """The same for every engine: thread counts, no spinning for 200 ms, caches of its own.

    held: variables of its own, which go before; a PYTHONPATH stands before the others.
    """
    kept = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    count = str(threads)
    return {
        **kept,
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "OMP_DYNAMIC": "FALSE",
        "KMP_BLOCKTIME": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "SPARSE_COMPILER_CACHE": str(cache / "sparse_compiler"),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "NM_DISABLE_ANALYTICS": "True",
        **held,
        "PYTHONPATH": os.pathsep.join(
            [held.get("PYTHONPATH", ""), str(SOURCE), os.environ.get("PYTHONPATH", "")]
        ).strip(os.pathsep),
    }


def _fresh(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _run_case(bench: Bench, state: _CaseRun, finished: Sequence[Row]) -> None:
    for engine in bench.engines:
        state.rows[engine.name] = Row(state.case, engine.name, dense=engine.dense)

    def show(text: str) -> None:
        bench.progress(f"{bench.stage}{state.case.key}: {text}", [*finished, *state.rows.values()])

    show("building the model")
    _build_case(bench, state)
    with ExitStack() as stack:
        for engine in bench.engines:
            if state.rows[engine.name].status == "ok":
                show(f"preparing {engine.name}")
                _admit(bench, state, engine, stack)

        def progress(done: int, samples: Samples) -> None:
            _fill_times(bench, state)
            show(f"round {done} of {bench.method.rounds}")

        run_rounds(state.workers, bench.method, progress, state.samples)
        _check_again(bench, state)


def _build_case(bench: Bench, state: _CaseRun) -> None:
    """Model, inputs, truth and ONNX file, by the reference process; its failure fails rows."""
    wanted = [e for e in bench.engines if e.takes == "onnx"]
    env = worker_environment(state.case.threads, state.folder / "cache-reference", {})
    command = [sys.executable, "-m", "sparse_compiler.bench.reference"]
    limit = bench.method.prepare_limit_s
    with Worker(command, env, state.folder / "reference.log") as worker:
        try:
            state.facts = worker.ask(
                "build", limit, case=state.case.to_json(), folder=str(state.folder)
            )
        except WorkerError as error:
            for name in state.rows:
                state.fail(name, WorkerError("failed", f"the case: {error.reason}"))
            return
        if not wanted:
            return
        try:
            state.facts["onnx_bytes"] = worker.ask("export", limit)["bytes"]
        except WorkerError as error:
            for engine in wanted:
                state.fail(engine.name, WorkerError("failed", f"ONNX export: {error.reason}"))


def _admit(bench: Bench, state: _CaseRun, engine: Engine, stack: ExitStack) -> None:
    """Cold worker, output check, warm worker; the last one stays for the rounds."""
    name, cache = engine.name, state.folder / f"cache-{engine.name}"
    worker = None
    try:
        worker = _start(bench, state, engine, cache)
        stack.callback(worker.stop)
        reply = _prepare(bench, state, engine, worker, cache)
        if reply["status"] != "ok":
            raise WorkerError(reply["status"], reply["reason"])
        state.update(
            name,
            versions=reply["versions"],
            cold_s=reply["compile_s"],
            weight_bytes=reply["weight_bytes"],
        )
        _check_output(bench, state, name, worker)
        if engine.disk_cache and bench.warm:
            worker.stop()
            worker = _start(bench, state, engine, cache)
            stack.callback(worker.stop)
            reply = _prepare(bench, state, engine, worker, cache)
            state.update(name, warm_s=reply["compile_s"])
    except WorkerError as error:
        state.fail(name, error)
        if worker is not None:
            worker.stop()  # it must not disturb the others
        return
    state.workers[name] = worker


def _start(bench: Bench, state: _CaseRun, engine: Engine, cache: Path) -> Worker:
    held = engine.environment(bench.isa, bench.cache)
    env = worker_environment(state.case.threads, cache, held)
    log = state.folder / f"{Path(engine.name).stem}.log"
    return Worker(engine.command(bench.cache), env, log)


def _prepare(
    bench: Bench, state: _CaseRun, engine: Engine, worker: Worker, cache: Path
) -> dict[str, Any]:
    cache.mkdir(exist_ok=True)
    job = {
        "engine": engine.origin,
        "case": state.case.to_json(),
        "folder": str(state.folder),
        "cache": str(cache),
    }
    return worker.ask("prepare", bench.method.prepare_limit_s, job=job)


def _check_output(bench: Bench, state: _CaseRun, name: str, worker: Worker) -> None:
    """Compare the newest outputs with eager's; a WorkerError "wrong" where they differ."""
    path = state.folder / "outputs.npz"
    worker.ask("save", bench.method.run_limit_s, path=str(path))
    with np.load(path) as got, np.load(state.folder / "reference.npz") as want:
        if got.files != want.files:
            raise WorkerError("wrong", f"{len(got.files)} outputs, eager has {len(want.files)}")
        error = max(relative_error(got[k], want[k]) for k in want.files)
    state.update(name, max_rel_error=error)
    if not error <= bench.method.tolerance:
        limit = bench.method.tolerance
        raise WorkerError("wrong", f"relative error {error:.2g} against eager, allowed {limit:g}")


def _check_again(bench: Bench, state: _CaseRun) -> None:
    """After the rounds: outputs once more, peak memory, and who failed on the way."""
    for name, worker in state.workers.items():
        if name in state.samples.failed:
            state.fail(name, state.samples.failed[name])
            continue
        try:
            _check_output(bench, state, name, worker)
            memory = worker.ask("memory", bench.method.run_limit_s)
            state.update(name, peak_bytes=memory["peak"] or None)
        except WorkerError as error:
            state.fail(name, error)


def _fill_times(bench: Bench, state: _CaseRun) -> None:
    """Medians, ratios and shares from the samples so far."""
    failed = state.samples.failed
    timed = {n: ns for n, ns in state.samples.ns.items() if ns and n not in failed}
    for name, ns in timed.items():
        if state.rows[name].status == "ok":
            disturbed = state.samples.disturbed[name]
            median, low, high = spread_ms([ns[i] for i in clean_rounds(disturbed)])
            idle = float(np.median(state.samples.idle[name]))
            state.update(
                name,
                median_ms=median,
                low_ms=low,
                high_ms=high,
                idle_share=idle,
                disturbed_share=sum(disturbed) / len(ns),
                samples_ns=tuple(ns),
                disturbed=tuple(disturbed),
            )


def _finish(bench: Bench, state: _CaseRun, overheads: dict[str, float]) -> None:
    """Ratios, roofline shares and call overhead of a case whose rounds are over."""
    _fill_times(bench, state)
    counting = {name: row for name, row in state.rows.items() if row.counts}
    base = bench.baseline or min(
        (name for name, row in counting.items() if row.dense),
        key=lambda name: counting[name].median_ms or 0.0,
        default="",
    )
    for name, row in counting.items():
        state.update(name, overhead_us=overheads.get(name))
        if base in counting:
            ratio = ratio_between(counting[base], row)
            state.update(
                name,
                baseline=base,
                ratio=ratio.median,
                ratio_low=ratio.low,
                ratio_high=ratio.high,
            )
        if bench.roofs and row.median_ms and state.case.dtype == "float32":
            arithmetic, bandwidth = shares(state.facts["work"], row.median_ms, bench.roofs)
            state.update(name, arithmetic_share=arithmetic, bandwidth_share=bandwidth)


def _overheads(bench: Bench, scratch: Path, threads: int) -> dict[str, float]:
    """Microseconds of one call of an 8×8 linear layer by engine: what a call costs by itself."""
    case = replace(OVERHEAD_CASE, threads=threads)
    state = _CaseRun(case, _fresh(scratch / "call-overhead"))
    for engine in bench.engines:
        state.rows[engine.name] = Row(case, engine.name)
    bench.progress("call overhead", [])
    _build_case(bench, state)
    found = {}
    once = replace(bench, warm=False)
    with ExitStack() as stack:
        for engine in bench.engines:
            if state.rows[engine.name].status == "ok":
                bench.progress(f"call overhead of {engine.name}", [])
                _admit(once, state, engine, stack)
        for name, worker in state.workers.items():
            with machine_to_itself(bench.method.lock):
                try:
                    limit = bench.method.run_limit_s
                    ns = worker.ask("burst", limit, calls=OVERHEAD_CALLS)["ns"]
                except WorkerError:
                    continue
            found[name] = ns / 1e3
            worker.stop()
    return found
