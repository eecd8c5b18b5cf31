"""Equal ops on equal inputs become one value; randomness and the graph's results do not."""

from sparse_compiler.passes.merge_duplicates import MergeDuplicates
from tests.passes.checks import check_pass, check_untouched

PASS = MergeDuplicates()


def test_duplicates_of_duplicates_merge_in_one_run():
    check_pass(
        """
        input %x: f32[s0, 4]
        %a: f32[s0, 4] = pointwise[expr="relu(x0)"](%x)
        %b: f32[s0, 4] = pointwise[expr="relu(x0)"](%x)
        %c: f32[s0, 4] = pointwise[expr="exp(x0)"](%a)
        %d: f32[s0, 4] = pointwise[expr="exp(x0)"](%b)
        %e: f32[s0, 4] = pointwise[expr="sub(x0, x1)"](%c, %d)
        return %e
        """,
        PASS,
        """
        input %x: f32[s0, 4]
        %a: f32[s0, 4] = pointwise[expr="relu(x0)"](%x)
        %c: f32[s0, 4] = pointwise[expr="exp(x0)"](%a)
        %e: f32[s0, 4] = pointwise[expr="sub(x0, x1)"](%c, %c)
        return %e
        """,
    )


def test_what_follows_an_output_takes_its_value():
    check_pass(
        """
        input %x: f32[4]
        %a: f32[4] = pointwise[expr="relu(x0)"](%x)
        %b: f32[4] = pointwise[expr="relu(x0)"](%x)
        %c: f32[4] = pointwise[expr="exp(x0)"](%b)
        return %a, %c
        """,
        PASS,
        """
        input %x: f32[4]
        %a: f32[4] = pointwise[expr="relu(x0)"](%x)
        %c: f32[4] = pointwise[expr="exp(x0)"](%a)
        return %a, %c
        """,
    )


def test_two_equal_outputs_stay_two():
    check_untouched(
        """
        input %x: f32[4]
        param %m: f32[4]
        %a: f32[4] = pointwise[expr="relu(x0)"](%x)
        %b: f32[4] = pointwise[expr="relu(x0)"](%x)
        %c: f32[4] = pointwise[expr="relu(x0)"](%x)
        return %a, %b
        update %m = %c
        """,
        PASS,
    )


def test_another_attribute_input_or_order_is_another_value():
    check_untouched(
        """
        input %x: f32[4, 4]
        input %y: f32[4, 4]
        %a: f32[4, 4] = pointwise[expr="sub(x0, x1)"](%x, %y)
        %b: f32[4, 4] = pointwise[expr="sub(x0, x1)"](%y, %x)
        %c: f32[4, 4] = pointwise[expr="sub(x1, x0)"](%x, %y)
        %d: f32[2, 4] = slice[stop=2](%x)
        %e: f32[2, 4] = slice[start=2, stop=4](%x)
        return %a, %b, %c, %d, %e
        """,
        PASS,
    )


def test_zero_and_minus_zero_are_two_constants():
    check_untouched(
        """
        input %x: f32[4]
        %a: f32[4] = pointwise[expr="div(x0, 0.0)"](%x)
        %b: f32[4] = pointwise[expr="div(x0, -0.0)"](%x)
        %c: f32[4] = pointwise[expr="maximum(x0, x1)"](%a, %b)
        return %c
        """,
        PASS,
    )


def test_calls_into_torch_may_draw_random_numbers():
    check_untouched(
        """
        input %x: f32[4]
        %a: f32[4] = torch_call[target="aten.rand_like.default", args=(_0,)](%x)
        %b: f32[4] = torch_call[target="aten.rand_like.default", args=(_0,)](%x)
        %c: f32[4] = pointwise[expr="sub(x0, x1)"](%a, %b)
        return %c
        """,
        PASS,
    )
