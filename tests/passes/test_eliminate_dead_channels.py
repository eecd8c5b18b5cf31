"""What the pass takes out of small graphs, and what it must leave."""

import torch

from sparse_compiler.analysis.sparsity import sparsity_facts
from sparse_compiler.ir.text import parse_graph
from sparse_compiler.passes.base import Context
from sparse_compiler.passes.eliminate_dead_channels import EliminateDeadChannels
from tests.passes.checks import check_pass

MLP = """
    input %x: f32[B, 4]
    param %a: f32[3, 4]
    param %b: f32[3]
    param %c: f32[2, 3]
    %h: f32[B, 3] = linear[bias=true](%x, %a, %b)
    %g: f32[B, 3] = pointwise[expr="relu(x0)"](%h)
    %y: f32[B, 2] = linear(%g, %c)
    return %y
"""


def rows(dead, shape, seed=0):
    """Random numbers with zeros in the rows `dead`."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    weight[list(dead)] = 0.0
    return weight


def check(before, after, **params):
    """`check_pass` with the numbers of parameters; the result is left alone by a second run."""
    context = check_pass(
        before, EliminateDeadChannels(), after, params=params, context=Context(params=params)
    )
    result = EliminateDeadChannels().run(parse_graph(before), Context(params=params))
    assert EliminateDeadChannels().run(result, Context(params=params)) is result
    return context


def test_a_constant_neuron_goes_into_the_next_bias() -> None:
    check(
        MLP,
        """
        input %x: f32[B, 4]
        param %a: f32[3, 4]
        param %b: f32[3]
        param %c: f32[2, 3]
        %h.weight.rows: f32[2, 4] = take[ranges=((0, 1), (2, 3))](%a)
        %b.live: f32[2] = take[ranges=((0, 1), (2, 3))](%b)
        %h: f32[B, 2] = linear[bias=true](%x, %h.weight.rows, %b.live)
        %g: f32[B, 2] = pointwise[expr="relu(x0)"](%h)
        %y.weight.live: f32[2, 2] = take[dim=1, ranges=((0, 1), (2, 3))](%c)
        %h.bias.constant: f32[1, 3] = reshape[shape=(1, 3)](%b)
        %g.constant: f32[1, 3] = pointwise[expr="relu(x0)"](%h.bias.constant)
        %y.input.constant: f32[1, 1] = take[dim=1, ranges=((1, 2),)](%g.constant)
        %y.weight.constant: f32[2, 1] = take[dim=1, ranges=((1, 2),)](%c)
        %y.bias.folded: f32[1, 2] = linear(%y.input.constant, %y.weight.constant)
        %y.bias.live: f32[2] = reshape[shape=(2,)](%y.bias.folded)
        %y: f32[B, 2] = linear[bias=true](%g, %y.weight.live, %y.bias.live)
        return %y
        """,
        a=rows([1], (3, 4)),
        b=torch.tensor([0.5, 0.7, -0.3]),
        c=rows([], (2, 3), 1),
    )


def test_what_nobody_reads_goes_and_leaves_no_bias() -> None:
    c = rows([], (2, 3), 1)
    c[:, 2] = 0.0
    check(
        MLP,
        """
        input %x: f32[B, 4]
        param %a: f32[3, 4]
        param %b: f32[3]
        param %c: f32[2, 3]
        %h.weight.rows: f32[2, 4] = take[ranges=((0, 2),)](%a)
        %b.live: f32[2] = take[ranges=((0, 2),)](%b)
        %h: f32[B, 2] = linear[bias=true](%x, %h.weight.rows, %b.live)
        %g: f32[B, 2] = pointwise[expr="relu(x0)"](%h)
        %y.weight.live: f32[2, 2] = take[dim=1, ranges=((0, 2),)](%c)
        %y: f32[B, 2] = linear(%g, %y.weight.live)
        return %y
        """,
        a=rows([], (3, 4)),
        b=torch.tensor([0.5, 0.7, -0.3]),
        c=c,
    )


def test_dense_weights_are_left_alone() -> None:
    params = {"a": rows([], (3, 4)), "b": torch.ones(3), "c": rows([], (2, 3), 1)}
    graph = parse_graph(MLP)
    assert EliminateDeadChannels().run(graph, Context(params=params)) is graph


def test_without_numbers_nothing_happens() -> None:
    graph = parse_graph(MLP)
    assert EliminateDeadChannels().run(graph, Context()) is graph


def test_a_pinned_value_keeps_its_channels() -> None:
    params = {"a": rows([1], (3, 4)), "b": torch.ones(3), "c": rows([], (2, 3), 1)}
    graph = parse_graph(MLP)
    assert (
        EliminateDeadChannels().run(graph, Context(params=params, pinned=frozenset("g"))) is graph
    )


RESIDUAL = """
    input %x: f32[1, 3, 6, 6]
    param %a: f32[4, 3, 1, 1]
    param %b: f32[4, 4, 3, 3]
    param %c: f32[2, 4, 1, 1]
    %p: f32[1, 4, 6, 6] = conv[stride=(1, 1), padding=(0, 0), dilation=(1, 1)](%x, %a)
    %q: f32[1, 4, 6, 6] = conv[stride=(1, 1), padding=(1, 1), dilation=(1, 1)](%p, %b)
    %s: f32[1, 4, 6, 6] = pointwise[expr="add(x0, x1)"](%p, %q)
    %y: f32[1, 2, 6, 6] = conv[stride=(1, 1), padding=(0, 0), dilation=(1, 1)](%s, %c)
    return %y
"""


def test_half_of_a_residual_group_keeps_what_it_must() -> None:
    """Channel 1 is dead on one branch only and stays; channel 2 is dead on both."""
    params = {
        "a": rows([2], (4, 3, 1, 1)),
        "b": rows([1, 2], (4, 4, 3, 3)),
        "c": rows([], (2, 4, 1, 1)),
    }
    context = Context(params=params)
    result = EliminateDeadChannels().run(parse_graph(RESIDUAL), context)
    assert [result.tensor(name).shape[1] for name in "pqs"] == [3, 3, 3]
    assert context.structure is not None
    counts = {layer.layer: (layer.nonzero, layer.effective) for layer in context.structure.layers}
    assert counts["q"] == (2 * 4 * 9, 2 * 3 * 9)


BORDER = """
    input %x: f32[1, 2, 5, 5]
    param %a: f32[3, 2, 1, 1]
    param %ab: f32[3]
    param %b: f32[2, 3, 3, 3]
    %p: f32[1, 3, 5, 5] = conv[stride=(1,1), padding=(0,0), dilation=(1,1), bias=true](%x, %a, %ab)
    %y: f32[1, 2, 5, 5] = conv[stride=(1, 1), padding=(1, 1), dilation=(1, 1)](%p, %b)
    return %y
"""


def test_a_border_of_zeros_gives_a_bias_for_each_place() -> None:
    params = {"a": rows([0], (3, 2, 1, 1)), "ab": torch.ones(3), "b": rows([], (2, 3, 3, 3))}
    result = EliminateDeadChannels().run(parse_graph(BORDER), Context(params=params))
    (last,) = [node for node in result.nodes if node.name == "y"]
    assert result.tensor("p").shape == (1, 2, 5, 5)
    assert result.tensor(last.inputs[-1]).shape == (1, 2, 5, 5)


def test_a_constant_that_is_no_number_stays() -> None:
    """inf in a bias of a dead row: eager gives inf, and so must we."""
    params = {
        "a": rows([1], (3, 4)),
        "b": torch.tensor([0.5, torch.inf, 0.1]),
        "c": rows([], (2, 3), 1),
    }
    result = EliminateDeadChannels().run(parse_graph(MLP), Context(params=params))
    assert result.tensor("h").shape[1] == 3


def test_all_channels_dead_leaves_one() -> None:
    params = {"a": torch.zeros(3, 4), "b": torch.ones(3), "c": rows([], (2, 3), 1)}
    result = EliminateDeadChannels().run(parse_graph(MLP), Context(params=params))
    assert result.tensor("h").shape[1] == 1
    assert result.tensor("y").shape[1] == 2


UNKNOWN = """
    input %x: f32[2, 4]
    param %a: f32[3, 4]
    param %c: f32[2, 3]
    %h: f32[2, 3] = linear(%x, %a)
    %g: f32[2, 3] = torch_call[target="aten.sinc.default", args=(_0,)](%h)
    %y: f32[2, 2] = linear(%g, %c)
    return %y
"""


def test_an_op_of_unknown_rule_keeps_its_group_and_says_so() -> None:
    params = {"a": rows([1], (3, 4)), "c": rows([0], (2, 3), 1)}
    context = Context(params=params)
    graph = parse_graph(UNKNOWN)
    result = EliminateDeadChannels().run(graph, context)
    assert result is graph
    assert [reason.code for reason in context.refusals["g"]] == ["unknown_channel_rule"]


WRITTEN = """
    input %x: f32[2, 4]
    param %a: f32[3, 4]
    param %t: f32[5, 3]
    param %i: i64[2]
    %h: f32[2, 3] = linear(%x, %a)
    %e: f32[2, 3] = embedding(%t, %i)
    %s: f32[2, 3] = pointwise[expr="add(x0, x1)"](%h, %e)
    %new: f32[5, 3] = pointwise[expr="add(x0, x0)"](%t)
    update %t = %new
    return %s
"""


def test_a_parameter_that_the_model_writes_is_known_at_no_call() -> None:
    """A table of zeros would make a constant; it is other numbers at the next call."""
    params = {"a": rows([1], (3, 4)), "t": torch.zeros(5, 3), "i": torch.tensor([0, 1])}
    graph = parse_graph(WRITTEN)
    assert EliminateDeadChannels().run(graph, Context(params=params)) is graph


SYMBOLIC = """
    input %x: f32[B, 4]
    param %a: f32[6, 4]
    param %c: f32[2, 6]
    %h: f32[B, 6] = linear(%x, %a)
    %t: f32[6, B] = permute[dims=(1, 0)](%h)
    %s: f32[B, B] = slice[stop=B](%t)
    %y: f32[B, 2] = linear(%h, %c)
    return %s, %y
"""


def test_a_range_of_channels_that_changes_from_call_to_call_keeps_all() -> None:
    params = {"a": rows([1], (6, 4)), "c": rows([], (2, 6), 1)}
    graph = parse_graph(SYMBOLIC)
    assert EliminateDeadChannels().run(graph, Context(params=params)) is graph


EMPTY = """
    input %x: f32[B, 4]
    param %a: f32[0, 4]
    param %c: f32[2, 0]
    %h: f32[B, 0] = linear(%x, %a)
    %g: f32[B, 0] = pointwise[expr="relu(x0)"](%h)
    %y: f32[B, 2] = linear(%g, %c)
    return %y
"""


def test_layers_without_channels_are_left_alone() -> None:
    graph = parse_graph(EMPTY)
    params = {"a": torch.zeros(0, 4), "c": torch.zeros(2, 0)}
    assert EliminateDeadChannels().run(graph, Context(params=params)) is graph


def test_facts_that_say_that_no_row_is_zero_spare_the_numbers() -> None:
    params = {"a": rows([], (3, 4)), "b": torch.ones(3), "c": rows([], (2, 3), 1)}
    facts = {name: sparsity_facts(params[name]) for name in "ac"}
    unseen = {**params, "a": rows([1], (3, 4)), "c": torch.zeros(2, 3)}
    graph = parse_graph(MLP)
    assert EliminateDeadChannels().run(graph, Context(params=unseen)) is not graph
    assert EliminateDeadChannels().run(graph, Context(params=unseen, facts=facts)) is graph


def test_facts_and_numbers_take_out_the_same() -> None:
    params = {"a": rows([1], (3, 4)), "b": torch.ones(3), "c": rows([], (2, 3), 1)}
    facts = {name: sparsity_facts(params[name]) for name in "ac"}
    graph = parse_graph(MLP)
    with_facts = EliminateDeadChannels().run(graph, Context(params=params, facts=facts))
    assert str(with_facts) == str(EliminateDeadChannels().run(graph, Context(params=params)))
