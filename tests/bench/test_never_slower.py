"""The never-slower sample: seeded, resumable, and strict where a case fails three times."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from sparse_compiler.bench import never_slower as module
from sparse_compiler.bench.case import Case
from sparse_compiler.bench.never_slower import ATTEMPTS, SPARSITIES, Result, markdown, sample
from sparse_compiler.bench.small import SMALL

CASE = Case("bert", 0.5, "2:4", 1, threads=2)
MS = {"eager": 1.0, "inductor": 0.9, "default": 0.5, "tuned": 0.4}
GOOD, BAD = (2.0, 1.9, 2.1), (0.8, 0.7, 0.85)


def test_twenty_architectures() -> None:
    assert len(SMALL) == 20


def test_the_sample_is_always_the_same() -> None:
    cases = sample(100, True, 2)
    assert cases == sample(100, True, 2)
    assert cases != sample(100, True, 2, seed=1)
    assert cases[:10] == sample(10, True, 2), "a shorter one is its beginning"
    assert len({c.key for c in cases}) == 100
    assert {c.sparsity for c in cases} == set(SPARSITIES)
    assert {c.batch for c in cases} == {1, 16}
    assert all(c.sparsity in (0, 0.5) for c in cases if c.pattern == "2:4")


@pytest.mark.parametrize(
    ("tuned", "default", "fails"),
    [
        ([GOOD], [GOOD], []),
        ([BAD] * ATTEMPTS, [GOOD] * ATTEMPTS, ["max-autotune"]),
        ([GOOD] * ATTEMPTS, [BAD] * ATTEMPTS, ["default"]),
        ([BAD] * (ATTEMPTS - 1), [GOOD], []),
        ([BAD, BAD, (0.97, 0.95, 0.99)], [GOOD] * 3, []),
        ([(0.95, 0.9, 0.97)] * ATTEMPTS, [(0.95, 0.9, 0.97)] * ATTEMPTS, ["max-autotune"]),
    ],
)
def test_three_runs_below_the_bound_fail(tuned, default, fails) -> None:
    assert Result(CASE, True, MS, tuple(tuned), tuple(default)).fails == fails


def test_the_table_counts_and_names() -> None:
    results = [
        Result(CASE, True, MS, (GOOD,), (GOOD,), "sparse_compiler"),
        Result(CASE, False, MS, (BAD,) * 3, (GOOD,) * 3, "inductor"),
        Result(CASE, True, {}, error="no result within 5 s"),
    ]
    text = markdown(results, "0123456789abcdef", "a processor")
    assert text.startswith(
        "2 cases ran at commit `0123456789ab` on a processor, 1 small and 1 of full size; "
        "1 failed, 1 gave no figures."
    )
    rows = [line for line in text.splitlines() if line.startswith("| bert")]
    assert len({row.count("|") for row in rows}) == 1
    assert any("max-autotune" in row for row in rows)
    assert any("no result within 5 s" in row for row in rows)


@pytest.fixture
def harness(monkeypatch, tmp_path):
    """The command with cases that take no time; what was run."""
    ran: list[str] = []

    def run(case, small, lock, folder):
        ran.append(case.key)
        result = Result(case, small, MS, (GOOD,), (GOOD,), "sparse_compiler")
        return json.loads(json.dumps(asdict(result)))

    machine = {"commit": "a" * 40, "cpu": "a processor"}
    monkeypatch.setattr(module, "_run_case", run)
    monkeypatch.setattr(module, "describe_machine", lambda: machine)
    app = typer.Typer()
    app.command()(module.main)
    path = tmp_path / "out.json"

    def call(*arguments: str):
        command = ["--json", str(path), "--threads", "2", *arguments]
        return CliRunner().invoke(app, command)

    return SimpleNamespace(call=call, ran=ran, path=path, machine=machine)


def test_a_second_run_goes_on(harness) -> None:
    assert harness.call("--small", "3", "--full", "1").exit_code == 0
    assert len(harness.ran) == 4
    assert harness.call("--small", "5", "--full", "1").exit_code == 0
    assert len(harness.ran) == 6, "only what was missing"
    harness.machine["commit"] = "b" * 40
    harness.call("--small", "2", "--full", "0")
    assert len(harness.ran) == 8, "another commit starts anew"


def test_a_failure_is_an_exit_code(harness, monkeypatch) -> None:
    result = Result(CASE, True, MS, (BAD,) * 3, (GOOD,) * 3)
    monkeypatch.setattr(module, "_run_case", lambda *a: json.loads(json.dumps(asdict(result))))
    assert harness.call("--small", "1", "--full", "0").exit_code == 1


def test_the_page_keeps_its_text(harness, tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{module.BEGIN}\nold\n{module.END}\n\nAfter.\n")
    for _ in range(2):
        harness.call("--small", "1", "--full", "0", "--write", str(page))
        text = page.read_text()
        assert text.startswith("# Title\n")
        assert text.endswith("\n\nAfter.\n")
        assert "old" not in text
        assert text.count("1 cases ran") == 1
