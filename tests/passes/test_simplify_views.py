"""Views that undo one another go, others make way for fusion; copies and shared values stay."""

import pytest

from sparse_compiler.ir.text import parse_graph
from sparse_compiler.passes.base import Context
from sparse_compiler.passes.fuse_pointwise import FusePointwise
from sparse_compiler.passes.simplify_views import SimplifyViews
from tests.passes.checks import check_pass, check_untouched

PASS = SimplifyViews()


@pytest.mark.parametrize(
    ("middle", "after"),
    [
        (
            """%a: f32[4, 6] = reshape[shape=(4, 6)](%x)
            %b: f32[4, 2, 3] = reshape[shape=(4, 2, 3)](%a)""",
            "%b: f32[4, 2, 3] = reshape[shape=(4, 2, 3)](%x)",
        ),
        (
            """%a: f32[4, 3, 2] = permute[dims=(2, 1, 0)](%x)
            %b: f32[4, 2, 3] = permute[dims=(0, 2, 1)](%a)""",
            "%b: f32[4, 2, 3] = permute[dims=(2, 0, 1)](%x)",
        ),
    ],
)
def test_two_views_become_one(middle, after):
    text = "input %x: f32[2, 3, 4]\n{}\n%y: f32[4, 2, 3] = softmax(%b)\nreturn %y"
    check_pass(text.format(middle), PASS, text.format(after))


@pytest.mark.parametrize(
    "nothing",
    [
        """%a: f32[6, 4] = reshape[shape=(6, 4)](%x)
        %b: f32[2, 3, 4] = reshape[shape=(2, 3, 4)](%a)""",
        """%a: f32[4, 3, 2] = permute[dims=(2, 1, 0)](%x)
        %b: f32[2, 3, 4] = permute[dims=(2, 1, 0)](%a)""",
        "%b: f32[2, 3, 4] = expand[shape=(2, 3, 4)](%x)",
        "%b: f32[2, 3, 4] = slice[dim=1, stop=3](%x)",
        '%b: f32[2, 3, 4] = pointwise[expr="mul(x0, 1.0)"](%x)',
        '%b: f32[2, 3, 4] = pointwise[expr="x0"](%x)',
    ],
)
def test_views_that_do_nothing(nothing):
    text = "input %x: f32[2, 3, 4]\n{}\n%y: f32[2, 3, 4] = softmax({})\nreturn %y"
    check_pass(text.format(nothing, "%b"), PASS, text.format("", "%x"))


def test_a_result_keeps_its_own_value():
    check_untouched(
        """
        input %x: f32[2, 3]
        %y: f32[2, 3] = pointwise[expr="mul(x0, 1.0)"](%x)
        return %y
        """,
        PASS,
    )


def test_a_linear_needs_no_flat_input():
    head = """
        input %x: f32[2, s0, 4]
        param %w: f32[5, 4]
        param %b: f32[5]
        """
    check_pass(
        head
        + """
        %flat: f32[s0*2, 4] = reshape[shape=(s0*2, 4)](%x)
        %fc: f32[s0*2, 5] = linear[bias=true](%flat, %w, %b)
        %open: f32[2, s0, 5] = reshape[shape=(2, s0, 5)](%fc)
        %y: f32[2, s0, 5] = softmax(%open)
        return %y
        """,
        PASS,
        head
        + """
        %open: f32[2, s0, 5] = linear[bias=true](%x, %w, %b)
        %y: f32[2, s0, 5] = softmax(%open)
        return %y
        """,
    )


CONV = "conv[stride=(1,), padding=(1,), dilation=(1,)](%x, %w)"
HEAD = """
    input %x: f32[2, 3, 8]
    param %w: f32[4, 3, 3]
    """


def test_an_activation_goes_before_the_views():
    check_pass(
        HEAD
        + f"""
        %c: f32[2, 4, 8] = {CONV}
        %v: f32[2, 4, 2, 4] = reshape[shape=(2, 4, 2, 4)](%c)
        %p: f32[2, 2, 4, 4] = permute[dims=(0, 2, 3, 1)](%v)
        %y: f32[2, 2, 4, 4] = pointwise[expr="gelu(x0)"](%p)
        return %y
        """,
        PASS,
        HEAD
        + f"""
        %c: f32[2, 4, 8] = {CONV}
        %y.early: f32[2, 4, 8] = pointwise[expr="gelu(x0)"](%c)
        %v.late: f32[2, 4, 2, 4] = reshape[shape=(2, 4, 2, 4)](%y.early)
        %y: f32[2, 2, 4, 4] = permute[dims=(0, 2, 3, 1)](%v.late)
        return %y
        """,
    )


BLOCK = """
    input %x: f32[2, 4, 8]
    param %w: f32[4, 4]
    param %g: f32[4]
    %t: f32[2, 8, 4] = permute[dims=(0, 2, 1)](%x)
    %fc: f32[2, 8, 4] = linear(%t, %w)
    %scaled: f32[2, 8, 4] = pointwise[expr="mul(x0, x1)"](%fc, %g)
    %back: f32[2, 4, 8] = permute[dims=(0, 2, 1)](%scaled)
    %y: f32[2, 4, 8] = pointwise[expr="add(x0, x1)"](%x, %back)
    return %y
    """


def test_a_residual_goes_before_the_permute():
    """ConvNeXt's block: afterwards all of it is the epilogue of its linear."""
    graph = PASS.run(parse_graph(BLOCK), Context())
    check_pass(BLOCK, PASS, str(graph))
    fused = FusePointwise().run(graph, Context())
    names = [node.op.name for node in fused.nodes]
    assert sorted(names) == ["linear", "permute", "permute", "permute"]


@pytest.mark.parametrize(
    "rest",
    [
        """%v: f32[2, 8, 4] = permute[dims=(0, 2, 1)](%c)
        %y: f32[2, 8, 4] = pointwise[expr="gelu(x0)"](%v)
        return %y, %c""",
        """%v: f32[2, 8, 4] = permute[dims=(0, 2, 1)](%c)
        %y: f32[2, 8, 4] = pointwise[expr="gelu(x0)"](%v)
        return %y, %v""",
        """param %p: f32[8, 4]
        %v: f32[2, 8, 4] = permute[dims=(0, 2, 1)](%c)
        %y: f32[2, 8, 4] = pointwise[expr="add(x0, x1)"](%v, %p)
        return %y""",
        """%s: f32[2, 4, 8] = softmax(%c)
        %v: f32[2, 8, 4] = permute[dims=(0, 2, 1)](%s)
        %y: f32[2, 8, 4] = pointwise[expr="gelu(x0)"](%v)
        return %y""",
    ],
    ids=["kernel shared", "view shared", "a table", "no epilogue"],
)
def test_must_not_fire(rest):
    check_untouched(HEAD + f"%c: f32[2, 4, 8] = {CONV}\n{rest}", PASS)


def test_a_linear_that_is_read_flat_stays_flat():
    check_untouched(
        """
        input %x: f32[2, 3, 4]
        param %w: f32[5, 4]
        %flat: f32[6, 4] = reshape[shape=(6, 4)](%x)
        %fc: f32[6, 5] = linear(%flat, %w)
        %open: f32[3, 2, 5] = reshape[shape=(3, 2, 5)](%fc)
        return %fc, %open
        """,
        PASS,
    )


def test_fuel_bounds_the_rewrites():
    before = parse_graph(BLOCK)
    assert PASS.run(before, Context(fuel=0)) is before
