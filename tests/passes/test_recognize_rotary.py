"""Rotary embeddings written out become one op; other sums of products do not."""

import pytest

from sparse_compiler.passes.recognize_rotary import RecognizeRotary
from tests.passes.checks import check_pass, check_untouched

PASS = RecognizeRotary()
TEXT = """
    input %x: f32[2, 4, 5, 8]
    input %cos: f32[1, 5, 8]
    input %sin: f32[1, 5, 8]
    %c: f32[1, 1, 5, 8] = reshape[shape=(1, 1, 5, 8)](%cos)
    %s: f32[1, 1, 5, 8] = reshape[shape=(1, 1, 5, 8)](%sin)
    %left: f32[2, 4, 5, 8] = pointwise[expr="mul(x0, x1)"](%x, %c)
    %a: f32[2, 4, 5, 4] = slice[dim=3, stop=4](%x)
    %b: f32[2, 4, 5, 4] = slice[dim=3, start=4, stop=8](%x)
    %n: f32[2, 4, 5, 4] = pointwise[expr="neg(x0)"](%b)
    %turned: f32[2, 4, 5, 8] = cat[dim=3](%n, %a)
    %right: f32[2, 4, 5, 8] = pointwise[expr="mul(x0, x1)"](%turned, %s)
    """
SUM = '%y: f32[2, 4, 5, 8] = pointwise[expr="add(x0, x1)"](%left, %right)\nreturn %y'
ROTARY = "%y: f32[2, 4, 5, 8] = rotary(%x, %cos, %sin)\nreturn %y"


def test_fires():
    check_pass(TEXT + SUM, PASS, TEXT + ROTARY)


def test_a_table_without_batch_gets_one():
    text = TEXT.replace("input %cos: f32[1, 5, 8]", "input %c: f32[5, 8]").replace(
        "input %sin: f32[1, 5, 8]", "input %s: f32[5, 8]"
    )
    text = "\n".join(line for line in text.splitlines() if "reshape" not in line) + "\n"
    check_pass(
        text + SUM,
        PASS,
        text
        + """
        %y.cos: f32[1, 5, 8] = reshape[shape=(1, 5, 8)](%c)
        %y.sin: f32[1, 5, 8] = reshape[shape=(1, 5, 8)](%s)
        %y: f32[2, 4, 5, 8] = rotary(%x, %y.cos, %y.sin)
        return %y
        """,
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("neg(x0)", "exp(x0)"),
        ("(%n, %a)", "(%a, %n)"),
        ("(%turned, %s)", "(%x, %s)"),
        ("start=4, stop=8](%x)", "start=4, stop=8](%left)"),
    ],
)
def test_must_not_fire(old, new):
    assert old in TEXT
    check_untouched(TEXT.replace(old, new) + SUM, PASS)


def test_a_table_for_each_head():
    text = TEXT.replace("[1, 5, 8]", "[4, 5, 8]").replace("1, 1, 5, 8", "1, 4, 5, 8")
    check_untouched(text + SUM, PASS, "angles")
