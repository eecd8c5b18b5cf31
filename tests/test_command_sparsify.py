"""`sparse-compiler sparsify`: every kind of model in, every form out, and what is refused."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

import sparse_compiler as sc
from sparse_compiler.cli import app
from sparse_compiler.command_sparsify import Wish
from sparse_compiler.errors import UnsupportedError
from sparse_compiler.pruning import Magnitude, Taylor
from sparse_compiler.sources import read_source

HERE = f"{__name__}:make"


class Residual(nn.Module):
    """Its last layer is too small to be pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.out = nn.Linear(64, 128), nn.Linear(128, 64), nn.Linear(64, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x + self.fc2(torch.relu(self.fc1(x))))


def make() -> tuple[nn.Module, tuple[Any, ...]]:
    torch.manual_seed(0)
    return Residual(), (torch.randn(4, 64),)


def inputs() -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        yield torch.randn(16, 64, generator=generator)


def pairs() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(x, torch.zeros(len(x), 8)) for x in inputs()]


def tokens() -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": torch.arange(2, 12).reshape(1, 10) + i} for i in range(4)]


def nothing() -> list[torch.Tensor]:
    return []


def one_tensor() -> torch.Tensor:
    return torch.zeros(3, 64)


def ran(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["sparsify", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def figures(*arguments: str) -> Any:
    """Nothing but JSON is printed."""
    return json.loads(ran(*arguments, "--json"))


@pytest.mark.parametrize("read", [torch.load, load_file], ids=["new.pt", "new.safetensors"])
def test_a_state_dict_loads_into_the_model(
    read: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    output = tmp_path / request.node.callspec.id
    found = figures(HERE, "-o", str(output), "--sparsity", "0.5")
    assert [layer["name"] for layer in found["layers"]] == ["fc1", "fc2", "out"]
    assert [layer["nonzeros"] for layer in found["layers"]] == [4096, 4096, 512]
    model, _ = make()
    dense = model.fc1.weight.detach().clone()
    model.load_state_dict(read(output))
    gone = model.fc1.weight == 0
    assert int(gone.sum()) == dense.numel() // 2
    torch.testing.assert_close(model.fc1.weight.detach(), dense.where(~gone, 0.0), rtol=0, atol=0)
    assert not list(tmp_path.glob(".*")), "something half written stays"


@pytest.mark.parametrize("criterion", ["second_order", "wanda"])
def test_calibration_inputs_come_from_a_function(criterion: str, tmp_path: Path) -> None:
    options = ("--criterion", criterion, "--sparsity", "0.75", "--exclude", "fc2")
    text = ran(HERE, "-o", str(tmp_path / "a.pt"), *options, "--data", f"{__name__}:inputs")
    assert re.search(r"^fc1 +128x64 +75\.0%", text, re.M)
    assert re.search(r"^fc2 +64x128 +0\.0%", text, re.M)
    state = torch.load(tmp_path / "a.pt")
    assert ((state["fc1.weight"] == 0).sum(dim=1) == 48).all()  # these two count row by row


def test_a_recipe_file_and_a_loss(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("criterion: taylor\nsparsity: 0.5\npattern: 4x1\nloss: mse\n")
    written = Wish(file=path).recipe()
    given = Wish(criterion="taylor", sparsity=0.5, pattern="4x1", loss="mse").recipe()
    assert written == given == Taylor(0.5, "4x1", loss=nn.functional.mse_loss)
    found = figures(
        HERE, "-o", str(tmp_path / "a.pt"), "--recipe", str(path), "--data", f"{__name__}:pairs"
    )
    assert found["layers"][0]["nonzeros"] == 4096


def test_fields_that_are_not_given_keep_their_defaults() -> None:
    assert Wish(sparsity=0.9).recipe() == Magnitude(0.9)
    assert Wish(pattern="2:4").recipe() == Magnitude(pattern="2:4")


@pytest.fixture
def program(tmp_path: Path) -> str:
    """With a convolution, a batch norm, and a layer that is called twice."""
    torch.manual_seed(0)
    twice = nn.Linear(64, 64)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten(), twice, nn.GELU(), twice,
    )  # fmt: skip
    path = tmp_path / "dense.pt2"
    torch.export.save(torch.export.export(model.eval(), (torch.randn(2, 3, 8, 8),)), path)
    return str(path)


@pytest.mark.system
def test_a_program_in_and_out(program: str, tmp_path: Path) -> None:
    output = tmp_path / "new.pt2"
    found = figures(program, "-o", str(output), "--sparsity", "0.9", "--pattern", "channel")
    kept = {layer["name"]: layer["nonzeros"] for layer in found["layers"]}
    # the first convolution stays dense, and so do channels that the model gives out
    assert kept == {"0": 16 * 27, "1": 3 * 16 * 9, "8": 64 * 64}
    new, old = read_source(str(output)), read_source(program)
    state = new.model.state_dict
    gone = state["1.weight"].flatten(1).count_nonzero(dim=1) == 0
    assert int(gone.sum()) == 29
    torch.testing.assert_close(state["1.weight"][~gone], old.model.state_dict["1.weight"][~gone])
    want = new.model.module()(*new.args)
    compiled = sc.compile(output, new.args)
    torch.testing.assert_close(compiled(*new.args), want, rtol=1e-4, atol=1e-5)


@pytest.mark.system
def test_a_module_in_and_a_program_out(tmp_path: Path) -> None:
    output = tmp_path / "new.pt2"
    options = ("--sparsity", "0.5", "--pattern", "neuron")
    ran(HERE, "-o", str(output), *options)
    state = read_source(str(output)).model.state_dict
    rows = state["fc1.weight"].count_nonzero(dim=1) == 0
    assert int(rows.sum()) == 64
    assert torch.equal(rows, state["fc2.weight"].count_nonzero(dim=0) == 0)


@pytest.mark.system
def test_a_hugging_face_folder_keeps_its_heads_and_files(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=16,
        num_labels=3,
    )
    folder, output = tmp_path / "dense", tmp_path / "new"
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("a\nb\n")
    options = ("--criterion", "wanda", "--sparsity", "0.5", "--include", "bert.encoder.*")
    data = ("--data", f"{__name__}:tokens", "--tokens", "8")
    ran(str(folder), "-o", str(output), *options, *data)
    assert (output / "vocab.txt").read_text() == "a\nb\n"
    dense = transformers.BertForSequenceClassification.from_pretrained(folder)
    found = transformers.BertForSequenceClassification.from_pretrained(output)
    assert torch.equal(found.classifier.weight, dense.classifier.weight)
    weight = found.bert.encoder.layer[0].output.dense.weight
    assert int(weight.count_nonzero()) == weight.numel() // 2
    masked = read_source(str(output), tokens=8)  # as `compile` reads it
    assert torch.equal(masked.model.encoder.layer[0].output.dense.weight, weight)
    with pytest.raises(UnsupportedError, match="it is the model itself"):
        ran(str(folder), "-o", str(folder), "--sparsity", "0.5")


BAD = {
    "no form": ((HERE, "-o", "folder", "--sparsity", "0.5"), "cannot write"),
    "no sparsity": ((HERE, "-o", "a.pt"), "no sparsity given"),
    "an unknown criterion": ((HERE, "-o", "a.pt", "--criterion", "wandb"), "mean wanda"),
    "an unknown loss": ((HERE, "-o", "a.pt", "--loss", "msee"), "mean mse"),
    "a loss that nobody reads": ((HERE, "-o", "a.pt", "--loss", "mse"), "magnitude reads no loss"),
    "a recipe twice": ((HERE, "-o", "a.pt", "--recipe", "a", "--scope", "erk"), "--scope beside"),
    "no recipe file": ((HERE, "-o", "a.pt", "--recipe", "none.yaml"), "cannot read a recipe"),
    "no data": (
        (HERE, "-o", "a.pt", "--criterion", "wanda", "--sparsity", "0.5"),
        "needs calibration data\n.*\n *fix: --data",
    ),
    "no such function": (
        (HERE, "-o", "a.pt", "--sparsity", "0.5", "--data", f"{__name__}:input"),
        "cannot find",
    ),
    "no batches": (
        (HERE, "-o", "a.pt", "--sparsity", "0.5", "--data", f"{__name__}:one_tensor"),
        "returned a Tensor",
    ),
    "empty data": (
        (HERE, "-o", "a.pt", "--criterion", "wanda", "--sparsity", "0.5", "--data",
         f"{__name__}:nothing"),
        "is empty",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_write_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, message = BAD[name]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsupportedError, match=message) as caught:
        ran(*arguments)
    assert caught.value.fix
    assert not list(tmp_path.iterdir())
