"""Elementwise ops run in the epilogue of what makes their input, if nobody else wants it."""

import pytest

from sparse_compiler.ir.text import parse_graph
from sparse_compiler.passes.base import Context
from sparse_compiler.passes.fuse_pointwise import FusePointwise
from tests.passes.checks import check_pass, check_untouched

PASS = FusePointwise()
LINEAR = """
    input %x: f32[s0, 4]
    param %w: f32[5, 4]
    param %b: f32[5]
    param %r: f32[5]
    %fc: f32[s0, 5] = linear[bias=true](%x, %w, %b)
"""


def test_a_chain_goes_into_the_linear_with_its_operands():
    check_pass(
        LINEAR
        + """
        %act: f32[s0, 5] = pointwise[expr="gelu(x0)"](%fc)
        %sum: f32[s0, 5] = pointwise[expr="add(x1, mul(x0, 2.0))"](%r, %act)
        return %sum
        """,
        PASS,
        """
        input %x: f32[s0, 4]
        param %w: f32[5, 4]
        param %b: f32[5]
        param %r: f32[5]
        %sum: f32[s0, 5] = linear[bias=true, epilogue="add(gelu(x0), mul(x1, 2.0))"](%x, %w, %b, %r)
        return %sum
        """,
    )


def test_pointwise_into_pointwise_reads_each_input_once():
    check_pass(
        """
        input %x: f32[s0, 4]
        input %y: f32[4]
        %a: f32[s0, 4] = pointwise[expr="add(x0, x1)"](%x, %y)
        %b: f32[s0, 4] = pointwise[expr="mul(x0, x1)"](%y, %a)
        return %b
        """,
        PASS,
        """
        input %x: f32[s0, 4]
        input %y: f32[4]
        %b: f32[s0, 4] = pointwise[expr="mul(x1, add(x0, x1))"](%x, %y)
        return %b
        """,
    )


def test_a_value_whose_two_readers_become_one_is_fused_too():
    check_pass(
        """
        input %x: f32[s0, 4]
        param %w: f32[5, 4]
        %fc: f32[s0, 5] = linear(%x, %w)
        %gate: f32[s0, 5] = pointwise[expr="sigmoid(x0)"](%fc)
        %silu: f32[s0, 5] = pointwise[expr="mul(x0, x1)"](%fc, %gate)
        return %silu
        """,
        PASS,
        """
        input %x: f32[s0, 4]
        param %w: f32[5, 4]
        %silu: f32[s0, 5] = linear[epilogue="mul(x0, sigmoid(x0))"](%x, %w)
        return %silu
        """,
    )


def test_of_two_linears_the_later_one_takes_the_sum():
    check_pass(
        """
        input %x: f32[s0, 4]
        param %v: f32[5, 4]
        param %w: f32[5, 4]
        %a: f32[s0, 5] = linear(%x, %v)
        %b: f32[s0, 5] = linear(%x, %w)
        %c: f32[s0, 5] = pointwise[expr="sub(x0, x1)"](%a, %b)
        return %c
        """,
        PASS,
        """
        input %x: f32[s0, 4]
        param %v: f32[5, 4]
        param %w: f32[5, 4]
        %a: f32[s0, 5] = linear(%x, %v)
        %c: f32[s0, 5] = linear[epilogue="sub(x1, x0)"](%x, %w, %a)
        return %c
        """,
    )


def test_an_operand_that_is_the_linears_own_input_stands_twice():
    check_pass(
        """
        input %x: f32[s0, 4]
        param %w: f32[4, 4]
        %fc: f32[s0, 4] = linear(%x, %w)
        %y: f32[s0, 4] = pointwise[expr="add(x0, x1)"](%x, %fc)
        return %y
        """,
        PASS,
        """
        input %x: f32[s0, 4]
        param %w: f32[4, 4]
        %y: f32[s0, 4] = linear[epilogue="add(x1, x0)"](%x, %w, %x)
        return %y
        """,
    )


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(
            """
            %act: f32[s0, 5] = pointwise[expr="relu(x0)"](%fc)
            %norm: f32[s0, 5] = layer_norm[scale=false, shift=false](%fc)
            return %act, %norm
            """,
            id="another node",
        ),
        pytest.param(
            """
            %act: f32[s0, 5] = pointwise[expr="relu(x0)"](%fc)
            return %act, %fc
            """,
            id="an output",
        ),
    ],
)
def test_a_value_read_elsewhere_is_not_fused(rest):
    check_untouched(LINEAR + rest, PASS, "shared_value")


def test_a_value_written_back_is_not_fused():
    check_untouched(
        """
        input %x: f32[4]
        param %state: f32[4]
        %new: f32[4] = pointwise[expr="add(x0, x1)"](%x, %state)
        %y: f32[4] = pointwise[expr="exp(x0)"](%new)
        return %y
        update %state = %new
        """,
        PASS,
        "shared_value",
    )


def test_a_value_that_is_broadcast_is_not_fused():
    check_untouched(
        """
        input %x: f32[1, 4]
        input %y: f32[s0, 4]
        %a: f32[1, 4] = pointwise[expr="exp(x0)"](%x)
        %b: f32[s0, 4] = pointwise[expr="add(x0, x1)"](%a, %y)
        return %b
        """,
        PASS,
        "broadcast",
    )


def test_weight_time_values_stay_apart():
    check_untouched(
        """
        input %x: f32[s0, 4]
        param %w: f32[5, 4]
        param %mask: f32[5, 4]
        %masked: f32[5, 4] = pointwise[expr="mul(x0, x1)"](%w, %mask)
        %scaled: f32[5, 4] = pointwise[expr="mul(x0, 2.0)"](%masked)
        %fc: f32[s0, 5] = linear(%x, %scaled)
        return %fc
        """,
        PASS,
    )


def test_ops_without_an_epilogue_refuse():
    check_untouched(
        """
        input %x: f32[s0, 4]
        %a: f32[s0, 4] = softmax(%x)
        %b: f32[s0, 4] = pointwise[expr="relu(x0)"](%a)
        return %b
        """,
        PASS,
        "not_fusible",
    )


@pytest.mark.parametrize(
    "norm", ["layer_norm[shift=false{}](%x, %g{})", "rms_norm[eps=0.01{}](%x, %g{})"]
)
def test_a_norm_and_what_follows_are_one_sweep(norm):
    head = """
        input %x: f32[s0, 4]
        param %g: f32[4]
        param %s: f32[4]
        """
    check_pass(
        head
        + f"""
        %a: f32[s0, 4] = {norm.format("", "")}
        %b: f32[s0, 4] = pointwise[expr="add(gelu(x0), mul(x1, x2))"](%a, %s, %x)
        return %b
        """,
        PASS,
        head
        + f"""
        %b: f32[s0, 4] = {norm.format(', epilogue="add(gelu(x0), mul(x1, x2))"', ", %s, %x")}
        return %b
        """,
    )


@pytest.mark.parametrize("shape", ["3, 1, 1", "3, 1, 5", "4, 5", "1, 4, 5"])
def test_an_operand_that_no_epilogue_reads_stays_outside(shape):
    """One number per token, a vector per token, or a table without the batch."""
    check_untouched(
        f"""
        input %x: f32[3, 4, 6]
        input %r: f32[{shape}]
        param %w: f32[5, 6]
        %fc: f32[3, 4, 5] = linear(%x, %w)
        %y: f32[3, 4, 5] = pointwise[expr="mul(x0, x1)"](%fc, %r)
        return %y
        """,
        PASS,
        "broadcast",
    )


def test_expressions_that_double_stop_growing():
    squares = "".join(
        f'%v{i + 1}: f32[4] = pointwise[expr="mul(x0, x0)"](%v{i})\n' for i in range(40)
    )
    graph = parse_graph(f"input %v0: f32[4]\n{squares}return %v40")
    context = Context()
    fused = PASS.run(graph, context)
    assert 1 < len(fused.nodes) < 40
    assert max(len(node.op.expr) for node in fused.nodes) < 1000
    assert {r.code for reasons in context.refusals.values() for r in reasons} == {"expression_size"}


def test_fuel_bounds_the_rewrites():
    graph = parse_graph(
        "input %v0: f32[4]\n"
        + "".join(f'%v{i + 1}: f32[4] = pointwise[expr="exp(x0)"](%v{i})\n' for i in range(4))
        + "return %v4"
    )
    assert [len(PASS.run(graph, Context(fuel=fuel)).nodes) for fuel in range(5)] == [4, 3, 2, 1, 1]
    assert PASS.run(graph, Context(fuel=0)) is graph


def test_a_conv_takes_its_activation_and_its_residual():
    head = """
        input %x: f32[2, 3, 8, 8]
        input %r: f32[2, 5, 8, 8]
        param %w: f32[5, 3, 3, 3]
        param %s: f32[5, 1, 1]
        """
    conv = "conv[stride=(1, 1), padding=(1, 1), dilation=(1, 1){}](%x, %w{})"
    check_pass(
        head
        + f"""
        %c: f32[2, 5, 8, 8] = {conv.format("", "")}
        %a: f32[2, 5, 8, 8] = pointwise[expr="add(mul(x0, x1), x2)"](%c, %s, %r)
        %y: f32[2, 5, 8, 8] = pointwise[expr="relu(x0)"](%a)
        return %y
        """,
        PASS,
        head
        + f"""
        %y: f32[2, 5, 8, 8] = {conv.format(', epilogue="relu(add(mul(x0, x1), x2))"', ", %s, %r")}
        return %y
        """,
    )


def test_arithmetic_on_masks_is_fused_among_itself():
    check_pass(
        """
        input %i: i64[1, 4]
        input %j: i64[4, 1]
        %le: bool[4, 4] = pointwise[expr="le(x0, x1)"](%i, %j)
        %both: bool[4, 4] = pointwise[expr="bitwise_and(x0, x1)"](%le, %le)
        %m: f32[4, 4] = pointwise[expr="x0", dtype="f32"](%both)
        %where: f32[4, 4] = pointwise[expr="mul(x0, -3.0)"](%m)
        return %where
        """,
        PASS,
        """
        input %i: i64[1, 4]
        input %j: i64[4, 1]
        %m: f32[4, 4] = pointwise[expr="bitwise_and(le(x0, x1), le(x0, x1))", dtype="f32"](%i, %j)
        %where: f32[4, 4] = pointwise[expr="mul(x0, -3.0)"](%m)
        return %where
        """,
    )


def test_a_mask_does_not_take_f32_out_of_planes():
    check_untouched(
        LINEAR
        + """
        input %mask: bool[s0, 5]
        %a: f32[s0, 5] = pointwise[expr="where(x0, x1, 0.0)"](%mask, %fc)
        %y: f32[s0, 5] = pointwise[expr="relu(x0)"](%a)
        return %y
        """,
        PASS,
        "mixed_dtypes",
    )


def test_rounding_to_another_dtype_stays_out_of_kernels():
    """bfloat16 between f32 and f32: the epilogue's vectors know no such numbers."""
    check_pass(
        LINEAR
        + """
        %a: bf16[s0, 5] = pointwise[expr="bf16(x0)"](%fc)
        %y: f32[s0, 5] = pointwise[expr="f32(x0)"](%a)
        %z: f32[s0, 5] = pointwise[expr="relu(x0)"](%y)
        return %z
        """,
        PASS,
        LINEAR
        + """
        %y: f32[s0, 5] = pointwise[expr="f32(bf16(x0))"](%fc)
        %z: f32[s0, 5] = pointwise[expr="relu(x0)"](%y)
        return %z
        """,
    )
