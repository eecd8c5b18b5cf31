"""Weights in half precision, and models that are in it: numbers, fallbacks, what cannot be held."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

import sparse_compiler as sc
from sparse_compiler.backend import last_reports
from tests.zoo import sequences, vision

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("cached_kernels")]


def pruned(*sizes: int, density: float = 0.3) -> Any:
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    model = nn.Sequential(*layers[:-1]).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data *= torch.rand_like(parameter) < density
    return model


def compiled(model: nn.Module, *args: torch.Tensor, **options: Any) -> sc.Compiled:
    return sc.compile(model, args, options={"force_native": True}, **options)


@pytest.mark.parametrize(
    ("weights", "step"),
    [("fp16", 2.0**-11), pytest.param("bf16", 2.0**-8, marks=pytest.mark.system)],
)
@torch.no_grad()
def test_stored_in_half_precision_computed_in_fp32(weights: str, step: float) -> None:
    torch.manual_seed(0)
    model = pruned(96, 80, 40)
    for n in (1, 5, 40):
        x = torch.randn(n, 96)
        fast = compiled(model, x, weights=weights)
        rounded = copy.deepcopy(model)
        for layer in (rounded[0], rounded[2]):
            layer.weight.copy_(
                layer.weight.to(getattr(torch, {"fp16": "half"}.get(weights, "bfloat16")))
            )
        torch.testing.assert_close(fast(x), rounded(x), atol=1e-5, rtol=1e-4)
        for layer in fast.inspect().json()["layers"]:
            assert layer["format"].endswith(f"_{weights}")
            assert 0 < layer["value_error"] <= step


@pytest.mark.parametrize("columns", [1, 40])
@torch.no_grad()
def test_weights_in_fp16_under_torch_compile(columns: int) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    model, x = pruned(96, 80, 40), torch.randn(columns, 96)
    rounded = copy.deepcopy(model)
    for layer in (rounded[0], rounded[2]):
        layer.weight.copy_(layer.weight.half())
    last_reports.clear()
    options = {"weights": "fp16", "force_native": True}
    fast = torch.compile(model, backend="sparse_compiler", options=options)
    torch.testing.assert_close(fast(x), rounded(x), atol=1e-5, rtol=1e-4)
    assert (fast(x) != model(x)).any(), "the weights were rounded"
    (report,) = (r.report for r in last_reports)
    assert report is not None
    assert [layer.values for layer in report.layers] == ["fp16"] * 2
    assert all(0 < (layer.value_error or 0) <= 2.0**-11 for layer in report.layers)
    model[0].weight.mul_(3)  # packed again, in the same precision
    rounded[0].weight.copy_(model[0].weight.half())
    torch.testing.assert_close(fast(x), rounded(x), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_weight_beyond_fp16_stays_fp32_and_says_so() -> None:
    torch.manual_seed(0)
    model, x = pruned(96, 80, 40), torch.randn(3, 96)
    # No zero meets the infinity: what 0 x inf gives depends on the format (docs/limits.md).
    model[2].weight[:, 7] = 0.5
    fast = compiled(model, x, weights="fp16")
    for value, code in ((1e5, "out_of_range"), (math.inf, "not_finite"), (math.nan, "not_finite")):
        model[0].weight[7, 7] = value
        got, want = fast(x), model(x)
        assert torch.equal(got.isnan(), want.isnan())
        torch.testing.assert_close(got, want, atol=1e-2, rtol=2e-3, equal_nan=True)
        first, second = fast.inspect().json()["layers"]
        assert first["reason"].startswith(code)
        assert not first["format"].endswith("fp16")
        assert second["format"].endswith("fp16")


def slow(family: Callable[..., Any]) -> Any:
    return pytest.param(family, marks=pytest.mark.slow)


HALF_ZOO = (
    sequences.bert,
    slow(sequences.gpt2),
    slow(sequences.llama),
    slow(vision.vit),
    vision.resnet,
)


@pytest.mark.system
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", HALF_ZOO, ids=lambda f: f.__name__)
@torch.no_grad()
def test_a_model_in_half_precision_is_nearer_to_the_truth(
    family: Callable[[int], Any], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    model, args, kwargs = family(2)
    low = copy.deepcopy(model.eval()).to(dtype)
    args = tuple(a.to(dtype) if a.is_floating_point() else a for a in args)
    wide = tuple(a.double() if a.is_floating_point() else a for a in args)
    truth = leaves(copy.deepcopy(low).double()(*wide, **kwargs))
    fast = sc.compile(low, args, kwargs, options={"force_native": True})
    assert fast.inspect().fallback_calls == 0
    for exact, eager, got in zip(
        truth, leaves(low(*args, **kwargs)), leaves(fast(*args, **kwargs)), strict=True
    ):
        assert got.dtype == eager.dtype
        off = (eager.double() - exact).abs().max()
        assert (got.double() - exact).abs().max() <= off


def leaves(value: object) -> list[torch.Tensor]:
    return [x for x in torch.utils._pytree.tree_leaves(value) if isinstance(x, torch.Tensor)]


@torch.no_grad()
@pytest.mark.system
def test_infinities_pass_the_borders() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU()).eval()
    model[0].weight.copy_(torch.eye(8))
    for dtype in (torch.float16, torch.bfloat16):
        low = copy.deepcopy(model).to(dtype)
        x = torch.tensor([[1.0, -2.0, math.inf, 6e4, 1e-7, -0.0, 3e-5, 0.1]] * 3).to(dtype)
        x[1, 2] = 1
        got = compiled(low, x)(x)
        assert torch.equal(got[1], x[1].clamp(min=0))
        assert got[0, 2] == math.inf


@torch.no_grad()
@pytest.mark.system
def test_stored_as_the_model_has_them() -> None:
    torch.manual_seed(0)
    low = pruned(96, 80, 40).to(torch.bfloat16)
    x = torch.randn(4, 96, dtype=torch.bfloat16)
    fast = compiled(low, x)
    for layer in fast.inspect().json()["layers"]:
        assert layer["format"].endswith("_bf16")
        assert layer["value_error"] == 0
