"""The harness's parts without processes: figures, names, files, pages."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sparse_compiler import cli
from sparse_compiler.bench.case import Case
from sparse_compiler.bench.check import Expectation, Limit, judge, read_expectations
from sparse_compiler.bench.command import OURS, Request, cases_of, engines_of
from sparse_compiler.bench.engine import ENGINES
from sparse_compiler.bench.engines import deepsparse
from sparse_compiler.bench.host import WorkerError
from sparse_compiler.bench.machine import cpu_info
from sparse_compiler.bench.markdown import write_page
from sparse_compiler.bench.measure import Method, clean_rounds
from sparse_compiler.bench.models import MODELS, calibrate_batch_norms
from sparse_compiler.bench.plot import _STYLES, plot_results
from sparse_compiler.bench.reference import prune, pruned_layers
from sparse_compiler.bench.results import Results, Row, interrupted, ratio_between
from sparse_compiler.bench.stats import paired_ratio, relative_error
from sparse_compiler.bench.suites import SUITES, suite_cases
from sparse_compiler.bench.table import number, refusals
from sparse_compiler.bench.work import count_work
from sparse_compiler.errors import InputError, OptionError, SparseCompilerError
from sparse_compiler.inspector.roofline import measure_roofs, shares
from sparse_compiler.options import Options

ROOT = Path(__file__).parents[2]


def made_up(*rows: Row) -> Results:
    """Results with the surroundings that a page needs."""
    machine = {
        "cpu": "a processor",
        "cores": 2,
        "usable_cores": 2,
        "isa": ["AVX2"],
        "memory_bytes": 2**33,
        "system": "Linux",
        "python": "3.11",
        "versions": {"torch": "2.13"},
        "commit": "abc",
    }
    method = {**vars(Method()), "baseline": "fastest", "roofs": None}
    return Results(rows, machine, "sparse-compiler bench", method, started="now")


def timed(engine: str, sparsity: float, ns: list[int], base: list[int]) -> Row:
    ratio = paired_ratio(base, ns)
    return Row(
        Case("minilm", sparsity, tokens=128),
        engine,
        median_ms=float(np.median(ns)) / 1e6,
        baseline="openvino",
        ratio=ratio.median,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        samples_ns=tuple(ns),
        disturbed=(False,) * len(ns),
    )


def test_relative_error_is_the_documented_one() -> None:
    b = np.array([1.0, -4.0])
    assert relative_error(np.array([1.0, -3.0]), b) == 0.25
    assert relative_error(b, b) == 0.0
    assert math.isinf(relative_error(b.reshape(2, 1), b))
    assert math.isinf(relative_error(np.array([np.nan, -4.0]), b))
    assert math.isinf(relative_error(np.array([np.inf, 1.0]), np.array([-np.inf, 1.0])))
    assert relative_error(np.array([np.nan, 2.0]), np.array([np.nan, 2.0])) == 0.0
    assert math.isinf(relative_error(np.array([1e-9]), np.zeros(1)))


def test_bootstrap_interval_covers_as_often_as_it_says() -> None:
    """Ratios of two log-normal times whose true median ratio is 2."""
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        a, b = 2 * rng.lognormal(0, 0.05, 25), rng.lognormal(0, 0.05, 25)
        ratio = paired_ratio(list(a), list(b), seed=trial)
        hits += ratio.low <= 2.0 <= ratio.high
    assert 180 <= hits <= 200  # 95 % of 200, three standard deviations either way


def test_disturbed_rounds_are_left_out_while_enough_are_clean() -> None:
    assert clean_rounds([False, True, False] * 3, [False] * 9) == [0, 2, 3, 5, 6, 8]
    assert clean_rounds([True, True, False], [False] * 3) == [0, 1, 2]
    slow, fast = (
        replace(timed(name, 0.0, ns, ns), disturbed=flags)
        for name, ns, flags in (
            ("slow", [4, 4, 4, 4, 4, 400], (False,) * 6),
            ("fast", [900, 2, 2, 2, 2, 2], (True, *(False,) * 5)),
        )
    )
    assert ratio_between(slow, fast).median == 2.0
    assert ratio_between(slow, fast).low == 2.0


def test_rounds_in_common_are_what_is_compared() -> None:
    assert paired_ratio([2.0, 4.0, 100.0], [1.0, 2.0]).median == 2.0
    with pytest.raises(ValueError, match="no round"):
        paired_ratio([], [1.0])


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(models=("minlm",)), "did you mean minilm"),
        (Request(models=("minilm",), pattern="unstructurd"), "unstructured"),
        (Request(models=("minilm",), pattern="4:2"), "N:M"),
        (Request(models=("minilm",), sparsity="1.0"), r"outside \[0, 1\)"),
        (Request(models=("minilm",), sparsity="-0.1"), r"outside \[0, 1\)"),
        (Request(models=("minilm",), sparsity="nan"), r"outside \[0, 1\)"),
        (Request(models=("minilm",), sparsity="half"), "not a list of numbers"),
        (Request(models=("minilm",), sparsity=","), "--sparsity is empty"),
        (Request(models=("minilm",), sparsity="0.9", pattern="2:4"), "has sparsity 0.5"),
        (Request(models=("minilm",), batch="0"), "at least 1"),
        (Request(models=("minilm",), dtype="float3"), "float32"),
        (Request(suite="shor"), "did you mean short"),
        (Request(), "nothing to measure"),
    ],
)
def test_bad_input_is_named_before_anything_runs(request_: Request, words: str) -> None:
    with pytest.raises(SparseCompilerError, match=words):
        cases_of(request_, [])


def test_unknown_engine_offers_the_nearest() -> None:
    with pytest.raises(SparseCompilerError, match="did you mean openvino"):
        engines_of(Request(against="openvin"), [])


def test_the_command_line_becomes_cases() -> None:
    request = Request(models=("minilm", "resnet50"), sparsity="0,0.9", batch="1,8", threads=3)
    cases = cases_of(request, [])
    assert len(cases) == 8 and len({c.key for c in cases}) == 8
    assert cases[0] == Case("minilm", 0.0, tokens=128, threads=3)
    assert {c.tokens for c in cases if c.model == "resnet50"} == {None}
    two_four = cases_of(Request(models=("minilm",), pattern="2:4,unstructured"), [])
    assert [c.sparsity for c in two_four if c.pattern == "2:4"] == [0.0, 0.5]


def test_ours_stand_first_and_all_engines_are_drawn() -> None:
    names = [engine.name for engine in engines_of(Request(), [])]
    assert tuple(names[:2]) == OURS and sorted(names) == list(ENGINES)
    assert set(_STYLES) == set(ENGINES)
    assert len({(marker, line) for marker, line, _ in _STYLES.values()}) == len(_STYLES)


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_is_made_of_known_things(name: str) -> None:
    cases = suite_cases(name, 2)
    assert cases and len({c.key for c in cases}) == len(cases)


def test_docs_suite_has_the_models_of_the_landscape() -> None:
    assert {c.model for c in suite_cases("short", 2)} >= {
        "minilm",
        "bert",
        "resnet50",
        "mobilenetv1",
    }


def test_pruning_hits_what_it_names_and_leaves_plain_tensors() -> None:
    case = Case("bert-tiny", 0.9, tokens=8)
    module = MODELS["bert-tiny"].build(case).eval()
    prune(module, case)
    layers = pruned_layers(module, case)
    assert len(layers) == 12  # six linears in each of two encoder layers
    for layer in layers:
        assert isinstance(layer.module.weight, torch.nn.Parameter)
        assert abs(float((layer.weight == 0).float().mean()) - 0.9) < 0.01
    assert not any("original" in name for name in module.state_dict())


def test_work_counts_nonzeros_and_attention() -> None:
    case = Case("bert-tiny", 0.5, tokens=8)
    module = MODELS["bert-tiny"].build(case).eval()
    inputs = list(MODELS["bert-tiny"].inputs(case).values())
    dense = count_work(module, inputs, [])
    weights = 2 * (4 * 128 * 128 + 2 * 128 * 512)
    attention = 2 * 2 * 8 * 8 * 128  # QK and PV in both layers, a multiply-add being two
    assert dense["dense_flops"] == dense["useful_flops"]
    assert dense["dense_flops"] == 2 * weights * 8 + 2 * attention
    prune(module, case)
    half = count_work(module, inputs, [])
    assert half["dense_flops"] == dense["dense_flops"]
    assert half["useful_flops"] == pytest.approx(dense["useful_flops"] - weights * 8, rel=1e-3)


def test_calibrated_batch_norms_keep_activations_in_range() -> None:
    torch.manual_seed(0)
    layers = [
        layer
        for _ in range(12)
        for layer in (torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
    ]
    module = torch.nn.Sequential(*layers).eval()
    x = torch.randn(2, 8, 12, 12)
    calibrate_batch_norms(module, {"x": x})
    assert not module.training and not layers[1].training
    assert 0.1 < float(module(x).detach().std()) < 10


def test_expected_ratios_are_read_and_judged(tmp_path: Path) -> None:
    expectations = read_expectations(ROOT / "benchmarks" / "expected.toml")
    assert expectations and all(e.case(2) for e in expectations)
    expectation = Expectation(model="minilm", fast="fast", slow="slow", at_least=2.0, sparsity=0.9)
    slow = timed("slow", 0.9, [40, 41, 42], [40, 41, 42])
    for fast_ns, holds in (([20, 20, 21], True), ([22, 22, 22], True), ([30, 30, 30], False)):
        results = made_up(slow, timed("fast", 0.9, fast_ns, [40, 41, 42]))
        assert judge(expectation, results).holds is holds
    lost = replace(slow, engine="fast", status="crashed", median_ms=None)
    assert "crashed" in judge(expectation, made_up(slow, lost)).text
    assert not judge(expectation, made_up(slow, lost)).holds


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[ratio]]\nmodel = 'minilm'\n", "fast, slow, at_least missing"),
        ("[[ratio]]\nmodell = 'minilm'\n", "did you mean model"),
        ("[[ratio]]\nat_least = 'two'\n", "type float"),
        (
            "[[ratio]]\nsparsity = [0, 0.9]\nat_least = [1, 2, 3]\n",
            "lists of \\[2, 3\\] values(.|\\n)*as many values",
        ),
        ("x = [", "no \\[\\[ratio"),
        ("x = 1", "no \\[\\[ratio"),
    ],
)
def test_a_bad_check_file_is_explained(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "expected.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_expectations(path)


def test_page_and_figures(tmp_path: Path) -> None:
    rows = [
        timed(engine, sparsity, ns, [100, 110, 120])
        for sparsity in (0.0, 0.9)
        for engine, ns in (("openvino", [100, 110, 120]), ("sparse_compiler", [50, 51, 52]))
    ]
    rows.append(Row(rows[-1].case, "deepsparse", "missing", "its environment | cannot be made"))
    page = write_page(made_up(*rows), tmp_path).read_text()
    assert "2.16 [2.00, 2.31]" in page and "1 (baseline)" in page and "a processor" in page
    assert "- deepsparse: missing: its environment" in page
    (figure,) = (tmp_path / "benchmarks").glob("*.svg")
    assert f"(benchmarks/{figure.name})" in page and figure.with_suffix(".png").is_file()
    before = figure.read_bytes()
    plot_results(made_up(*rows), tmp_path / "benchmarks")
    assert figure.read_bytes() == before
    partial = write_page(replace(made_up(*rows), partial=True), tmp_path).read_text()
    assert "partial" in partial


def test_rows_without_time_are_listed_once() -> None:
    rows = [Row(Case("bert", s), "x", "missing", "why") for s in (0.0, 0.9)]
    assert refusals(rows) == ["x: missing: why (0 %, 90 %)"]
    assert [row.status for row in interrupted([Row(Case("bert"), "x")])] == ["interrupted"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (1234.4, "1234"), (12.34, "12.3"), (0.5, "0.500"), (5e-5, "5.0e-05")],
)
def test_numbers_read_well(value: float | None, text: str) -> None:
    assert number(value) == text


def test_foreign_results_are_refused(tmp_path: Path) -> None:
    for content in ("{}", "no json", json.dumps({"schema": 99})):
        (tmp_path / "r.json").write_text(content)
        with pytest.raises(InputError):
            Results.load(tmp_path / "r.json")


def test_command_line_errors_have_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sparse-compiler", "bench", "minlm"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == cli.EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert "did you mean minilm" in said and "Traceback" not in said


def test_importing_the_package_brings_no_command_line() -> None:
    code = "import sys, sparse_compiler; print(sorted({'typer', 'rich'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(Options.from_env().compiler is None, reason="no C++ compiler")
def test_roofs_are_plausible_and_kept_when_quiet(tmp_path: Path) -> None:
    roofs = measure_roofs(1, tmp_path)
    assert roofs.vector_bytes in (16, 32, 64) and 0 < roofs.busy <= 1.05
    assert 1e9 < roofs.flops < 1e12 and 5e8 < roofs.bytes_per_s < 1e12
    assert roofs.fma or "fma" not in cpu_info()["flags"].split()
    kept = list(tmp_path.rglob("roofs.json"))
    assert bool(kept) is not roofs.disturbed
    if kept:
        assert measure_roofs(1, tmp_path) == roofs
    work = {"useful_flops": roofs.flops / 100, "bytes": roofs.bytes_per_s / 1000}
    assert shares(work, 20.0, roofs) == pytest.approx((0.5, 0.05))


def test_deepsparse_that_cannot_be_installed_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "ERROR: no matching distribution" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(deepsparse, "_python", lambda: str(python))
    with pytest.raises(WorkerError) as refusal:
        deepsparse.DeepSparse().command(tmp_path / "cache")
    assert refusal.value.status == "missing"
    assert "no matching distribution" in refusal.value.reason


def test_ratios_of_other_figures_and_limits(tmp_path: Path) -> None:
    """Compile times and memory as ratios, an absolute limit, and "fastest" among the rivals."""
    ours = replace(timed("ours", 0.9, [10, 10], [30, 30]), cold_s=2.0, warm_s=1.5, peak_bytes=130)
    slow = replace(timed("openvino", 0.9, [30, 30], [30, 30]), cold_s=3.0, peak_bytes=100)
    slower = timed("onnxruntime", 0.9, [60, 60], [30, 30])
    results = made_up(ours, slow, slower)
    case = {"model": "minilm", "sparsity": 0.9}

    def holds(at_least: float, of: str, slow: str = "openvino") -> bool:
        check = Expectation(**case, fast="ours", slow=slow, at_least=at_least, of=of, tolerance=0)
        return judge(check, results).holds

    assert holds(1.5, "cold") and not holds(1.6, "cold")
    assert holds(0.75, "memory") and not holds(0.8, "memory")
    assert holds(3.0, "time", "fastest") and not holds(3.1, "time", "fastest")
    assert not holds(0.1, "warm"), "openvino has none"
    for at_most, kept in ((1.5, True), (1.4, False)):
        limit = Limit(**case, engine="ours", of="warm", at_most=at_most, tolerance=0)
        assert judge(limit, results).holds is kept
    with pytest.raises(OptionError, match="did you mean warm"):
        Limit(**case, engine="ours", of="warmth", at_most=1).case(2)
    tables = read_expectations(ROOT / "benchmarks" / "engine.toml")
    assert {type(table) for table in tables} == {Expectation, Limit}
    assert all(table.case(2) for table in tables)
