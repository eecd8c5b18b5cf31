"""Constants, live channels and groups of small graphs."""

import torch

from sparse_compiler.analysis.channels.facts import count_along, ragged, rectangular
from sparse_compiler.analysis.channels.flow import analyse
from sparse_compiler.analysis.channels.groups import FIXED, channel_groups
from sparse_compiler.ir.text import parse_graph

GATED = """
    input %x: f32[B, 4]
    param %g: f32[6, 4]
    param %u: f32[6, 4]
    param %d: f32[3, 6]
    %a: f32[B, 6] = linear(%x, %g)
    %b: f32[B, 6] = linear(%x, %u)
    %h: f32[B, 6] = pointwise[expr="mul(silu(x0), x1)"](%a, %b)
    %y: f32[B, 3] = linear(%h, %d)
    return %y
"""


def params(graph, **changed):
    generator = torch.Generator().manual_seed(0)
    drawn = {p.name: torch.randn(p.type.shape, generator=generator) for p in graph.params}
    return drawn | changed


def test_a_closed_gate_takes_the_other_branch_with_it() -> None:
    graph = parse_graph(GATED)
    values = params(graph)
    values["g"][2] = 0.0  # silu(0) = 0
    channels = analyse(graph, values)
    for name in "abh":
        assert channels.alive[name].flatten().tolist() == [True, True, False, True, True, True]
    assert channels.facts["h"].zero.flatten().tolist() == [False, False, True, False, False, False]


def test_the_two_branches_of_a_gate_are_one_group() -> None:
    graph = parse_graph(GATED)
    first, last = channel_groups(graph, params(graph))
    assert [m.weight for m in first.writers] == ["g", "u"]
    assert [(m.weight, m.dim) for m in first.readers] == [("d", 1)]
    assert (first.size, first.fixed) == (6, "")
    assert last.fixed and FIXED
    assert "6 channels" in str(first)


JOINED = """
    input %x: f32[1, 2, 4, 4]
    param %v: f32[3, 2, 1, 1]
    param %w: f32[2, 2, 1, 1]
    param %u: f32[4, 80]
    %a: f32[1, 3, 4, 4] = conv[stride=(1, 1), padding=(0, 0), dilation=(1, 1)](%x, %v)
    %b: f32[1, 2, 4, 4] = conv[stride=(1, 1), padding=(0, 0), dilation=(1, 1)](%x, %w)
    %c: f32[1, 5, 4, 4] = cat[dim=1](%a, %b)
    %f: f32[1, 80] = reshape[shape=(1, 80)](%c)
    %y: f32[1, 4] = linear(%f, %u)
    return %y
"""


def test_index_maps_go_through_concatenation_and_flattening() -> None:
    graph = parse_graph(JOINED)
    _, second, _ = channel_groups(graph, params(graph))
    (reader,) = second.readers
    assert reader.index.tolist() == list(range(48, 80))
    assert reader.channel.tolist() == [0] * 16 + [1] * 16


def test_an_unread_part_of_a_concatenation_goes() -> None:
    graph = parse_graph(JOINED)
    values = params(graph)
    values["u"][:, 16:32] = 0.0
    channels = analyse(graph, values)
    assert channels.alive["a"].flatten().tolist() == [True, False, True]
    assert bool(channels.alive["b"].all())


def test_uneven_masks_are_filled_up() -> None:
    mask = torch.tensor([[1, 0, 0], [0, 0, 0], [1, 0, 1]], dtype=torch.bool)
    even = ragged(mask, 1)
    assert even.sum(1).tolist() == [2, 0, 2]
    assert bool((even | ~mask).all())
    assert [count_along(even, d, 3) for d in (0, 1)] == [2, 2]
    assert rectangular(mask).sum(1).tolist() == [2, 0, 2]


NORMED = """
    input %x: f32[B, 4]
    param %w: f32[6, 4]
    param %g: f32[6]
    param %b: f32[6]
    param %u: f32[2, 6]
    %h: f32[B, 6] = linear(%x, %w)
    %n: f32[B, 6] = layer_norm(%h, %g, %b)
    %y: f32[B, 2] = linear(%n, %u)
    return %y
"""


def test_statistics_keep_channels_and_say_so() -> None:
    graph = parse_graph(NORMED)
    values = params(graph)
    values["w"][[1, 3]] = 0.0
    channels = analyse(graph, values)
    assert bool(channels.alive["h"].all())
    assert channels.reasons()["n"].code == "norm_statistics"
