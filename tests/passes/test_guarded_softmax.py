"""Attention whose queries without keys give zeros, taken apart as TVM and torch.onnx do it."""

import pytest

from sparse_compiler.ir.text import parse_graph
from sparse_compiler.passes.base import Context
from sparse_compiler.passes.eliminate_dead_nodes import EliminateDeadNodes
from sparse_compiler.passes.recognize_attention import RecognizeAttention
from tests.passes.checks import check_pass

PASS = RecognizeAttention()
HEAD = """
    input %q: f32[2, 4, 5, 8]
    input %k: f32[2, 4, 6, 8]
    input %v: f32[2, 4, 6, 7]
    input %c: bool[5, 6]
    %m: f32[5, 6] = pointwise[expr="where(x0, 0.0, -inf)"](%c)
    %kt: f32[2, 4, 8, 6] = permute[dims=(0, 1, 3, 2)](%k)
    %qk: f32[2, 4, 5, 6] = matmul(%q, %kt)
    %s: f32[2, 4, 5, 6] = pointwise[expr="add(x0, x1)"](%qk, %m)
    %p: f32[2, 4, 5, 6] = softmax(%s)
    """
ISNAN = """
    %n: bool[2, 4, 5, 6] = pointwise[expr="isnan(x0)"](%p)
    %g: f32[2, 4, 5, 6] = pointwise[expr="where(x0, 0.0, x1)"](%n, %p)
    """
NONE_LEFT = """
    %a: bool[2, 4, 5, 6] = pointwise[expr="eq(x0, -inf)"](%s)
    %b: i8[2, 4, 5, 6] = pointwise[expr="i8(logical_not(x0))"](%a)
    %d: i8[2, 4, 5, 1] = reduce[fn="amax", dims=(3,), keepdim=true](%b)
    %e: bool[2, 4, 5, 1] = pointwise[expr="logical_not(ne(x0, 0.0))"](%d)
    %z: f32[2, 4, 5, 6] = full[value=0.0, shape=(2, 4, 5, 6)]()
    %g: f32[2, 4, 5, 6] = pointwise[expr="where(x0, x1, x2)"](%e, %z, %p)
    """
ALL_MASKED = """
    %a: bool[2, 4, 5, 6] = pointwise[expr="eq(x0, -inf)"](%s)
    %e: bool[2, 4, 5, 1] = reduce[fn="all", dims=(3,), keepdim=true](%a)
    %g: f32[2, 4, 5, 6] = pointwise[expr="where(x0, 0.0, x1)"](%e, %p)
    """
TAIL = """
    %y: f32[2, 4, 5, 7] = matmul(%g, %v)
    return %y
    """


def ops_after(text: str) -> list[str]:
    after = PASS.run(parse_graph(text), Context())
    return [node.op.name for node in EliminateDeadNodes().run(after, Context()).nodes]


@pytest.mark.parametrize("guard", [ISNAN, NONE_LEFT, ALL_MASKED])
def test_a_guarded_softmax_is_attention_that_gives_zeros(guard):
    text = HEAD + guard + TAIL
    after = PASS.run(parse_graph(text), Context())
    (attention,) = (node for node in after.nodes if node.op.name == "attention")
    assert not attention.op.nan_rows
    check_pass(text, PASS, str(after))
    assert ops_after(text) == ["pointwise", "attention"]


@pytest.mark.parametrize(
    "text",
    [
        HEAD + ISNAN.replace("0.0, x1", "1.0, x1") + TAIL,  # ones instead of zeros
        HEAD + ISNAN + TAIL.replace("%y\n", "%y, %p\n"),  # the probabilities are a result
        HEAD + NONE_LEFT.replace("dims=(3,)", "dims=(2,)").replace("5, 1]", "1, 6]") + TAIL,
        HEAD + ALL_MASKED.replace("-inf", "-1.0") + TAIL,
        HEAD + ALL_MASKED.replace("(%s)", "(%qk)") + TAIL,  # of the scores before the mask
    ],
)
def test_other_guards_stay(text):
    assert "attention" not in ops_after(text)
