"""Layer norms written out with means become one op, over whatever dimension they run."""

import pytest

from sparse_compiler.ir.text import parse_graph
from sparse_compiler.passes.base import Context
from sparse_compiler.passes.eliminate_dead_nodes import EliminateDeadNodes
from sparse_compiler.passes.recognize_layer_norm import RecognizeLayerNorm
from tests.passes.checks import check_pass, check_untouched

PASS = RecognizeLayerNorm()


def norm(shape: str, less: str, dim: int, tail: str) -> str:
    return f"""
        input %x: f32[{shape}]
        %mean: f32[{less}] = reduce[fn="mean", dims=({dim},), keepdim=true](%x)
        %sub: f32[{shape}] = pointwise[expr="sub(x0, x1)"](%x, %mean)
        %square: f32[{shape}] = pointwise[expr="pow(x0, 2.0)"](%sub)
        %var: f32[{less}] = reduce[fn="mean", dims=({dim},), keepdim=true](%square)
        {tail}
        """


def left(text: str) -> list[str]:
    """The nodes after the pass and the removal of what is dead; the pass itself is checked."""
    after = PASS.run(parse_graph(text), Context())
    check_pass(text, PASS, str(after))
    lines = str(EliminateDeadNodes().run(after, Context())).splitlines()
    return [line.strip() for line in lines if " = " in line]


@pytest.mark.parametrize(
    "tail",
    [
        """%std: f32[2, 5, 1] = pointwise[expr="sqrt(add(x0, 1e-06))"](%var)
        %y: f32[2, 5, 8] = pointwise[expr="div(x0, x1)"](%sub, %std)""",
        """%e: f32[2, 5, 1] = pointwise[expr="add(x0, 1e-06)"](%var)
        %r: f32[2, 5, 1] = pointwise[expr="rsqrt(x0)"](%e)
        %y: f32[2, 5, 8] = pointwise[expr="mul(x1, x0)"](%sub, %r)""",
    ],
)
def test_over_the_last_dimension(tail):
    text = norm("2, 5, 8", "2, 5, 1", 2, tail) + "return %y"
    assert left(text) == ["%y: f32[2, 5, 8] = layer_norm[eps=1e-06, scale=false, shift=false](%x)"]


WEIGHTED = """%std: f32[2, 1, 3, 3] = pointwise[expr="sqrt(add(x0, 1e-06))"](%var)
        %n: f32[2, 8, 3, 3] = pointwise[expr="div(x0, x1)"](%sub, %std)
        param %g: f32[8, 1, 1]
        param %b: f32[8]
        %bb: f32[8, 1, 1] = reshape[shape=(8, 1, 1)](%b)
        %s: f32[2, 8, 3, 3] = pointwise[expr="mul(x0, x1)"](%g, %n)
        %y: f32[2, 8, 3, 3] = pointwise[expr="add(x0, x1)"](%s, %bb)
        return %y"""


def test_over_channels_with_scale_and_shift():
    assert left(norm("2, 8, 3, 3", "2, 1, 3, 3", 1, WEIGHTED)) == [
        "%n.last: f32[2, 3, 3, 8] = permute[dims=(0, 2, 3, 1)](%x)",
        "%bb: f32[8, 1, 1] = reshape[shape=(8, 1, 1)](%b)",
        "%s.vector: f32[8] = reshape[shape=(8,)](%g)",
        "%y.vector: f32[8] = reshape[shape=(8,)](%bb)",
        "%y.norm: f32[2, 3, 3, 8] = layer_norm[eps=1e-06](%n.last, %s.vector, %y.vector)",
        "%y: f32[2, 8, 3, 3] = permute[dims=(0, 3, 1, 2)](%y.norm)",
    ]


def test_a_norm_without_weights_takes_those_that_follow():
    assert left("""
        input %x: f32[2, 8]
        param %g: f32[8]
        %n: f32[2, 8] = layer_norm[scale=false, shift=false](%x)
        %y: f32[2, 8] = pointwise[expr="mul(x0, x1)"](%n, %g)
        return %y
        """) == ["%y: f32[2, 8] = layer_norm[shift=false](%x, %g)"]


BARE = norm(
    "2, 5, 8",
    "2, 5, 1",
    2,
    """%std: f32[2, 5, 1] = pointwise[expr="sqrt(add(x0, 1e-06))"](%var)
        %y: f32[2, 5, 8] = pointwise[expr="div(x0, x1)"](%sub, %std)
        return %y""",
)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("pow(x0, 2.0)", "pow(x0, 3.0)"),
        ('"sub(x0, x1)"', '"add(x0, x1)"'),
        ("sqrt(add(x0, 1e-06))", "add(sqrt(x0), 1e-06)"),
        (
            'fn="mean", dims=(2,), keepdim=true](%square)',
            'fn="sum", dims=(2,), keepdim=true](%square)',
        ),
        ("(%sub, %std)", "(%x, %std)"),
    ],
)
def test_must_not_fire(old, new):
    assert old in BARE
    check_untouched(BARE.replace(old, new), PASS)


def test_means_over_two_dimensions():
    text = BARE.replace("dims=(2,)", "dims=(1, 2)").replace("[2, 5, 1]", "[2, 1, 1]")
    check_untouched(text, PASS, "dimensions")


def test_a_scale_that_is_an_input():
    check_untouched(
        """
        input %x: f32[2, 8]
        input %g: f32[8]
        %n: f32[2, 8] = layer_norm[scale=false, shift=false](%x)
        %y: f32[2, 8] = pointwise[expr="mul(x0, x1)"](%n, %g)
        return %y
        """,
        PASS,
        "weight",
    )
