"""The interpreter: symbols from shapes and from results, updates, and calls that do not fit."""

import pytest
import torch
import torch.nn.functional as F

from sparse_compiler.errors import InputError
from sparse_compiler.ir.interpret import interpret
from sparse_compiler.ir.text import parse_graph
from sparse_compiler.ir.verify import verify


def run(text, *inputs, visit=None, **params):
    graph = parse_graph(text)
    verify(graph)
    return interpret(graph, inputs, params, visit)


DYNAMIC = """
symbol s0 in [1, 8]
symbol s1 in [2, inf]
input %x: f32[s0, s1, 6]
param %w: f32[5, 6]
%fc: f32[s0, s1, 5] = linear(%x, %w)
%flat: f32[s0*s1, 5] = reshape[shape=(s0*s1, 5)](%fc)
%tail: f32[s0, s1 - 1, 5] = slice[dim=1, start=1, stop=s1](%fc)
return %flat, %tail
"""


@pytest.mark.parametrize("shape", [(1, 2), (8, 3), (2, 100)])
def test_symbols_come_from_the_inputs(shape):
    x, w = torch.randn(*shape, 6), torch.randn(5, 6)
    flat, tail = run(DYNAMIC, x, w=w)
    expected = F.linear(x, w)
    assert torch.equal(flat, expected.reshape(-1, 5))
    assert torch.equal(tail, expected[:, 1:])


@pytest.mark.parametrize(
    ("shape", "part"),
    [
        ((9, 3, 6), r"s0 = 9 lies outside \[1, 8\]"),
        ((2, 1, 6), r"s1 = 1 lies outside \[2, inf\]"),
        ((2, 3, 7), "dimension 2 is 7 where 6"),
        ((2, 3), "2 dimensions where 3"),
    ],
)
def test_shapes_that_do_not_fit(shape, part):
    with pytest.raises(InputError, match=part):
        run(DYNAMIC, torch.randn(shape), w=torch.randn(5, 6))


def test_one_symbol_in_two_inputs_is_one_number():
    text = "input %x: f32[s0]\ninput %y: f32[s0]\nreturn %x, %y"
    run(text, torch.ones(3), torch.ones(3))
    with pytest.raises(InputError, match="input %y has the wrong shape"):
        run(text, torch.ones(3), torch.ones(4))
    with pytest.raises(InputError, match="1 inputs for a graph of 2"):
        run(text, torch.ones(3))


def test_a_sum_of_symbols_may_come_before_its_parts():
    text = "input %x: f32[s0 + s1]\ninput %y: f32[s0]\ninput %z: f32[s1]\nreturn %x"
    run(text, torch.ones(5), torch.ones(2), torch.ones(3))
    with pytest.raises(InputError, match=r"dimension 0 is 6 where s0 \+ s1 = 5"):
        run(text, torch.ones(6), torch.ones(2), torch.ones(3))


def test_an_expression_with_one_unknown_is_solved():
    text = """
    input %x: f32[2*s0]
    %y: f32[s0, 2] = reshape[shape=(s0, 2)](%x)
    return %y
    """
    assert run(text, torch.ones(6))[0].shape == (3, 2)
    with pytest.raises(InputError, match=r"is 5, which 2\*s0 cannot be"):
        run(text, torch.ones(5))


def test_an_unknown_that_nothing_determines_is_named():
    text = """
    input %x: f32[FloorDiv(s0, 2)]
    %y: f32[FloorDiv(s0, 2), 1] = reshape[shape=(FloorDiv(s0, 2), 1)](%x)
    return %y
    """
    with pytest.raises(InputError, match="dimension s0 has no value"):
        run(text, torch.ones(3))


def test_results_bring_symbols_of_their_own():
    text = """
    input %x: f32[s0]
    %hits: i64[u0, 1] = torch_call[target="aten.nonzero.default", args=(_0,)](%x)
    %row: i64[1, u0] = reshape[shape=(1, u0)](%hits)
    %padded: i64[1, u0 + 2] = torch_call[target="aten.constant_pad_nd.default", \
args=(_0, (0, 2), 7)](%row)
    %tail: i64[1, 2] = slice[dim=1, start=u0, stop=u0 + 2](%padded)
    return %row, %tail
    """
    for x in (torch.tensor([0.0, 3.0, 0.0, 5.0]), torch.zeros(3), torch.ones(7)):
        row, tail = run(text, x)
        assert torch.equal(row[0], x.nonzero()[:, 0])
        assert torch.equal(tail, torch.full((1, 2), 7))


def test_a_number_out_of_a_tensor_is_a_symbol():
    text = """
    input %n: i64[]
    %k: scalar i64 u0 = torch_call[target="aten.item.default", args=(_0,)](%n)
    %r: i64[u0] = torch_call[target="aten.arange.default", args=(u0,)]()
    return %r
    """
    assert torch.equal(run(text, torch.tensor(4))[0], torch.arange(4))


def test_tuples_and_their_missing_parts():
    text = """
    input %x: f32[s0, 4]
    %pair: (f32[s0], i64[s0]) = torch_call[target="aten.max.dim", args=(_0, 1)](%x)
    %index: i64[s0] = getitem[index=1](%pair)
    return %index
    """
    x = torch.randn(3, 4)
    assert torch.equal(run(text, x)[0], x.argmax(1))


def test_updates_follow_the_outputs_and_touch_nothing():
    text = """
    input %x: f32[2]
    param %count: f32[2]
    %new: f32[2] = pointwise[expr="add(x0, 1.0)"](%count)
    %y: f32[2] = pointwise[expr="mul(x0, x1)"](%x, %count)
    return %y
    update %count = %new
    """
    x, count = torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0])
    y, new = run(text, x, count=count)
    assert torch.equal(y, torch.tensor([3.0, 8.0]))
    assert torch.equal(new, torch.tensor([2.0, 3.0]))
    assert torch.equal(count, torch.tensor([1.0, 2.0]))


def test_the_visitor_sees_every_node_in_order():
    seen = []
    run(
        'input %x: f32[2]\n%a: f32[2] = pointwise[expr="exp(x0)"](%x)\n'
        '%b: f32[2] = pointwise[expr="neg(x0)"](%a)\nreturn %b',
        torch.zeros(2),
        visit=lambda name, value: seen.append((name, value.tolist())),
    )
    assert seen == [("a", [1.0, 1.0]), ("b", [-1.0, -1.0])]


def test_layouts_and_formats_are_storage_and_change_no_number():
    text = """
    input %x: f32[3, 6]
    param %w: f32[5, 6]
    %packed: f32[5, 6]{csr} = pack[format="csr"](%w)
    %planes: f32[3, 6]{1|0} = relayout[order=(1, 0), planes=1](%x)
    %fc: f32[3, 5]{1|0} = linear(%planes, %packed)
    %rows: f32[3, 5] = relayout(%fc)
    return %rows
    """
    x, w = torch.randn(3, 6), torch.randn(5, 6)
    assert torch.equal(run(text, x, w=w)[0], F.linear(x, w))
