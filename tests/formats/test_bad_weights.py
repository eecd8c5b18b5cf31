"""Weights that fit nothing well: right, and refused with a reason in the ledger."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sparse_compiler as sc

pytestmark = pytest.mark.system


class Odd(nn.Module):
    """A layer for each kind of weight, each with an input of its own."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {
            "full": (48, 32),  # a density that no format gains by
            "empty_rows": (48, 32),
            "empty": (48, 32),
            "single": (1, 1),
            "narrow": (10, 16),  # no multiple of four
            "nan": (48, 32),
            "far": (48, 32),  # a value beyond fp16
        }
        self.layers = nn.ModuleDict({name: nn.Linear(*size) for name, size in sizes.items()})
        with torch.no_grad():
            weights = {name: layer.weight for name, layer in self.layers.items()}
            weights["full"][0, 0] = 0
            weights["empty_rows"][::2] = 0
            weights["empty_rows"][1::2, ::3] = 0
            weights["empty"].zero_()
            for name in ("nan", "far"):
                weights[name][torch.rand(32, 48) < 0.8] = 0
            weights["nan"][3, 5] = torch.nan
            weights["far"][3, 5] = 70000.0

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            name: layer(x[:, : layer.in_features] + 0.1 * i)
            for i, (name, layer) in enumerate(self.layers.items())
        }


@pytest.mark.parametrize("columns", [5, 40])
def test_right_and_with_a_reason(columns: int) -> None:
    """On few columns, which have kernels of their own, and on many."""
    torch.manual_seed(0)
    model, x = Odd().eval(), torch.randn(columns, 48)
    wanted = "layers.narrow=nm_2_4,layers.full=rows,layers.empty=csr,layers.empty_rows=rows"
    options = {"format": wanted, "force_native": True}
    with torch.no_grad():
        fast = sc.compile(model, (x,), weights="fp16", options=options)
        got, want = fast(x), model(x)
    for name in want:
        scale = want[name].nan_to_num().abs().max()
        assert torch.allclose(got[name], want[name], rtol=2e-3, atol=2e-3 * scale, equal_nan=True)
    entries = {entry.name.removeprefix("layers."): entry for entry in fast.inspect().layers}

    def reason(name: str, format_: str) -> str:
        (found,) = (c for c in entries[name].candidates if c.format == format_)
        return str(found.reason).split(":")[0]

    assert reason("narrow", "nm_2_4") == "width"
    assert reason("full", "rows") == "none_dead"
    assert entries["full"].format == "dense_fp16"
    assert entries["empty_rows"].format == "rows_fp16"
    assert str(entries["nan"].reason).startswith("not_finite")
    assert str(entries["far"].reason).startswith("out_of_range")
    assert entries["nan"].values == entries["far"].values == "fp32"
    assert got["nan"][:, 3].isnan().all()
    assert not got["nan"][:, [*range(3), *range(4, 32)]].isnan().any()
