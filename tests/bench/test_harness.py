"""The harness against engines that misbehave, and against some whose time is known."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sparse_compiler.bench.case import Case
from sparse_compiler.bench.engine import load_engine
from sparse_compiler.bench.results import Results
from sparse_compiler.errors import OptionError

from .fakes import TINY, make_engine, row_of, run

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
BODIES = {
    "fast": "time.sleep(0.005)",
    "slow": "time.sleep(0.010)",
    "wrong": "result = [result[0] * 1.01]",
    "late": "result = [result[0] + (calls > 6)]",
    "shape": "result = [result[0].reshape(-1)]",
    "lost": "result = []",
    "crash": "os.kill(os.getpid(), signal.SIGSEGV)",
    "later": "calls > 8 and os.abort()",
    "raises": "raise ValueError('no such kernel')",
    "hang": "calls > 5 and time.sleep(60)",
    "loud": "print('hello'); os.write(1, b'{}'); time.sleep(0.02)",
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """One run with all of them; the last engine of a case must not suffer from the first."""
    folder = tmp_path_factory.mktemp("harness")
    engines = [make_engine(folder, name, body) for name, body in BODIES.items()]
    return run(folder, engines, rounds=21, run_limit_s=2.0)


def test_wrong_numbers_are_reported_and_excluded(outcome: Results) -> None:
    row = row_of(outcome, "wrong")
    assert row.status == "wrong"
    assert "relative error 0.01" in row.reason
    assert row.median_ms is None and row.ratio is None and row.samples_ns == ()
    # it would have been the fastest dense engine
    assert row_of(outcome, "slow").baseline == "fast"


def test_numbers_that_go_wrong_later_are_caught(outcome: Results) -> None:
    row = row_of(outcome, "late")
    assert row.status == "wrong" and row.median_ms is None and row.ratio is None


def test_wrong_shape_and_lost_output_are_wrong(outcome: Results) -> None:
    assert row_of(outcome, "shape").status == "wrong"
    assert row_of(outcome, "lost").status == "wrong"
    assert "0 outputs, eager has 1" in row_of(outcome, "lost").reason


def test_five_milliseconds_more_are_measured_as_such(outcome: Results) -> None:
    slow, fast = row_of(outcome, "slow"), row_of(outcome, "fast")
    assert slow.median_ms is not None and fast.median_ms is not None
    assert 4.5 < slow.median_ms - fast.median_ms < 5.5
    assert slow.ratio is not None and 0.45 < slow.ratio < 0.55
    assert slow.ratio_low <= slow.ratio <= slow.ratio_high


def test_crash_hang_and_error_become_rows(outcome: Results) -> None:
    found = {row.engine: (row.status, row.reason) for row in outcome.rows}
    assert found["crash"][0] == "crashed" and "SIGSEGV" in found["crash"][1]
    assert found["later"][0] == "crashed" and "SIGABRT" in found["later"][1]
    assert found["raises"] == ("failed", "ValueError: no such kernel")
    assert found["hang"][0] == "timeout" and "2 s" in found["hang"][1]
    assert {row.engine for row in outcome.rows if row.counts} == {"fast", "slow", "loud"}
    assert not outcome.partial


def test_every_round_counts_for_everyone(outcome: Results) -> None:
    assert all(len(row.samples_ns) == 21 for row in outcome.rows if row.counts)


def test_results_survive_the_file(outcome: Results, tmp_path: Path) -> None:
    outcome.save(tmp_path / "r.json")
    assert Results.load(tmp_path / "r.json") == outcome


def test_the_same_engine_twice_is_equally_fast(tmp_path: Path) -> None:
    """A against A: eager, and eager by another name. A 95 % interval misses once in twenty."""
    copy = tmp_path / "copy.py"
    copy.write_text(
        "from sparse_compiler.bench.engines import eager\n"
        "class Copy(eager.Eager):\n    name = 'copy'\n"
    )
    case = Case("linear-512x512", 0.5, tokens=128)
    seen = []
    for _ in range(3):
        row = row_of(run(tmp_path, ["eager", str(copy)], [case], "eager", rounds=41), "copy")
        assert row.max_rel_error == 0.0
        assert row.ratio is not None and row.ratio_low is not None and row.ratio_high is not None
        seen.append((row.ratio, row.ratio_low, row.ratio_high))
        if row.ratio_low <= 1.0 <= row.ratio_high and abs(row.ratio - 1.0) < 0.05:
            return
    pytest.fail(f"never within 5 % and containing 1: {seen}")


def test_a_hang_while_compiling_is_ended(tmp_path: Path) -> None:
    hang = make_engine(tmp_path, "hang", "time.sleep(60)")
    began = time.monotonic()
    (row,) = run(tmp_path, [hang], prepare_limit_s=8.0).rows
    assert row.status == "timeout" and "8 s" in row.reason
    assert time.monotonic() - began < 40


def test_a_model_that_cannot_be_built_fails_its_rows_only(tmp_path: Path) -> None:
    broken = Case("conv-8x8x3@8g3", 0.0)  # 8 channels in 3 groups
    results = run(tmp_path, [make_engine(tmp_path, "fine", "pass")], [broken, TINY], rounds=2)
    assert [row.status for row in results.rows] == ["failed", "ok"]
    assert "divisible by groups" in results.rows[0].reason


def test_interrupt_keeps_finished_rounds_and_says_so(tmp_path: Path) -> None:
    slow = make_engine(tmp_path, "slow", "time.sleep(0.02)")
    ready = threading.Event()

    def interrupt() -> None:
        ready.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    bench_cases = [TINY, Case("linear-16x16", 0.5, tokens=2)]
    results = run(
        tmp_path,
        [slow],
        bench_cases,
        rounds=100_000,
        progress=lambda text, rows: ready.set() if "round 5" in text else None,
    )
    assert results.partial
    (row,) = results.rows
    assert row.counts and 5 <= len(row.samples_ns) < 1000


def test_engine_files_are_checked(tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text("x = 1\n")
    for name, words in (
        (str(tmp_path / "none.py"), "defines 0 engines"),
        (str(tmp_path / "absent.py"), "no engine file"),
        ("onnxruntim", "did you mean onnxruntime"),
    ):
        with pytest.raises(OptionError, match=words):
            load_engine(name)


def test_the_guest_needs_neither_torch_nor_this_package() -> None:
    """DeepSparse's environment has neither."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['sparse_compiler'] = None; "
        "sys.path.insert(0, sys.argv[1]); import serve"
    )
    guest = ROOT / "sparse_compiler" / "bench" / "guest"
    subprocess.run([sys.executable, "-I", "-c", code, str(guest)], check=True, timeout=60)
