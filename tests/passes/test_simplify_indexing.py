"""SimplifyIndexing: whole ranges in order are a view; anything else stays."""

import pytest

from sparse_compiler.passes.simplify_indexing import SimplifyIndexing
from tests.passes.checks import check_pass, check_untouched

MASK = """
    symbol B in [1, 64]
    input %m: i64[B, 5]
    %b: i64[B] = iota[length=B]()
    %s: i64[5] = iota[length=5]()
    %b4: i64[B, 1, 1, 1] = reshape[shape=(B, 1, 1, 1)](%b)
    %s4: i64[1, 1, 1, 5] = reshape[shape=(1, 1, 1, 5)](%s)
    %y: i64[B, 1, 1, 5] = INDEX
    return %y
    """


def test_the_mask_of_a_transformer() -> None:
    check_pass(
        MASK.replace("INDEX", "index(%m, %b4, %s4)"),
        SimplifyIndexing(),
        MASK.replace("INDEX", "reshape[shape=(B, 1, 1, 5)](%m)"),
    )


def test_some_dimensions_only() -> None:
    text = """
    input %x: i64[2, 5, 3]
    %s: i64[5] = iota[length=5]()
    %y: i64[2, 5, 3] = INDEX
    return %y
    """
    check_pass(
        text.replace("INDEX", "index[dim=1](%x, %s)"),
        SimplifyIndexing(),
        text.replace("INDEX", "reshape[shape=(2, 5, 3)](%x)"),
    )


# --- must not fire --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "iota",
    [
        "iota[length=4]()",  # not all
        "iota[length=5, start=1]()",
        "iota[length=5, step=2]()",
        'pointwise[expr="sub(4, x0)"](%k)',
    ],
)
def test_numbers_that_are_no_whole_range(iota: str) -> None:
    size = 4 if "length=4" in iota else 5
    text = f"""
    input %x: i64[12]
    %k: i64[5] = iota[length=5]()
    %s: i64[{size}] = {iota}
    %y: i64[{size}] = index(%x, %s)
    return %y
    """
    check_untouched(text, SimplifyIndexing(), "indices")


def test_ranges_that_turn_the_tensor_round() -> None:
    text = """
    input %x: i64[4, 5]
    %a: i64[4] = iota[length=4]()
    %b: i64[5] = iota[length=5]()
    %c: i64[5, 1] = reshape[shape=(5, 1)](%b)
    %y: i64[5, 4] = index(%x, %a, %c)
    return %y
    """
    check_untouched(text, SimplifyIndexing(), "indices")


def test_a_diagonal() -> None:
    text = """
    input %x: i64[4, 4]
    %a: i64[4] = iota[length=4]()
    %y: i64[4] = index(%x, %a, %a)
    return %y
    """
    check_untouched(text, SimplifyIndexing(), "indices")
