"""Each reason code is given by a graph that earns it; those that no other test names stand here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import fx

from sparse_compiler.analysis import batch as batch_module
from sparse_compiler.analysis.batch import batch_of
from sparse_compiler.frontends.rival import settle
from sparse_compiler.inspector.report import Report, report_of
from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.text import parse_graph
from sparse_compiler.ir.types import TensorType, symbol
from sparse_compiler.ops.attention import Attention
from sparse_compiler.ops.conv import Conv
from sparse_compiler.ops.images import image_in_planes
from sparse_compiler.ops.linear import Linear
from sparse_compiler.ops.norm import one_column
from sparse_compiler.ops.pool import Pool
from sparse_compiler.ops.rotary import Rotary
from sparse_compiler.options import Options
from sparse_compiler.passes.base import Context
from sparse_compiler.passes.choose_layouts import ChooseLayouts
from sparse_compiler.passes.eliminate_dead_channels import EliminateDeadChannels
from sparse_compiler.passes.insert_masks import InsertMasks
from sparse_compiler.passes.layouts.candidates import candidates
from sparse_compiler.runtime.pipeline import lower_graph
from sparse_compiler.runtime.weights import LiveWeights


def linear(n: int, k: int, m: int) -> str:
    return f"""
    input %x: f32[{n}, {k}]
    param %w: f32[{m}, {k}]
    %y: f32[{n}, {m}] = linear(%x, %w)
    return %y
    """


def compiled(text: str, density: float, **options: Any) -> tuple[Report, set[str]]:
    """The report of a graph with random weights, and the codes of all refusals."""
    graph, generator = parse_graph(text), torch.Generator().manual_seed(0)
    measured = options.pop("measured", None)
    params = {}
    for p in graph.params:
        value = torch.randn([int(s) for s in p.type.shape], generator=generator)
        params[p.name] = value * (torch.rand(value.shape, generator=generator) < density)
    wanted = Options(calibrate=False, **options)
    lowered = lower_graph(graph, LiveWeights(params), wanted, {}, measured=measured)
    candidates = [c.refused for found in lowered.context.candidates.values() for c in found]
    refused = [r for found in lowered.context.refusals.values() for r in found]
    return report_of(lowered), {r.code for r in (*refused, *candidates) if r is not None}


@pytest.mark.parametrize(
    ("code", "density", "options"),
    [
        ("other_wanted", 0.1, {"format": "dense"}),
        ("measured_slower", 0.1, {"measured": {("y", "csr"): 5e3, ("y", "dense"): 9e3}}),
        ("not_measured", 0.1, {"measured": {("y", "csr"): 5e3}}),
        ("below_break_even", 0.97, {}),
        ("slower", 0.1, {}),
    ],
)
def test_of_candidates(code: str, density: float, options: Mapping[str, Any]) -> None:
    report, codes = compiled(linear(128, 256, 256), density, **options)
    assert code in codes
    if "measured" in options:
        (layer,) = report.layers
        assert next(c for c in layer.candidates if c.format == "csr").measured_ms == 0.005


def test_a_weight_that_streams_from_memory_is_bandwidth_bound() -> None:
    assert "bandwidth_bound" in compiled(linear(1, 2048, 2048), 0.5)[1]
    assert "bandwidth_bound" not in compiled(linear(128, 128, 128), 0.5)[1], "it stays in cache"


@pytest.mark.parametrize(
    ("code", "density", "options"),
    [
        ("no_zeros", 1.1, {"force_native": True}),
        ("passes_left_out", 0.1, {"stop_after": "eliminate-dead-nodes"}),
        ("not_packed", 0.1, {"fuel": 0}),
    ],
)
def test_of_layers(code: str, density: float, options: Mapping[str, Any]) -> None:
    report, _ = compiled(linear(128, 256, 256), density, **options)
    assert [str(layer.reason).split(":")[0] for layer in report.layers] == [code]


def test_heads_too_large_for_the_kernel() -> None:
    text = """
    input %x: f32[1, 2, 8, 2000]
    param %w: f32[2000, 2000]
    %h: f32[1, 2, 8, 2000] = linear(%x, %w)
    %o: f32[1, 2, 8, 2000] = attention[mask=false](%h, %h, %h)
    return %o
    """
    assert "head_size" in compiled(text, 0.1, force_native=True)[1]


def code_of(answer: object) -> str:
    assert isinstance(answer, No), answer
    return answer.code


def floats(*shape: Any) -> TensorType:
    return TensorType("f32", shape)


def test_what_kernels_ask_of_shapes() -> None:
    queries = floats(1, 2, 5, 8)
    angles = floats(1, 5, 4)
    assert code_of(Linear().planar((floats(1, 8), floats(4, 8)), (False, True))) == "one_column"
    assert code_of(one_column((floats(5, 8),), floats(5, 8))) == "many_columns"
    assert code_of(Rotary().row_major((queries, angles, angles))) == "many_columns"
    assert code_of(Attention().row_major((queries, queries, queries))) == "many_queries"
    image = floats(1, symbol("C"), 8, 8)
    pool = Pool("max", (2, 2), (2, 2), (0, 0), (1, 1))
    assert code_of(image_in_planes(pool, (image,), (False,))) == "symbolic_channels"
    conv = Conv((1, 1), (0, 0), (1, 1))
    types = (floats(1, 4, 8, 8), floats(4, 4, 1, 1))
    assert code_of(conv.planar(types, (True, True))) == "constant_input"


def test_planes_are_counted_when_compiling() -> None:
    graph = parse_graph("""
    symbol S in [1, 64]
    input %x: f32[4, 8]
    input %s: f32[4, S]
    param %w: f32[8, 8]
    %w.csr: f32[8, 8]{csr} = pack[format="csr"](%w)
    %h: f32[4, 8] = linear(%x, %w.csr)
    %z: f32[4, S + 8] = cat[dim=1](%h, %s)
    return %z
    """)
    assert code_of(candidates(graph)["z"].refusal) == "symbolic_planes"


def test_frozen_inductor_wants_fixed_sizes() -> None:
    graph = fx.Graph()
    graph.output((graph.placeholder("size"),))
    gm = fx.GraphModule(torch.nn.Module(), graph)

    def ours(*args: Any) -> None: ...

    lowered: Any = None
    kept, outcome = settle(gm, [3], ours, {}, lowered)
    assert kept is ours
    assert code_of(outcome.reason) == "dynamic_dim"


# --- batches --------------------------------------------------------------------------------------

LAID_OUT = """
    input %x: f32[16, 8]
    param %w: f32[8, 8]
    %w.csr: f32[8, 8]{csr} = pack[format="csr"](%w)
    %y: f32[16, 8] = linear(%x, %w.csr)
    return %y
"""


def test_an_op_that_says_nothing_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = ChooseLayouts().run(parse_graph(LAID_OUT), Context(force_native=True))
    nodes = [n for n in graph.nodes if n.name not in graph.weight_time]
    assert not isinstance(batch_of(graph, nodes), No)
    rules = {op: rule for op, rule in batch_module.RULES.items() if op is not Linear}
    monkeypatch.setattr(batch_module, "RULES", rules)
    assert code_of(batch_of(graph, nodes)) == "batch_unknown"


def test_a_segment_that_reads_no_dimension() -> None:
    graph = parse_graph("""
    input %x: f32[]
    %y: f32[] = pointwise[expr="mul(x0, 2.0)"](%x)
    return %y
    """)
    assert code_of(batch_of(graph, graph.nodes)) == "no_input"


# --- dead channels --------------------------------------------------------------------------------


def dead_channels(between: str, shape: str) -> dict[str, list[str]]:
    """Codes by node where channels 1 and 3 of a layer of 8 are zero and `between` reads them."""
    text = f"""
    input %x: f32[2, 4]
    param %w: f32[8, 4]
    param %u: f32[2, {shape.rpartition(",")[2].strip()}]
    %h: f32[2, 8] = linear(%x, %w)
    {between}
    %y: f32[{shape.rpartition(",")[0]}, 2] = linear(%n, %u)
    return %y
    """
    graph = parse_graph(text)
    params = {p.name: torch.ones([int(s) for s in p.type.shape]) for p in graph.params}
    params["w"][[1, 3]] = 0
    context = Context(params=params)
    EliminateDeadChannels().run(graph, context)
    return {name: [r.code for r in found] for name, found in context.refusals.items()}


def test_softmax_reads_every_channel() -> None:
    found = dead_channels("%n: f32[2, 8] = softmax[dim=1](%h)", "2, 8")
    assert found == {"n": ["softmax_statistics"]}


def test_a_running_sum_mixes_channels() -> None:
    found = dead_channels("%n: f32[2, 8] = cumsum[dim=1](%h)", "2, 8")
    assert found == {"n": ["mixes_channels"]}


def test_rotary_features_turn_in_pairs() -> None:
    between = """
    input %cos: f32[2, 1, 4]
    %g: f32[2, 1, 1, 8] = reshape[shape=(2, 1, 1, 8)](%h)
    %n: f32[2, 1, 1, 8] = rotary(%g, %cos, %cos)
    """
    assert dead_channels(between, "2, 1, 1, 8") == {"n": ["rotary_pairs"]}


def test_a_mask_may_hide_every_key() -> None:
    between = """
    input %mask: bool[2, 1, 1, 1]
    %g: f32[2, 4, 1, 2] = reshape[shape=(2, 4, 1, 2)](%h)
    %m: f32[2, 4, 1, 2] = attention[mask=true](%g, %g, %g, %mask)
    %n: f32[2, 8] = reshape[shape=(2, 8)](%m)
    """
    assert dead_channels(between, "2, 8") == {"m": ["mask_may_hide_all"]}


# --- masks ----------------------------------------------------------------------------------------


def test_masks_that_cannot_be_inserted() -> None:
    pass_, weight = InsertMasks(0.5, min_weights=0), torch.ones(4, 4)
    taken = parse_graph("""
    input %x: f32[2, 4]
    param %w: f32[4, 4]
    param %w.mask: f32[2, 4]
    %y: f32[2, 4] = linear(%x, %w)
    %z: f32[2, 4] = pointwise[expr="add(x0, x1)"](%y, %w.mask)
    return %z
    """)
    context = Context(params={"w": weight, "w.mask": torch.ones(2, 4)})
    pass_.run(taken, context)
    assert [r.code for r in context.refusals["y"]] == ["name_is_taken"]


def test_a_weight_whose_first_dimension_is_not_the_outputs() -> None:
    text = """
    input %x: f32[1, 4, 8, 8]
    param %w: f32[4, 6, 2, 2]
    %y: f32[1, 6, 16, 16] = conv[STRIDES, transposed=true](%x, %w)
    return %y
    """.replace("STRIDES", "stride=(2, 2), padding=(0, 0), dilation=(1, 1)")
    context = Context(params={"w": torch.ones(4, 6, 2, 2)})
    InsertMasks(0.5, min_weights=0).run(parse_graph(text), context)
    assert [r.code for r in context.refusals["y"]] == ["weight_is_transposed"]
