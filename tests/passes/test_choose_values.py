"""Packed weights in half precision: as the options say, or as the model has them."""

from __future__ import annotations

import math

import pytest
import torch

from sparse_compiler.passes.base import Context
from sparse_compiler.passes.choose_values import ChooseValues
from tests.passes.checks import check_pass

FP32 = """
    input %x: f32[5, 4]
    param %w: f32[2, 4]
    %w.csr: f32[2, 4]{csr} = pack[format="csr"](%w)
    %y: f32[5, 2] = linear(%x, %w.csr)
    return %y
    """
HALF = (
    FP32.replace("{csr}", "{csr_fp16}").replace('"csr"', '"csr_fp16"').replace(".csr", ".csr_fp16")
)


def context(weight: torch.Tensor, weights: str = "fp16") -> Context:
    return Context(weights=weights, numbers={"w": weight})


def test_asked_for() -> None:
    weight = torch.tensor([[0.0, 1.0, 0.0, -2.5], [0.25, 0.0, 3.0, 0.0]])
    done = check_pass(FP32, ChooseValues(), HALF, params={"w": weight}, context=context(weight))
    assert done.value_errors == {"y": 0.0}


@pytest.mark.parametrize(
    ("value", "code"),
    [(65520.0, "out_of_range"), (math.inf, "not_finite"), (math.nan, "not_finite")],
)
def test_what_fp16_cannot_hold(value: float, code: str) -> None:
    weight = torch.ones(2, 4)
    weight[1, 2] = value
    done = check_pass(FP32, ChooseValues(), FP32, context=context(weight))
    assert [reason.code for reason in done.refusals["y"]] == [code]


def test_not_asked_for() -> None:
    check_pass(FP32, ChooseValues(), FP32, context=context(torch.ones(2, 4), "fp32"))


def test_as_the_model_has_them() -> None:
    before = """
        input %x: f32[5, 4]
        param %w: bf16[2, 4]
        %w.f32: f32[2, 4] = pointwise[expr="f32(x0)"](%w)
        %p: f32[2, 4]{csr} = pack[format="csr"](%w.f32)
        %y: f32[5, 2] = linear(%x, %p)
        return %y
        """
    after = before.replace("%p", "%p_bf16").replace("{csr}", "{csr_bf16}")
    after = after.replace('"csr"', '"csr_bf16"')
    weight = torch.randn(2, 4).to(torch.bfloat16)
    check_pass(before, ChooseValues(), after, context=context(weight, "fp32"))


def test_no_longer_exact() -> None:
    before = """
        input %x: f32[5, 4]
        param %w: bf16[2, 4]
        param %s: f32[2, 1]
        %w.f32: f32[2, 4] = pointwise[expr="f32(x0)"](%w)
        %f: f32[2, 4] = pointwise[expr="mul(x0, x1)"](%w.f32, %s)
        %p: f32[2, 4]{csr} = pack[format="csr"](%f)
        %y: f32[5, 2] = linear(%x, %p)
        return %y
        """
    numbers = {"w": torch.ones(2, 4, dtype=torch.bfloat16), "s": torch.full((2, 1), 0.1)}
    done = check_pass(before, ChooseValues(), before, context=Context(numbers=numbers))
    assert [reason.code for reason in done.refusals["y"]] == ["rounds"]
