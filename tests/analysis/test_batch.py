"""batch_of: which values are made of samples, and every way in which samples may mix."""

import pytest
import torch

from sparse_compiler.analysis.batch import Batch, batch_of
from sparse_compiler.analysis.batch_rules import divided
from sparse_compiler.ir.graph import Graph
from sparse_compiler.ir.interpret import interpret
from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.text import parse_graph
from sparse_compiler.ir.types import TensorType, symbol
from sparse_compiler.passes.base import Context
from sparse_compiler.passes.choose_layouts import ChooseLayouts
from tests.passes.checks import SIZE, random_sample

WEIGHT = """
    param %w: f32[8, 8]
    %w.csr: f32[8, 8]{csr} = pack[format="csr"](%w)
"""


def laid_out(text: str) -> Graph:
    return ChooseLayouts().run(parse_graph(text), Context(force_native=True))


def batch(text: str) -> Batch | No:
    """Of all native nodes of the graph after layouts are chosen."""
    graph = laid_out(text)
    native = [
        node
        for node in graph.nodes
        if node.name not in graph.bind_time
        and isinstance(node.type, TensorType)
        and (node.type.layout is not None or node.op.name == "relayout")
    ]
    assert native, "nothing became native"
    return batch_of(graph, native)


def linear(x: str, between: str, result: str) -> str:
    """A graph of one input `x`, a linear of it, %a, and what follows; the result is %y."""
    shape = x.rpartition(",")[0]
    return f"""
    symbol B in [1, 64]
    input %x: f32[{x}]
    {WEIGHT}
    %a: f32[{shape}, 8] = linear(%x, %w.csr)
    {between}
    return {result}
    """


def refused(text: str) -> str:
    found = batch(text)
    assert isinstance(found, No), found
    return found.code


def carried(text: str) -> tuple[object, set[str]]:
    found = batch(text)
    assert isinstance(found, Batch), found
    return found.samples, set(found.carried)


def test_tokens() -> None:
    text = linear("B, 5, 8", '%r: f32[B, 5, 8] = pointwise[expr="relu(x0)"](%a)', "%r")
    assert carried(text) == (symbol("B"), {"x", "x.planes", "a", "r", "r.rows"})


def test_one_sample_needs_no_telling_apart() -> None:
    text = linear("1, 5, 8", "%f: f32[1, 5, 8] = flip[dims=(0, 1)](%a)", "%f")
    assert carried(text) == (1, set())


def test_images() -> None:
    text = """
    input %x: f32[4, 3, 8, 8]
    param %w: f32[4, 3, 3, 3]
    %w.csr: f32[4, 3, 3, 3]{csr} = pack[format="csr"](%w)
    %a: f32[4, 4, 8, 8] = conv[stride=(1,1), padding=(1,1), dilation=(1,1)](%x, %w.csr)
    %m: f32[4, 4, 1, 1] = reduce[fn="mean", dims=(2, 3), keepdim=true](%a)
    %f: f32[4, 4] = reshape[shape=(4, 4)](%m)
    return %f
    """
    assert carried(text) == (4, {"x", "x.planes", "a", "m", "f", "f.rows"})


WINDOWS = f"""
    symbol B in [1, 64]
    input %x: f32[B, 4, 6, 8]
    {WEIGHT}
    %a: f32[B, 4, 6, 8] = linear(%x, %w.csr)
    %b: f32[B, 2, 2, 3, 2, 8] = reshape[shape=(B, 2, 2, 3, 2, 8)](%a)
    %c: f32[B, 2, 3, 2, 2, 8] = permute[dims=(0, 1, 3, 2, 4, 5)](%b)
    %d: f32[6*B, 4, 8] = reshape[shape=(6*B, 4, 8)](%c)
    %e: f32[6*B, 4, 8] = linear(%d, %w.csr)
    return %e
    """


@pytest.mark.parametrize("text", [WINDOWS, WINDOWS.replace("6*B", "12").replace("B,", "2,")])
def test_windows_are_a_leading_factor(text: str) -> None:
    samples, names = carried(text)
    assert samples in (symbol("B"), 2)
    assert names >= {"a", "b", "c", "c.planes", "d", "e", "e.rows"}


def tokens_and_mask(samples: str, tokens: int, mask: str) -> str:
    shape = f"{samples}, 2, {tokens}, 4"
    return f"""
    symbol B in [1, 64]
    input %x: f32[{samples}, {tokens}, 8]
    input %m: bool[{mask}]
    {WEIGHT}
    %a: f32[{samples}, {tokens}, 8] = linear(%x, %w.csr)
    %q: f32[{samples}, {tokens}, 2, 4] = reshape[shape=({samples}, {tokens}, 2, 4)](%a)
    %h: f32[{shape}] = permute[dims=(0, 2, 1, 3)](%q)
    %o: f32[{shape}] = attention[mask=true](%h, %h, %h, %m)
    return %o
    """


@pytest.mark.parametrize(
    ("samples", "tokens", "mask", "differs"),
    [
        ("B", 5, "B, 1, 1, 5", True),
        ("B", 5, "1, 1, 5, 5", False),
        ("B", 5, "5, 5", False),
        ("5", 5, "5, 5", False),  # as many tokens as samples: the mask is of tokens
        ("5", 5, "5, 1, 5, 5", True),
    ],
)
def test_a_mask_may_be_shared(samples: str, tokens: int, mask: str, differs: bool) -> None:
    _, names = carried(tokens_and_mask(samples, tokens, mask))
    assert ("m.flat" in names) == differs
    assert names >= {"h", "o", "o.rows"}


def test_whole_numbers_alone_in_rows() -> None:
    text = """
    symbol B in [1, 64]
    input %n: i64[B, 5]
    %a: i64[B, 5] = pointwise[expr="add(x0, 1)"](%n)
    %s: i64[B] = reduce[fn="sum", dims=(1,)](%a)
    return %s
    """
    assert carried(text) == (symbol("B"), {"n", "n.flat", "a", "s", "s.rows"})


def test_an_input_that_all_samples_share() -> None:
    text = """
    symbol B in [1, 64]
    input %n: i64[B, 5]
    input %k: i64[5]
    %l: i64[5] = pointwise[expr="neg(x0)"](%k)
    %a: i64[B, 5] = pointwise[expr="add(x0, x1)"](%n, %l)
    return %a
    """
    assert carried(text) == (symbol("B"), {"n", "n.flat", "a", "a.rows"})


def test_a_constant_of_every_sample() -> None:
    """A class token spread over the batch at weight time: each sample has its own piece of it."""
    text = linear(
        "3, 5, 8",
        "%c: f32[3, 6, 8] = cat[dim=1](%t, %a)",
        "%c",
    ).replace("param %w:", "param %t: f32[3, 1, 8]\n    param %w:")
    assert carried(text)[1] == {"x", "x.planes", "a", "t.planes", "c", "c.rows"}


# --- must not fire --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "between",
    [
        "%y: f32[4, 5, 8] = flip[dims=(0,)](%a)",
        "%y: f32[4, 5, 8] = roll[shifts=(1,), dims=(0,)](%a)",
        "%y: f32[8, 5, 8] = cat[dim=0](%a, %a)",
        "%y: f32[2, 5, 8] = slice[dim=0, start=1, stop=3](%a)",
        "%y: f32[4, 5, 8] = cumsum[dim=0](%a)",
        '%y: f32[5, 8] = reduce[fn="sum", dims=(0,)](%a)',
        "%y: f32[4, 5, 8] = softmax[dim=0](%a)",
        "%y: f32[4, 5, 8] = pad[before=(1, 0, 0), after=(-1, 0, 0)](%a)",
    ],
)
def test_ops_along_the_samples(between: str) -> None:
    assert refused(linear("4, 5, 8", between, "%y")) == "mixes_samples"


def test_samples_merged_behind_another_dimension() -> None:
    text = linear(
        "4, 5, 8",
        """%p: f32[5, 4, 8] = permute[dims=(1, 0, 2)](%a)
    %r: f32[20, 8] = reshape[shape=(20, 8)](%p)
    %y: f32[20, 8] = linear(%r, %w.csr)""",
        "%y",
    )
    assert refused(text) in ("mixes_samples", "batch_inside")


def test_samples_that_change_places_with_tokens() -> None:
    text = linear("4, 5, 8", "%p: f32[5, 4, 8] = permute[dims=(1, 0, 2)](%a)", "%p")
    assert refused(text) == "batch_inside"


def test_samples_that_meet_the_wrong_way_round() -> None:
    """x[i, j] + x[j, i]: as many tokens as samples, and every sample reads all others."""
    text = """
    input %n: i64[4, 4]
    %t: i64[4, 4] = permute[dims=(1, 0)](%n)
    %a: i64[4, 4] = pointwise[expr="add(x0, x1)"](%n, %t)
    return %a
    """
    assert refused(text) in ("mixes_samples", "batch_inside")


def test_picking_among_the_samples() -> None:
    text = """
    input %x: i64[4, 5]
    input %i: i64[3]
    %y: i64[3, 5] = index(%x, %i)
    return %y
    """
    assert refused(text) == "mixes_samples"


def test_a_result_without_samples() -> None:
    text = """
    symbol B in [1, 64]
    input %n: i64[B, 5]
    input %k: i64[5]
    %a: i64[B, 5] = pointwise[expr="add(x0, x1)"](%n, %k)
    %l: i64[5] = pointwise[expr="neg(x0)"](%k)
    return %a, %l
    """
    assert refused(text) == "no_batch"


@pytest.mark.parametrize(
    ("size", "samples", "ratio"),
    [
        (12, 4, 3),
        (12, 5, None),
        (6 * symbol("B"), symbol("B"), 6),
        (symbol("B") * symbol("S") + symbol("B"), symbol("B"), symbol("S") + 1),
        (symbol("B") + 1, symbol("B"), None),
        (symbol("S"), symbol("B"), None),
        (6, symbol("B"), None),
    ],
)
def test_whole_ratios(size: object, samples: object, ratio: object) -> None:
    assert divided(size, samples) == ratio


@pytest.mark.parametrize(
    "text",
    [
        WINDOWS,
        tokens_and_mask("B", 5, "B, 1, 1, 5"),
        tokens_and_mask("B", 5, "1, 1, 5, 5"),
        linear("B, 5, 8", '%s: f32[B, 8] = reduce[fn="mean", dims=(1,)](%a)', "%s"),
        linear("B, 5, 8", "%f: f32[B, 5, 8] = flip[dims=(1,)](%a)", "%f"),
        linear("B, 5, 8", "%c: f32[B, 10, 8] = cat[dim=1](%a, %a)", "%c"),
    ],
)
def test_one_sample_at_a_time_gives_the_same_numbers(text: str) -> None:
    graph, found = laid_out(text), batch(text)
    assert isinstance(found, Batch)
    sample = random_sample(parse_graph(text))
    (whole,) = interpret(graph, sample.inputs, sample.params)
    parts = []
    for i in range(SIZE):
        inputs = [
            tensor[i : i + 1] if value.name in found.carried else tensor
            for value, tensor in zip(graph.inputs, sample.inputs, strict=True)
        ]
        parts += interpret(graph, inputs, sample.params)
    torch.testing.assert_close(torch.cat(parts), whole)
