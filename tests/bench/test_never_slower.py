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


def test_half_a_run_has_half_of_each_size() -> None:
    small, full = sample(100, True, 2), sample(20, False, 2)
    order = module.interleaved(small, full)
    assert [case for case, is_small in order if is_small] == small
    assert [case for case, is_small in order if not is_small] == full
    assert abs(sum(is_small for _, is_small in order[:60]) - 50) <= 1


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
        Result(CASE, True, MS, (GOOD,), (GOOD,), "sparse_compiler", commit="0123456789ab"),
        Result(CASE, False, MS, (BAD,) * 3, (GOOD,) * 3, "inductor", commit="0123456789ab"),
        Result(CASE, True, {}, error="no result within 5 s", commit="0123456789ab"),
    ]
    text = markdown(results, "a processor")
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


def test_results_of_other_commits_are_kept_where_asked(harness) -> None:
    harness.call("--small", "2", "--full", "0")
    harness.machine["commit"] = "b" * 12
    harness.call("--small", "3", "--full", "0", "--any-commit")
    assert len(harness.ran) == 3
    results = json.loads(harness.path.read_text())["results"].values()
    assert sorted(r["commit"][0] for r in results) == ["a", "a", "b"]


def test_what_failed_or_broke_can_be_run_again(harness, monkeypatch) -> None:
    good, ran = module._run_case, []

    def bad(case, *rest):
        ran.append(case.key)
        result = Result(case, True, MS, (BAD,) * 3, (GOOD,) * 3)
        broken = Result(case, True, {}, error="no result")
        return json.loads(json.dumps(asdict(broken if len(ran) == 1 else result)))

    monkeypatch.setattr(module, "_run_case", bad)
    harness.call("--small", "2", "--full", "0")
    monkeypatch.setattr(module, "_run_case", good)
    assert harness.call("--small", "3", "--full", "0").exit_code == 1
    assert len(harness.ran) == 1
    assert harness.call("--small", "3", "--full", "0", "--again").exit_code == 0
    assert sorted(harness.ran[1:]) == sorted(ran)


def test_part_of_the_names_picks_cases(harness) -> None:
    harness.call("--small", "30", "--full", "0", "--only", "small-swin")
    assert harness.ran
    assert all("swin" in key for key in harness.ran)


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
