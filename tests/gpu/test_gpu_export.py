"""A model exported for a GPU that is elsewhere: source and binary inside, used only where asked."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
import triton
from torch import nn

import sparse_compiler as sc
from sparse_compiler.errors import ArtifactError, OptionError, UnsupportedError
from tests.test_damaged_models import rewritten

X = torch.randn(4, 2048, generator=torch.Generator().manual_seed(1))


def sparse_linear() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2048, 1024), nn.ReLU(), nn.Linear(1024, 8)).eval()
    model[0].weight.data *= torch.rand(1024, 2048) < 0.1
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return sparse_linear()


@pytest.fixture
def path(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Exported with a segment, which the cost model finds too small to pay."""
    monkeypatch.setenv("SPARSE_COMPILER_FORCE_NATIVE", "1")
    return sc.export(model, (X,), tmp_path / "model.scz", target="cuda:90")


@pytest.mark.system
def test_the_file_carries_every_kernel_its_source_and_the_ledger_of_that_gpu(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        gpu = json.loads(archive.read("manifest.json"))["gpu"]
        assert gpu["target"] == "cuda:90" and gpu["dtype"] == "fp32"
        source = archive.read("sources/gpu_0.py").decode()
        assert "triton.language" in source
        for kernel in gpu["kernels"]:
            binary = archive.read(f"binaries/{kernel['binary']}.{kernel['kernel']}.cubin")
            notes = json.loads(archive.read(f"binaries/{kernel['binary']}.{kernel['kernel']}.json"))
            assert binary.startswith(b"\x7fELF") and notes["target"]["arch"] == 90
            assert f"def {kernel['kernel']}(" in source
        assert {call for kernel in gpu["kernels"] for call in kernel["calls"]} >= {"1.relu"}
        assert len({kernel["kernel"] for kernel in gpu["kernels"]}) >= 3, "not layers alone"
        first, second = json.loads(archive.read("sources/gpu_report.json"))["layers"]
        assert first["format"] != "dense" and second["format"] == "dense"


@pytest.mark.system
def test_it_loads_as_any_other_and_uses_no_binary_unless_asked(path, model, monkeypatch) -> None:
    monkeypatch.setattr(triton.knobs.cache, "manager_class", None)
    torch.testing.assert_close(sc.load(path)(X), model(X), atol=1e-4, rtol=1e-4)
    assert triton.knobs.cache.manager_class is None, "code of the file was taken"
    torch.testing.assert_close(sc.load(path, prebuilt=True)(X), model(X), atol=1e-4, rtol=1e-4)
    assert triton.knobs.cache.manager_class is not None


@pytest.mark.system
def test_a_forged_binary_is_refused(path: Path) -> None:
    def forge(members: dict[str, bytes]) -> None:
        notes = next(name for name in members if name.startswith("binaries/") and "json" in name)
        members[notes] = b"{}"

    rewritten(path, forge)
    with pytest.raises(ArtifactError, match="binaries/"):
        sc.load(path, prebuilt=True)


@pytest.mark.system
def test_a_model_in_which_nothing_pays_carries_no_kernels_and_loads(tmp_path: Path) -> None:
    small, x = nn.Linear(8, 8).eval().requires_grad_(False), torch.randn(2, 8)
    path = sc.export(small, (x,), tmp_path / "model.scz", target="cuda:90")
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("manifest.json"))["gpu"]["kernels"] == []
    torch.testing.assert_close(sc.load(path, prebuilt=True)(x), small(x))


def test_what_cannot_be_exported_for_a_gpu(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.scz"
    with pytest.raises(OptionError, match="'cuda:77' names no GPU"):
        sc.export(model, (X,), path, target="cuda:77")
    small = nn.Linear(8, 8).double().eval().requires_grad_(False)
    with pytest.raises(UnsupportedError, match="fp64"):
        sc.export(small, (torch.ones(2, 8).double(),), path, target="cuda:90")
    assert not path.exists()
