"""Groups of channels as `sparse-compiler inspect MODEL --groups` prints them."""

import pytest
import torch
from rich.console import Console
from torch import nn

from sparse_compiler.commands import Example, Inspection, inspect_model
from sparse_compiler.errors import UnsupportedError
from sparse_compiler.inspector.channels import structure_of

pytestmark = pytest.mark.system


def normed() -> nn.Module:
    """A layer with two constant neurons in front of a norm, which keeps them."""
    torch.manual_seed(0)
    layers = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)
    model = nn.Sequential(*layers).eval().requires_grad_(False)
    model[0].weight[[2, 5]] = 0.0
    return model


def test_groups_and_what_keeps_constant_channels() -> None:
    model = normed()
    before = [tensor.clone() for tensor in model.state_dict().values()]
    structure = structure_of(model, (torch.randn(2, 4),))
    text = structure.text()
    assert "6 channels\n  written by 2.weight dim 0 [0:6]\n  read by 4.weight dim 1 [0:6]" in text
    assert "3 channels, fixed: " in text
    assert "kept although constant:\n  1.layer_norm: norm_statistics: " in text
    group = next(g for g in structure.json()["groups"] if g["channels"] == 6)
    writer = {"layer": "2.linear", "weight": "2.weight", "dim": 0, "ranges": [[0, 6]]}
    assert group["writers"] == [writer]
    after = model.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_compiled_model_has_no_groups_left(tmp_path) -> None:
    import sparse_compiler as sc

    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).eval()
    path = sc.export(model, (torch.randn(1, 4),), tmp_path / "model.scz")
    with pytest.raises(UnsupportedError, match="its dead channels are gone"):
        inspect_model(str(path), Example(), Console(), Inspection(groups=True))
