"""What is counted and computed from weights before they are packed."""

import gc

import pytest
import torch
from torch import nn

from sparse_compiler.errors import UnsupportedError
from sparse_compiler.frontends import export
from sparse_compiler.runtime import packing
from sparse_compiler.runtime.packing import as_multiplied, nonzeros

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nonzeros_are_counted_in_every_part(dtype, monkeypatch) -> None:
    monkeypatch.setattr(packing, "_COUNTED", 16)
    value = torch.zeros(7, 11)
    value[::2, 1::3] = 3
    value[0, 0] = -0.0
    assert nonzeros(value.to(dtype)) == 4 * 4
    assert nonzeros(value.to(dtype).T) == 4 * 4
    assert nonzeros(value.to(dtype)[:0]) == 0


def test_nan_is_no_zero() -> None:
    assert nonzeros(torch.tensor([0.0, float("nan"), float("inf")])) == 2


def test_kernels_in_parts_are_those_made_at_once(monkeypatch) -> None:
    torch.manual_seed(0)
    weight = torch.randn(70, 5, 3, 3)
    in_parts = as_multiplied("winograd", weight)
    monkeypatch.setattr(packing, "_DOUBLES", 1000)
    assert in_parts.shape == (16 * 70, 5)
    assert torch.equal(in_parts, as_multiplied("winograd", weight))
    corner = weight[:, :, 0, 0]
    assert torch.equal(in_parts[:70], corner), "the first point is the kernel's corner"


class Fails(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen.append(gc.isenabled())
        raise ValueError("as a model may")


seen: list[bool] = []


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_rests_during_a_trace_and_is_as_before(enabled) -> None:
    seen.clear()
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(UnsupportedError, match="as a model may"):
            export.export_module(Fails(), (torch.zeros(2),))
        assert gc.isenabled() is enabled
        assert seen == [False]
    finally:
        gc.enable()
