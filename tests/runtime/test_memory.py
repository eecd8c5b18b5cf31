"""Weights are held once where they can be: values freed once read, parameters left in place."""

import gc
import weakref
from collections.abc import Sequence

import pytest
import torch
from torch import nn

import sparse_compiler as sc
from sparse_compiler.ir.text import parse_graph
from sparse_compiler.runtime import stream
from sparse_compiler.runtime.stream import ALIGN, WeightStream
from sparse_compiler.runtime.weights import WeightTimeValues
from tests.runtime.nets import agrees, compiled

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("cached_kernels")]

GRAPH = """
input %x: f32[2, 4]
param %a: f32[4, 4]
param %b: f32[4, 4]
%ab: f32[8, 4] = cat(%a, %b)
%twice: f32[8, 4] = pointwise[expr="mul(x0, 2.0)"](%ab)
%packed: f32[8, 4]{dense} = pack[format="dense"](%ab)
%y: f32[2, 8] = linear(%x, %twice)
return %y
"""


def values(reads: Sequence[str], kept: Sequence[str] = ()) -> WeightTimeValues:
    graph = parse_graph(GRAPH)
    params = {"a": torch.ones(4, 4), "b": torch.full((4, 4), 3.0)}
    nodes = [node for node in graph.nodes if node.name in graph.weight_time]
    return WeightTimeValues(graph, nodes, params, reads, kept)


def test_a_value_lives_until_its_last_reading() -> None:
    held = values(["ab", "twice"])
    ab = held.take("ab")
    seen = weakref.ref(ab)
    del ab
    gc.collect()
    assert seen() is not None, "%twice still reads it"
    assert held.take("twice")[7, 0] == 6
    gc.collect()
    assert seen() is None


def test_values_that_are_kept_can_be_taken_again() -> None:
    held = values([], ["ab", "a"])
    assert set(held.kept) == {"a", "b", "ab"}
    assert held.take("ab") is held.take("ab")


def test_parts_are_parameters_one_below_the_other() -> None:
    held = values(["packed", "twice"])
    parts = held.parts("packed")
    assert parts is not None
    assert [p.data_ptr() for p in parts] == [held.kept[n].data_ptr() for n in "ab"]
    assert held.parts("twice") is None, "computed"


def test_stream_gives_room_beyond_what_it_reserved() -> None:
    memory = WeightStream(2 * ALIGN)
    first, second, third = memory.place(3), memory.place(ALIGN), memory.place(5 * ALIGN)
    assert second.data_ptr() - first.data_ptr() == ALIGN
    assert [t.data_ptr() % ALIGN for t in (first, second, third)] == [0, 0, 0]
    third.fill_(7)
    assert third.numel() == 5 * ALIGN


class Attention(nn.Module):
    """Query, key and value of one input, which are merged; their rows are no whole blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(200, 100), nn.Linear(200, 100), nn.Linear(200, 100)
        self.out = nn.Linear(100, 201)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.q(x) * torch.sigmoid(self.k(x)) + self.v(x))


@pytest.mark.parametrize("tokens", [128, 9])
def test_dense_weights_where_they_lie(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    monkeypatch.setattr(stream, "_COPIES", 0)
    torch.manual_seed(0)
    model = Attention().eval().requires_grad_(False)
    x = torch.randn(1, tokens, 200)
    fast = compiled(model, x)
    (segment,) = fast.pipeline.segments
    assert segment._weights is not None
    referred = {p.data_ptr() for h in segment._weights.held.values() for p in h.parts}
    wide = fast.pipeline.options.isa == "native" and segment._packer.width > 4 and tokens == 128
    assert ({model.q.weight.data_ptr(), model.v.weight.data_ptr()} <= referred) is wide
    agrees(fast, model, x)
    with torch.no_grad():
        model.k.weight.mul_(-2)
    agrees(fast, model, x)
    model.v.weight = nn.Parameter(torch.randn(100, 200), requires_grad=False)
    gc.collect()
    agrees(fast, model, x)


def test_a_large_table_is_not_copied() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(1000, 64), nn.Linear(64, 8)).eval().requires_grad_(False)
    ids = torch.randint(0, 1000, (2, 7))
    fast = sc.compile(model, (ids,), options={"force_native": True})
    held = [h for s in fast.pipeline.segments for h in s._weights.held.values()]
    assert model[0].weight.data_ptr() in {h.value.data_ptr() for h in held}
    agrees(fast, model, ids)
    with torch.no_grad():
        model[0].weight.neg_()
    agrees(fast, model, ids)
