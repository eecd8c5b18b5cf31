"""`sc.export` and `sc.load`: same numbers, size by the non-zeros, changed weights, bad files."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparse_compiler as sc
from sparse_compiler.errors import InputError
from tests.models import models, zoo
from tests.zoo_io import leaves

pytestmark = [
    pytest.mark.usefixtures("cached_kernels"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
ZOO = zoo()
QUICK = ("mlp",)
SYSTEM = ("bert", "resnet", "llama", "unet")


class Structured(nn.Module):
    """Arguments by name, a tied weight, a buffer of integers, a constant, nested results."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("order", torch.tensor([3, 1, 2, 0, 4, 7, 6, 5]))

    def forward(self, x: torch.Tensor, *, scale: torch.Tensor, twice: bool = False) -> Any:
        y = self.second(self.first(x))[:, self.order] * scale
        return {"sum": y.sum(1), "all": (y, [y * 2] if twice else [])}, x.shape[0], None


def mlp(density: float = 1.0, width: int = 64) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 8)).eval()
    with torch.no_grad():
        model[0].weight *= torch.rand_like(model[0].weight) < density
    return model.requires_grad_(False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.scz"


def decisions(compiled: sc.Compiled) -> dict:
    """The report without the bytes of dense weights: a mapped one is read where it lies."""
    found = compiled.inspect().json()
    for layer in found["layers"]:
        if layer["format"] == "dense":
            del layer["stored_bytes"]
    return found


def same_after_loading(name: str, path: Path) -> None:
    model, args, kwargs = ZOO[name]()
    sc.sparsify(model, sc.Magnitude(0.8, min_weights=64), inplace=True)
    sc.export(model, args, path, kwargs)
    here, loaded = sc.compile(model, args, kwargs), sc.load(path)
    found, wanted = leaves(loaded(*args, **kwargs)), leaves(here(*args, **kwargs))
    assert len(found) == len(wanted) > 0
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert decisions(loaded) == decisions(here)
    plain = leaves(loaded.to_module()(*args, **kwargs))
    for a, b in zip(plain, leaves(model(*args, **kwargs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", QUICK)
def test_same_numbers_after_loading(name: str, path: Path) -> None:
    same_after_loading(name, path)


@pytest.mark.system
@pytest.mark.parametrize("name", [name for name in models() if name in SYSTEM])
def test_other_kinds_of_models(name: str, path: Path) -> None:
    same_after_loading(name, path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ZOO if name not in (*QUICK, *SYSTEM)])
def test_every_model(name: str, path: Path) -> None:
    same_after_loading(name, path)


@pytest.mark.system
def test_structures_ties_buffers_and_constants(path: Path) -> None:
    model = Structured().eval().requires_grad_(False)
    x, scale = torch.randn(3, 8), torch.randn(3, 1)
    sc.export(model, (x,), path, {"scale": scale, "twice": True})
    loaded = sc.load(path)
    found, wanted = loaded(x, scale=scale, twice=True), model(x, scale=scale, twice=True)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError):
        loaded(x, scale=scale, twice=False)
    loaded.refit({"first.weight": torch.eye(8)})
    expected = (x[:, model.order] * scale).sum(1)
    torch.testing.assert_close(loaded(x, scale=scale, twice=True)[0]["sum"], expected)


@pytest.mark.system
def test_sizes_stay_symbolic(path: Path) -> None:
    model, batch = mlp(), torch.export.Dim("batch", min=1, max=9)
    sc.export(model, (torch.randn(4, 64),), path, dynamic_shapes=({0: batch},))
    loaded = sc.load(path)
    plain = loaded.to_module()
    for size in (1, 4, 9):
        x = torch.randn(size, 64)
        torch.testing.assert_close(loaded(x), model(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(plain(x), model(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError):
        loaded(torch.randn(10, 64))


@pytest.mark.parametrize(("density", "most"), [(0.5, 0.55), (0.1, 0.14), (0.02, 0.04)])
def test_the_size_follows_the_non_zeros(density: float, most: float, path: Path) -> None:
    model = nn.Linear(400, 400, bias=False).requires_grad_(False)
    model.weight *= torch.rand(400, 400) < density
    sc.export(model, (torch.randn(1, 400),), path)
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("weights.safetensors").file_size / (400 * 400 * 4) < most


@pytest.mark.system
def test_masked_weights_are_stored_as_what_they_come_to(path: Path) -> None:
    model = nn.Sequential(nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 4)).eval()
    masked = sc.sparsify(model, sc.Magnitude(0.9)).requires_grad_(False)
    x = torch.randn(3, 200)
    sc.export(masked, (x,), path)
    assert path.stat().st_size < 0.125 * 200 * 200 * 4 + 20_000  # the text beside it
    loaded = sc.load(path)
    torch.testing.assert_close(loaded(x), masked(x), rtol=1e-5, atol=1e-5)
    names = set(loaded.to_module().state_dict())
    assert names == {"0.weight", "0.bias", "2.weight", "2.bias"}
    loaded.refit({"0.weight": torch.zeros(200, 200)})
    torch.testing.assert_close(loaded(x)[0], loaded(x)[1])


@pytest.mark.system
def test_weight_norm_and_shared_parts(path: Path) -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(16, 16)), nn.ReLU())
    x = torch.randn(3, 16)
    sc.export(model.eval().requires_grad_(False), (x,), path)
    loaded = sc.load(path)
    assert "0.weight" in loaded.to_module().state_dict()
    torch.testing.assert_close(loaded(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.system
def test_weights_may_change_after_loading(path: Path) -> None:
    model = mlp(0.1)
    x = torch.randn(5, 64)
    sc.export(model, (x,), path)
    before, loaded = path.read_bytes(), sc.load(path)
    other = mlp(0.3)
    nn.init.normal_(other[2].weight)
    loaded.refit(other.state_dict())
    torch.testing.assert_close(loaded(x), other(x), rtol=1e-5, atol=1e-5)
    assert path.read_bytes() == before
    with pytest.raises(InputError):
        loaded.refit({"0.weight": torch.zeros(3, 3)})
    state = loaded.to_module().state_dict()
    assert {name: tuple(t.shape) for name, t in state.items()} == {
        name: tuple(t.shape) for name, t in other.state_dict().items()
    }


@pytest.mark.system
def test_gradients_flow_through_a_loaded_model(path: Path) -> None:
    model = mlp(0.5)
    x = torch.randn(2, 64)
    sc.export(model, (x,), path)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    sc.load(path)(ours).sum().backward()
    model(theirs).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_equal_models_give_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        sc.export(mlp(0.3), (torch.ones(2, 64),), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_dense_weights_stay_in_the_file(path: Path) -> None:
    sc.export(mlp(), (torch.ones(2, 64),), path)
    weight = sc.load(path).pipeline.weights.tensors["0.weight"]
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    held = [m for m in maps if m[-1] == str(path)]
    begin, end = (int(part, 16) for part in held[-1][0].split("-"))
    assert begin <= weight.data_ptr() < end
    assert weight.data_ptr() % 4 == 0


def test_members_are_for_reading(path: Path) -> None:
    sc.export(mlp(0.1), (torch.ones(2, 64),), path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        report = json.loads(archive.read("report.json"))
        assert [layer["name"] for layer in report["layers"]] == ["0", "2"]
        assert b"linear" in archive.read("program.txt")
        assert b"#include" in archive.read("sources/0.cpp")
