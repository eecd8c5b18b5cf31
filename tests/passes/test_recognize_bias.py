"""A vector of weights added behind a layer becomes its bias; nothing else does."""

import pytest

from sparse_compiler.passes.recognize_bias import RecognizeBias
from tests.passes.checks import check_pass, check_untouched

PASS = RecognizeBias()


def linear(bias: str, expr: str = "add(x0, x1)", result: str = "%y") -> str:
    return f"""
        input %x: f32[2, 5, 8]
        param %w: f32[6, 8]
        {bias}
        %l: f32[2, 5, 6] = linear(%x, %w)
        %y: f32[2, 5, 6] = pointwise[expr="{expr}"](%l, %b)
        return {result}
        """


@pytest.mark.parametrize("expr", ["add(x0, x1)", "add(x1, x0)"])
def test_bias_of_a_linear(expr):
    check_pass(
        linear("param %b: f32[6]", expr),
        PASS,
        """
        input %x: f32[2, 5, 8]
        param %w: f32[6, 8]
        param %b: f32[6]
        %y: f32[2, 5, 6] = linear[bias=true](%x, %w, %b)
        return %y
        """,
    )


def test_bias_of_a_convolution_as_a_column():
    check_pass(
        """
        input %x: f32[2, 3, 7, 7]
        param %w: f32[4, 3, 3, 3]
        param %b: f32[4]
        %l: f32[2, 4, 5, 5] = conv[stride=(1, 1), padding=(0, 0), dilation=(1, 1)](%x, %w)
        %c: f32[1, 4, 1, 1] = reshape[shape=(1, 4, 1, 1)](%b)
        %y: f32[2, 4, 5, 5] = pointwise[expr="add(x1, x0)"](%c, %l)
        return %y
        """,
        PASS,
        """
        input %x: f32[2, 3, 7, 7]
        param %w: f32[4, 3, 3, 3]
        param %b: f32[4]
        %c: f32[1, 4, 1, 1] = reshape[shape=(1, 4, 1, 1)](%b)
        %y: f32[2, 4, 5, 5] = conv[stride=(1, 1), padding=(0, 0), dilation=(1, 1), bias=true](%x, %w, %b)
        return %y
        """,  # noqa: E501
    )


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        (linear("param %b: f32[5, 6]"), ["no_bias"]),  # another one for each row
        (linear("param %b: f32[1]"), ["no_bias"]),  # one for all channels
        (linear("input %b: f32[6]"), []),  # changes from call to call
        (linear("param %b: f32[6]", "sub(x0, x1)"), []),
        (linear("param %b: f32[6]", result="%y, %l"), ["shared_value"]),  # read without it too
    ],
)
def test_other_sums_stay(text, codes):
    check_untouched(text, PASS, *codes)
