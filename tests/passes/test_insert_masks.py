"""Masks on weights of a graph: where they go, where not, and what they hold."""

import pytest
import torch

from sparse_compiler.errors import UnsupportedError
from sparse_compiler.ir.interpret import interpret
from sparse_compiler.ir.text import parse_graph
from sparse_compiler.passes.base import Context
from sparse_compiler.passes.insert_masks import InsertMasks
from tests.passes.checks import check_pass

PASS = InsertMasks(0.5, min_weights=0)
LINEAR = """
    input %x: f32[2, 4]
    param %w: f32[3, 4]
    %y: f32[2, 3] = linear(%x, %w)
    return %y
    """
MASKED = """
    input %x: f32[2, 4]
    param %w: f32[3, 4]
    param %w.mask: bool[3, 4]
    %w.masked: f32[3, 4] = pointwise[expr="where(x1, x0, 0.0)"](%w, %w.mask)
    %y: f32[2, 3] = linear(%x, %w.masked)
    return %y
    """
HALF = torch.tensor([[1.0, 0, -2, 0], [0, 3, 0, 4], [5, 0, 0, -6]])


def context(**params):
    return Context(params=params)


def test_the_smallest_weights_go():
    params = {"w": HALF, "w.mask": HALF != 0}  # half is zero already: the numbers stay
    found = check_pass(LINEAR, PASS, MASKED, params=params, context=context(w=HALF))
    assert torch.equal(found.params["w.mask"], HALF != 0)


def test_numbers_are_those_of_the_masked_weight():
    weight, x = torch.randn(3, 4), torch.randn(2, 4)
    found = context(w=weight)
    graph = InsertMasks(pattern="2:4", min_weights=0).run(parse_graph(LINEAR), found)
    mask = found.params["w.mask"]
    assert (mask.sum(1) == 2).all()
    (got,) = interpret(graph, [x], found.params)
    torch.testing.assert_close(got, x @ (weight * mask).T)


def test_weights_that_are_one_share_a_mask():
    text = LINEAR.replace("return %y", "%z: f32[2, 3] = linear(%x, %w)\n    return %y, %z")
    graph = PASS.run(parse_graph(text), context(w=HALF))
    assert [node.inputs[1] for node in graph.nodes[1:]] == ["w.masked", "w.masked"]
    assert len(graph.params) == 2


@pytest.mark.parametrize(
    "pass_, text, code",
    [
        (InsertMasks(0.5), LINEAR, "weight_is_small"),
        (InsertMasks(pattern="1:3", min_weights=0), LINEAR, "pattern_does_not_fit"),
        (PASS, MASKED, "weight_is_computed"),
        (InsertMasks(0.5, include="other", min_weights=0), LINEAR, None),
    ],
)
def test_where_it_does_not_fire(pass_, text, code):
    given = context(**{"w": HALF, "w.mask": HALF != 0})
    found = check_pass(text, pass_, text, params=dict(given.params), context=given)
    codes = {reason.code for reasons in found.refusals.values() for reason in reasons}
    assert codes == ({code} if code else set())


def test_what_it_cannot_do_is_said():
    graph = parse_graph(LINEAR)
    assert PASS.run(graph, Context()) is graph  # no numbers, no masks
    with pytest.raises(UnsupportedError, match="'head' into a graph"):
        InsertMasks(0.5, "head").run(graph, context(w=HALF))
