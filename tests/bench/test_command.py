"""The command from end to end, on one small layer with a fake peer; and judged afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from sparse_compiler.bench import command
from sparse_compiler.bench.command import Request, execute
from sparse_compiler.bench.results import Results

from .fakes import make_engine

pytestmark = pytest.mark.system

CHECK = """
[[ratio]]
model = "linear-32x16"
sparsity = 0.5
tokens = 4
fast = "quick"
slow = "slack"
at_least = {at_least}
"""


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Request:
    monkeypatch.setattr(command, "OURS", ())  # what it measures is another test's matter
    quick = make_engine(tmp_path, "quick", "time.sleep(0.002)")
    slack = make_engine(tmp_path, "slack", "time.sleep(0.008)")
    return Request(
        models=("linear-32x16",),
        sparsity="0,0.5",
        tokens="4",
        threads=1,
        against=f"{quick},{slack}",
        rounds=5,
        overhead=True,
        roofline=False,
        json=tmp_path / "out" / "r.json",
        write=tmp_path / "docs",
        lock=str(tmp_path / "lock"),
        command="sparse-compiler bench linear-32x16",
    )


def test_measures_writes_reads_and_judges(
    request_: Request, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(record=True, width=150, force_terminal=False)
    assert execute(request_, console) == 0
    said = console.export_text()
    assert "quick" in said
    assert "preparing slack" in capsys.readouterr().err
    results = Results.load(tmp_path / "out" / "r.json")
    assert [row.status for row in results.rows] == ["ok"] * 4 and not results.partial
    assert {row.case.sparsity for row in results.rows} == {0.0, 0.5}
    quick, slack = results.rows[2:]
    assert quick.overhead_us is not None and 1500 < quick.overhead_us < 4000
    assert slack.baseline == "quick" and slack.ratio is not None and slack.ratio < 0.5
    facts = json.loads((tmp_path / "out" / "r.json").read_text())["cases"]
    assert [fact["actual_sparsity"] for fact in facts.values()] == [0.0, 0.5]
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "sparse-compiler bench linear-32x16" in page and ".svg" in page

    check = tmp_path / "expected.toml"
    again = Request(results=request_.json, check=check)
    for at_least, code, word in ((2.0, 0, "holds"), (30.0, 1, "MISSED")):
        check.write_text(CHECK.format(at_least=at_least))
        console = Console(record=True, width=150)
        assert execute(again, console) == code
        assert word in console.export_text()
