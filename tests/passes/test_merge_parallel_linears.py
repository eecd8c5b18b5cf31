"""Linears on one input become one, if one format suits them and nothing else wants to fuse."""

import pytest
import torch

from sparse_compiler.analysis.sparsity import sparsity_facts
from sparse_compiler.ir.text import parse_graph
from sparse_compiler.passes.base import Context
from sparse_compiler.passes.choose_formats import ChooseFormats
from sparse_compiler.passes.merge_parallel_linears import MergeParallelLinears
from sparse_compiler.passes.provenance import weight_counts, weight_sources
from tests.passes.checks import check_pass, check_untouched

PASS = MergeParallelLinears()
TEXT = """
    input %x: f32[2, 50, 64]
    param %q: f32[64, 64]
    param %k: f32[32, 64]
    param %v: f32[32, 64]
    %a: f32[2, 50, 64] = linear(%x, %q)
    %b: f32[2, 50, 32] = linear(%x, %k)
    %c: f32[2, 50, 32] = linear(%x, %v)
    %ar: f32[2, 50, 4, 16] = reshape[shape=(2, 50, 4, 16)](%a)
    %br: f32[2, 50, 2, 16] = reshape[shape=(2, 50, 2, 16)](%b)
    %cr: f32[2, 50, 2, 16] = reshape[shape=(2, 50, 2, 16)](%c)
    return %ar, %br, %cr
    """


def facts(density=0.1, **others):
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, rows in (("q", 64), ("k", 32), ("v", 32)):
        kept = torch.rand(rows, 64, generator=generator) < others.get(name, density)
        found[name] = sparsity_facts(kept.float())
    return found


def test_queries_keys_and_values_are_one_matrix():
    context = check_pass(
        TEXT,
        PASS,
        """
        input %x: f32[2, 50, 64]
        param %q: f32[64, 64]
        param %k: f32[32, 64]
        param %v: f32[32, 64]
        %q.merged: f32[128, 64] = cat(%q, %k, %v)
        %a.merged: f32[2, 50, 128] = linear(%x, %q.merged)
        %a: f32[2, 50, 64] = slice[dim=2, stop=64](%a.merged)
        %b: f32[2, 50, 32] = slice[dim=2, start=64, stop=96](%a.merged)
        %c: f32[2, 50, 32] = slice[dim=2, start=96, stop=128](%a.merged)
        %ar: f32[2, 50, 4, 16] = reshape[shape=(2, 50, 4, 16)](%a)
        %br: f32[2, 50, 2, 16] = reshape[shape=(2, 50, 2, 16)](%b)
        %cr: f32[2, 50, 2, 16] = reshape[shape=(2, 50, 2, 16)](%c)
        return %ar, %br, %cr
        """,
        facts=facts(),
    )
    assert not context.refusals


def test_biases_are_joined_too():
    text = TEXT.replace("= linear(", "= linear[bias=true](")
    for name, size in (("q", 64), ("k", 32), ("v", 32)):
        text = text.replace(f"(%x, %{name})", f"(%x, %{name}, %{name}.bias)")
        text = f"param %{name}.bias: f32[{size}]\n{text}"
    after = PASS.run(parse_graph(text), Context(facts=facts()))
    check_pass(text, PASS, str(after), facts=facts())
    assert "%q.bias.merged: f32[128] = cat(%q.bias, %k.bias, %v.bias)" in str(after)
    assert "linear[bias=true](%x, %q.merged, %q.bias.merged)" in str(after)


def test_what_has_no_bias_stays_apart():
    text = "param %bias: f32[32]" + TEXT.replace(
        "linear(%x, %k)", "linear[bias=true](%x, %k, %bias)"
    )
    after = PASS.run(parse_graph(text), Context(facts=facts()))
    check_pass(text, PASS, str(after), facts=facts())
    assert "%q.merged: f32[96, 64] = cat(%q, %v)" in str(after)
    assert "%b: f32[2, 50, 32] = linear[bias=true](%x, %k, %bias)" in str(after)


def test_a_dense_one_stays_apart():
    text = """
        input %x: f32[128, 768]
        param %q: f32[512, 768]
        param %k: f32[512, 768]
        param %v: f32[512, 768]
        %a: f32[128, 512] = linear(%x, %q)
        %b: f32[128, 512] = linear(%x, %k)
        %c: f32[128, 512] = linear(%x, %v)
        %y: f32[128, 1536] = cat[dim=1](%a, %b, %c)
        return %y
        """
    sparse = (torch.rand(512, 768, generator=torch.Generator().manual_seed(0)) < 0.05).float()
    known = {"q": sparsity_facts(sparse), "k": sparsity_facts(torch.ones(512, 768))}
    after = PASS.run(parse_graph(text), Context(facts=known | {"v": known["q"]}))
    assert "%q.merged: f32[1024, 768] = cat(%q, %v)" in str(after)
    assert "%b: f32[128, 512] = linear(%x, %k)" in str(after)


def test_a_weight_made_later_than_the_first_linear():
    text = TEXT.replace("param %v: f32[32, 64]", "param %u: f32[64, 32]").replace(
        "%c: f32[2, 50, 32] =",
        "%v: f32[32, 64] = permute[dims=(1, 0)](%u)\n%c: f32[2, 50, 32] =",
    )
    after = PASS.run(parse_graph(text), Context(facts=facts()))
    check_pass(text, PASS, str(after), facts=facts())
    assert "cat(%q, %k, %v)" in str(after)


@pytest.mark.parametrize(
    ("old", "new", "codes"),
    [
        (
            "%br: f32[2, 50, 2, 16] = reshape[shape=(2, 50, 2, 16)](%b)",
            '%br: f32[2, 50, 32] = pointwise[expr="relu(x0)"](%b)',
            {"not_in_planes"},
        ),
        ("return %ar", "return %b, %ar", {"graph_output"}),
        ("linear(%x, %k)", 'linear[epilogue="relu(x0)"](%x, %k)', {"epilogue"}),
        ("param %k", "input %k", {"weight_is_computed"}),
    ],
)
def test_one_that_must_stay(old, new, codes):
    assert old in TEXT
    context = Context(facts=facts())
    after = str(PASS.run(parse_graph(TEXT.replace(old, new)), context))
    assert "cat(%q, %v)" in after
    assert {reason.code for reason in context.refusals["b"]} == codes


def test_must_not_fire():
    one = TEXT.replace("linear(%x, %k)", "linear(%z, %k)").replace(
        "linear(%x, %v)", "linear(%u, %v)"
    )
    one = "input %z: f32[2, 50, 64]\ninput %u: f32[2, 50, 64]\n" + one
    check_untouched(one, PASS, facts=facts())
    check_untouched(TEXT, PASS, "no_facts")
    tied = TEXT.replace("(%x, %v)", "(%x, %k)").replace("param %v: f32[32, 64]", "")
    check_untouched(tied, PASS, "shared_weight", facts=facts())


def test_the_merged_weight_is_known_by_its_parts():
    known = facts()
    context = Context(facts=known)
    after = ChooseFormats().run(PASS.run(parse_graph(TEXT), context), context)
    assert weight_sources(after, "q.merged.csr", known) == ("q", "k", "v")
    counts = weight_counts(after, "q.merged.csr", known)
    assert counts is not None
    assert (counts.rows, counts.columns) == (128, 64)
    assert counts.nnz == sum(f.nnz for f in known.values())
