"""`sparse-compiler compile`, `inspect`, `run`, `cache`: every kind of model, JSON, exit codes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from sparse_compiler.cli import EXIT_USER_ERROR, app
from sparse_compiler.errors import SparseCompilerError, UnsupportedError
from sparse_compiler.sources import is_saved, read_source

pytestmark = [
    pytest.mark.system,
    pytest.mark.usefixtures("cached_kernels"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def make() -> tuple[nn.Module, tuple[Any, ...]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 8)).requires_grad_(False)
    model[0].weight *= torch.rand(96, 64) < 0.1
    return model, (torch.randn(16, 64),)


def make_nothing() -> int:
    return 3


HERE = f"{__name__}:make"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def program(folder: Path) -> str:
    model, args = make()
    path = folder / "model.pt2"
    torch.export.save(torch.export.export(model.eval(), args), path)
    return str(path)


@pytest.fixture(scope="module")
def saved(folder: Path) -> str:
    path = folder / "model.scz"
    ran("compile", HERE, "-o", str(path))
    return str(path)


@pytest.fixture(scope="module")
def hugging_face(folder: Path) -> str:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
    )
    path = folder / "bert"
    transformers.BertModel(config).save_pretrained(path)
    return str(path)


def ran(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def figures(*arguments: str) -> Any:
    """Nothing but JSON is printed."""
    return json.loads(ran(*arguments, "--json"))


def test_compile_inspect_run(program: str, folder: Path) -> None:
    output = folder / "new.scz"
    compiled = figures("compile", program, "--output", str(output))
    assert compiled["bytes"] == output.stat().st_size
    assert compiled["dense_bytes"] == 4 * (64 * 96 + 96 + 96 * 8 + 8)
    assert [layer["name"] for layer in figures("inspect", str(output))["layers"]] == ["0", "2"]
    (result,) = figures("run", str(output), "--rounds", "2")["outputs"]
    assert (result["shape"], result["dtype"]) == ([16, 8], "float32")


def test_the_same_numbers_from_every_form(program: str) -> None:
    model, args = make()
    wanted = model(*args)
    for form in (HERE, program):
        found = figures("run", form, "--rounds", "1")
        assert found["outputs"][0]["mean"] == pytest.approx(wanted.mean().item(), abs=1e-4)
        assert found["median_ms"] > 0


def test_a_hugging_face_folder(hugging_face: str, folder: Path) -> None:
    output = str(folder / "bert.scz")
    figures("compile", hugging_face, "-o", output, "--tokens", "12", "--batch", "2")
    first = figures("run", output, "--rounds", "1")["outputs"][0]
    assert first["shape"] == [2, 12, 32]
    source = read_source(hugging_face, tokens=99)
    assert source.kwargs["input_ids"].shape == (1, 16)  # as many as it has positions


def test_one_layer(saved: str) -> None:
    text = ran("inspect", saved, "--why", "0")
    assert "of its weights are not zero" in text
    assert "csr" in text
    entry = figures("inspect", saved, "--why", "0")
    assert entry["name"] == "0"


def test_the_graph_after_a_pass(saved: str) -> None:
    text = ran("inspect", saved, "--after", "fuse-pointwise")
    assert "linear[bias=true, epilogue=" in text
    changed = figures("inspect", saved, "--after", "fuse-pointwise", "--diff")["graph"]
    assert changed.startswith("--- before\n+++ after fuse-pointwise\n")
    assert any(line.startswith("-%") for line in changed.split("\n"))


def test_the_report_as_files(saved: str, tmp_path: Path) -> None:
    page, graphs = tmp_path / "report.html", tmp_path / "graphs.json"
    ran("inspect", saved, "--html", str(page), "--explorer", str(graphs))
    assert page.read_text().startswith("<!doctype html>")
    before, after = json.loads(graphs.read_text())["graphs"]
    for graph in (before, after):
        known = {node["id"] for node in graph["nodes"]}
        assert len(known) == len(graph["nodes"]) > 5
        for node in graph["nodes"]:
            assert {edge["sourceNodeId"] for edge in node["incomingEdges"]} <= known
    assert len(after["nodes"]) > len(before["nodes"])  # packed weights, relayouts


def test_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of its own: other tests compile into the shared one meanwhile."""
    monkeypatch.setenv("SPARSE_COMPILER_CACHE", str(tmp_path))
    for name, content in (("first", b"123"), ("second", b"45")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kernel.so").write_bytes(content)
    listed, size = figures("cache", "list"), figures("cache", "size")
    assert listed["folder"] == str(tmp_path)
    assert sorted(entry["bytes"] for entry in listed["files"]) == [2, 3]
    assert (size["files"], size["bytes"]) == (2, 5)
    assert str(size["files"]) in ran("cache", "size")


def test_clearing_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSE_COMPILER_CACHE", str(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "kernel.so").write_bytes(b"123")
    assert figures("cache", "clear") == {"folder": str(tmp_path), "removed": 1, "bytes": 3}
    assert figures("cache", "size")["bytes"] == 0


BAD = {
    "no file": ("run", "nothing.pt2"),
    "no model": ("inspect", "nothing"),
    "no module": ("inspect", "no.such.module:make"),
    "no function": ("inspect", f"{__name__}:nobody"),
    "another result": ("inspect", f"{__name__}:make_nothing"),
    "a folder of something else": ("inspect", "tests"),
    "an unknown pass": ("inspect", HERE, "--after", "fuse-pointwize"),
    "an unknown layer": ("inspect", HERE, "--why", "1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name: str) -> None:
    with pytest.raises(SparseCompilerError) as caught:
        CliRunner().invoke(app, list(BAD[name]), catch_exceptions=False)
    assert getattr(caught.value, "fix", "")


def test_a_saved_model_is_not_compiled_again(saved: str) -> None:
    assert is_saved(saved)
    with pytest.raises(UnsupportedError):
        CliRunner().invoke(app, ["compile", saved, "-o", "x"], catch_exceptions=False)


def test_exit_codes_of_the_program() -> None:
    command = [sys.executable, "-m", "sparse_compiler.cli"]
    bad = subprocess.run([*command, "run", "nothing"], capture_output=True, text=True)
    assert (bad.returncode, bad.stdout) == (EXIT_USER_ERROR, "")
    assert "fix:" in bad.stderr
    assert subprocess.run([*command, "--help"], capture_output=True).returncode == 0
