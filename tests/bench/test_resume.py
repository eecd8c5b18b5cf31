"""A run that was interrupted goes on where it stopped, on the same machine and commit only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from sparse_compiler.bench.case import Case
from sparse_compiler.bench.command import Request, cases_of, execute
from sparse_compiler.bench.results import Results, Row, check_same_machine
from sparse_compiler.errors import InputError, OptionError

MACHINE = {"cpu": "c", "usable_cores": 2, "versions": {"torch": "2"}, "commit": "a"}
DONE, HALF, NEW = (Case("minilm", z) for z in (0.0, 0.5, 0.9))


def left_over() -> Results:
    rows = [
        Row(HALF, "a"),
        Row(HALF, "b", "interrupted"),
        Row(DONE, "a"),
        Row(DONE, "b", "unsupported"),
    ]
    return Results(tuple(rows), MACHINE, "", {}, {c.key: {} for c in (DONE, HALF)}, partial=True)


def test_only_finished_cases_are_kept() -> None:
    kept = left_over().keep([DONE, HALF, NEW], ["a", "b"])
    assert kept.case_list() == [DONE]
    assert set(kept.cases) == {DONE.key}
    assert left_over().keep([HALF, NEW], ["a", "b"]).rows == ()
    assert left_over().keep([DONE], ["a"]).rows == (), "measured with another set of engines"


def test_rows_follow_the_cases() -> None:
    assert left_over().in_order([DONE, HALF]).case_list() == [DONE, HALF]


@pytest.mark.parametrize("key", [*MACHINE, "isa"])
def test_other_surroundings_are_refused(key: str) -> None:
    today = replace(left_over(), method={"isa": "native"})
    check_same_machine(left_over(), today)
    changed = (
        replace(today, method={"isa": "x86-64-v3"})
        if key == "isa"
        else replace(today, machine={**MACHINE, key: "other"})
    )
    with pytest.raises(InputError, match=f"another {key}(.|\n)*fix: start anew"):
        check_same_machine(left_over(), changed)


def test_resume_needs_a_file() -> None:
    request = Request(models=("linear-8x8",), tokens="1", resume=True, roofline=False)
    with pytest.raises(OptionError, match="--resume without --json"):
        execute(request, Console(record=True))


def test_nothing_left_to_do_measures_nothing(tmp_path: Path) -> None:
    """Everything is in the file: no process is started, the figures are the file's."""
    request = Request(
        models=("linear-8x8",),
        sparsity="0",
        tokens="1",
        against="eager",
        json=tmp_path / "r.json",
        resume=True,
        roofline=False,
    )
    (case,) = cases_of(request, [])
    engines = ("sparse_compiler", "sparse_compiler-jit", "eager")
    from sparse_compiler.bench.machine import describe_machine

    rows = tuple(Row(case, engine, "failed", "by the test") for engine in engines)
    facts = {case.key: {"busy_share": None}}
    old = Results(rows, describe_machine(), "", {}, facts)
    old.save(tmp_path / "r.json")
    assert execute(request, Console(record=True)) == 0
    assert Results.load(tmp_path / "r.json").rows == rows


def test_threads_of_a_line_go_before_those_of_the_run() -> None:
    cases = cases_of(Request(suite="engine,engine-one-thread", threads=2), [])
    assert {case.threads for case in cases} == {1, 2}
    assert len(cases) == 60
    titles = {replace(case, sparsity=0.0).setting for case in cases}
    assert sum(title.endswith("one thread") for title in titles) == len(titles) // 2 == 5
