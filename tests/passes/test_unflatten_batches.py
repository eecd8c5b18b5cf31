"""A product of joined batches is the product of what they were; other reshapes stay."""

import pytest

from sparse_compiler.passes.unflatten_batches import UnflattenBatches
from tests.passes.checks import check_pass, check_untouched

PASS = UnflattenBatches()
JOINED = """
        input %a: f32[2, 4, 5, 8]
        input %b: f32[2, 4, 8, 6]
        %af: f32[8, 5, 8] = reshape[shape=(8, 5, 8)](%a)
        %bf: f32[8, 8, 6] = reshape[shape=(8, 8, 6)](%b)
        %m: f32[8, 5, 6] = matmul(%af, %bf)
        %y: f32[2, 4, 5, 6] = reshape[shape=(2, 4, 5, 6)](%m)
"""


def test_product_of_joined_batches():
    check_pass(
        JOINED + "return %y",
        PASS,
        """
        input %a: f32[2, 4, 5, 8]
        input %b: f32[2, 4, 8, 6]
        %y: f32[2, 4, 5, 6] = matmul(%a, %b)
        return %y
        """,
    )


def test_transpose_of_a_joined_batch():
    check_pass(
        """
        input %a: f32[2, 4, 5, 8]
        %f: f32[8, 5, 8] = reshape[shape=(8, 5, 8)](%a)
        %p: f32[8, 8, 5] = permute[dims=(0, 2, 1)](%f)
        %y: f32[2, 4, 8, 5] = reshape[shape=(2, 4, 8, 5)](%p)
        return %y
        """,
        PASS,
        """
        input %a: f32[2, 4, 5, 8]
        %y: f32[2, 4, 8, 5] = permute[dims=(0, 1, 3, 2)](%a)
        return %y
        """,
    )


@pytest.mark.parametrize(
    ("b", "back"),
    [
        ("f32[4, 2, 8, 6]", "2, 4, 5, 6"),  # the other operand was split otherwise
        ("f32[2, 4, 8, 6]", "4, 2, 5, 6"),  # split otherwise behind
        ("f32[2, 4, 8, 6]", "2, 4, 30"),  # more than the batch is changed
    ],
)
def test_other_batches_stay(b, back):
    check_untouched(
        f"""
        input %a: f32[2, 4, 5, 8]
        input %b: {b}
        %af: f32[8, 5, 8] = reshape[shape=(8, 5, 8)](%a)
        %bf: f32[8, 8, 6] = reshape[shape=(8, 8, 6)](%b)
        %m: f32[8, 5, 6] = matmul(%af, %bf)
        %y: f32[{back}] = reshape[shape=({back})](%m)
        return %y
        """,
        PASS,
    )


def test_a_product_that_is_read_elsewhere_stays():
    check_untouched(
        JOINED + "return %y, %m",
        PASS,
    )


def test_a_transpose_that_moves_the_batch_stays():
    check_untouched(
        """
        input %a: f32[2, 4, 5, 8]
        %f: f32[8, 5, 8] = reshape[shape=(8, 5, 8)](%a)
        %p: f32[5, 8, 8] = permute[dims=(1, 0, 2)](%f)
        %y: f32[5, 2, 4, 8] = reshape[shape=(5, 2, 4, 8)](%p)
        return %y
        """,
        PASS,
    )
