"""Every format in compiled models, forced by the options: linears and convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sparse_compiler as sc
from sparse_compiler.formats.base import FORMATS
from tests.formats.suited import suited
from tests.formats.test_formats import MORE

pytestmark = pytest.mark.system

UNKNOWN = ("nm_1_2", "nm_3_7", "nm_5_32", "nm_1_8_csr", "block_12x5", "sorted_8x4")
"""Formats that the facts say nothing of, so that they are refused."""
NAMES = [n for n in [*sorted(FORMATS), *MORE, "sorted_8x1"] if n not in UNKNOWN]


def patterned(name: str, weight: torch.Tensor) -> torch.Tensor:
    """Random numbers in the pattern that a format is for."""
    format_ = FORMATS[name]
    if format_.family == "nm":
        n, m = format_.parameters
        kept = torch.rand(weight.shape[0], weight.shape[1] // m, m).argsort(2) < n
        return weight * kept.flatten(1)
    if format_.family in ("compact", "split"):
        return standing_out(name, weight)
    rows, columns = (max(1, size) for size in format_.parameters)
    high, wide = -(-weight.shape[0] // rows), -(-weight.shape[1] // columns)
    blocks = (torch.rand(high, wide) < 0.3).repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    kept = blocks[: weight.shape[0], : weight.shape[1]]
    if format_.family == "sorted":
        kept = kept[torch.randperm(len(kept))]
    return suited(format_, weight * kept)


def standing_out(name: str, weight: torch.Tensor) -> torch.Tensor:
    """A third of the rows or columns full, or N of M but for some; nothing else, or a tenth."""
    rest = 0.1 if name.endswith("_csr") else 0.0
    kept = torch.rand(weight.shape) < rest
    if name.startswith("nm"):
        kept = (torch.rand(weight.shape[0], weight.shape[1] // 4, 4).argsort(2) < 2).flatten(1)
        kept[::7, ::9] = True
    elif name.startswith("rows"):
        kept[::3] = True
    else:
        kept[:, ::3] = True
    return weight * kept


class Layers(nn.Module):
    """A linear and a convolution for each format."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.linears = nn.ModuleDict({n: nn.Linear(96, 70) for n in names})
        self.convs = nn.ModuleDict({n: nn.Conv2d(16, 24, 3, padding=1) for n in names})
        with torch.no_grad():
            for name in names:
                for layer in (self.linears[name], self.convs[name]):
                    weight = layer.weight
                    weight.copy_(patterned(name, weight.flatten(1)).reshape(weight.shape))

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        # inputs of their own, or they would be merged into one linear
        own = [layer(x + 0.1 * i) for i, layer in enumerate(self.linears.values())]
        linear = torch.stack(own).relu().sum((1, 2))
        conv = torch.stack([layer(image) for layer in self.convs.values()]).relu().sum((1, 3, 4))
        return torch.cat([linear, conv], 1)


def test_what_the_facts_do_not_know_is_refused() -> None:
    layer = nn.Linear(56, 40).eval()
    with torch.no_grad():
        fast = sc.compile(layer, (torch.ones(8, 56),), options={"format": "nm_3_7"})
    (entry,) = fast.inspect().layers
    (refused,) = (c for c in entry.candidates if c.format == "nm_3_7")
    assert str(refused.reason).startswith("no_facts: ")
    assert entry.format != "nm_3_7"


@pytest.mark.parametrize("part", range(3))
def test_agrees_with_eager(part: int) -> None:
    torch.manual_seed(part)
    names = NAMES[part::3]
    model = Layers(names).eval()
    feed = torch.randn(3, 11, 96), torch.randn(2, 16, 13, 9)
    wanted = ",".join(f"{kind}.{name}={name}" for name in names for kind in ("linears", "convs"))
    with torch.no_grad():
        fast = sc.compile(model, feed, options={"format": wanted})
        used = {layer.name: layer.format for layer in fast.inspect().layers}
        for name in names:
            assert used[f"linears.{name}"] == used[f"convs.{name}"] == name
        want = model(*feed)
        assert (fast(*feed) - want).abs().max() <= 2e-5 * want.abs().max()
