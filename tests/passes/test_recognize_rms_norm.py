"""RMS norms written out with reductions become one op; what only looks like one does not."""

import pytest

from sparse_compiler.passes.recognize_rms_norm import RecognizeRmsNorm
from tests.passes.checks import check_pass, check_untouched

NORM = """
input %x: f32[s0, 7, 8]
param %w: f32[8]
%pow: f32[s0, 7, 8] = pointwise[expr="pow(x0, 2.0)"](%x)
%mean: f32[s0, 7, 1] = reduce[fn="mean", dims=(2,), keepdim=true](%pow)
%add: f32[s0, 7, 1] = pointwise[expr="add(x0, 1e-05)"](%mean)
%rsqrt: f32[s0, 7, 1] = pointwise[expr="rsqrt(x0)"](%add)
%mul: f32[s0, 7, 8] = pointwise[expr="mul(x0, x1)"](%x, %rsqrt)
%y: f32[s0, 7, 8] = pointwise[expr="mul(x0, x1)"](%w, %mul)
return %y
"""
SYMBOL = "symbol s0 in [1, 64]\n"


def test_fires_with_its_weight():
    check_pass(
        SYMBOL + NORM,
        RecognizeRmsNorm(),
        SYMBOL
        + NORM.replace(
            'pointwise[expr="mul(x0, x1)"](%x, %rsqrt)', "rms_norm[eps=1e-05, scale=false](%x)"
        ).replace('pointwise[expr="mul(x0, x1)"](%w, %mul)', "rms_norm[eps=1e-05](%x, %w)"),
    )


def test_fires_without_one_in_other_words():
    check_pass(
        """
        input %x: f32[5, 8]
        %square: f32[5, 8] = pointwise[expr="mul(x0, x0)"](%x)
        %mean: f32[5, 1] = reduce[fn="mean", dims=(1,), keepdim=true](%square)
        %r: f32[5, 1] = pointwise[expr="rsqrt(add(x0, 0.001))"](%mean)
        %y: f32[5, 8] = pointwise[expr="mul(x0, x1)"](%r, %x)
        return %y
        """,
        RecognizeRmsNorm(),
        """
        input %x: f32[5, 8]
        %square: f32[5, 8] = pointwise[expr="mul(x0, x0)"](%x)
        %mean: f32[5, 1] = reduce[fn="mean", dims=(1,), keepdim=true](%square)
        %r: f32[5, 1] = pointwise[expr="rsqrt(add(x0, 0.001))"](%mean)
        %y: f32[5, 8] = rms_norm[eps=0.001, scale=false](%x)
        return %y
        """,
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("pow(x0, 2.0)", "pow(x0, 3.0)"),
        ("dims=(2,)", "dims=(1,)"),
        ('"rsqrt(x0)"', '"sqrt(x0)"'),
        ('"add(x0, 1e-05)"', '"mul(x0, 1e-05)"'),
        ("(%x, %rsqrt)", "(%pow, %rsqrt)"),
    ],
)
def test_must_not_fire(old, new):
    text = SYMBOL + NORM.replace(old, new)
    if "(1,)" in new:
        text = text.replace("[s0, 7, 1]", "[s0, 1, 8]")
    check_untouched(text, RecognizeRmsNorm())


def test_a_weight_that_is_an_input_stays_outside():
    text = SYMBOL + NORM.replace("param %w: f32[8]", "input %w: f32[8]")
    after = text.replace(
        'pointwise[expr="mul(x0, x1)"](%x, %rsqrt)', "rms_norm[eps=1e-05, scale=false](%x)"
    )
    check_pass(text, RecognizeRmsNorm(), after)
