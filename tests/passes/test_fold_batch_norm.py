"""Batch norms go into the weight before them, or become a scale and a shift."""

import pytest
import torch

from sparse_compiler.analysis.sparsity import sparsity_facts
from sparse_compiler.frontends.export import export_module
from sparse_compiler.ir.text import parse_graph
from sparse_compiler.passes.base import Context
from sparse_compiler.passes.choose_formats import ChooseFormats
from sparse_compiler.passes.compare import Sample, difference, trace
from sparse_compiler.passes.fold_batch_norm import FoldBatchNorm
from tests.passes.checks import check_pass, check_untouched

PASS = FoldBatchNorm()
HEAD = """
    input %x: f32[2, 3, 8, 8]
    param %w: f32[5, 3, 3, 3]
    param %b: f32[5]
    param %g: f32[5]
    param %beta: f32[5]
    param %mean: f32[5]
    param %var: f32[5]
    """
CONV = "conv[stride=(1, 1), padding=(1, 1), dilation=(1, 1){}]"
AFFINE = """
    %y.scale: f32[5] = pointwise[expr="div(x1, sqrt(add(x0, 1e-05)))"](%var, %g)
    %y.shift: f32[5] = pointwise[expr="sub(x2, mul(x0, x1))"](%y.scale, %mean, %beta)
    """
STATISTICS = {"var": torch.tensor([0.5, 1.0, 2.0, 0.1, 3.0])}
ROWS = """
    %y.scale.rows: f32[5, 1, 1, 1] = reshape[shape=(5, 1, 1, 1)](%y.scale)
    %w.folded: f32[5, 3, 3, 3] = pointwise[expr="mul(x0, x1)"](%w, %y.scale.rows)
    """


def test_into_a_conv_with_a_bias():
    check_pass(
        HEAD
        + f"""
        %c: f32[2, 5, 8, 8] = {CONV.format(", bias=true")}(%x, %w, %b)
        %y: f32[2, 5, 8, 8] = batch_norm(%c, %mean, %var, %g, %beta)
        return %y
        """,
        PASS,
        HEAD
        + AFFINE
        + ROWS
        + f"""
        %b.folded: f32[5] = pointwise[expr="add(mul(x0, x1), x2)"](%b, %y.scale, %y.shift)
        %y: f32[2, 5, 8, 8] = {CONV.format(", bias=true")}(%x, %w.folded, %b.folded)
        return %y
        """,
        params=STATISTICS,
    )


def test_into_a_conv_without_one():
    check_pass(
        HEAD
        + f"""
        %c: f32[2, 5, 8, 8] = {CONV.format("")}(%x, %w)
        %y: f32[2, 5, 8, 8] = batch_norm[scale=false, shift=false](%c, %mean, %var)
        return %y
        """,
        PASS,
        HEAD
        + """
        %y.scale: f32[5] = pointwise[expr="reciprocal(sqrt(add(x0, 1e-05)))"](%var)
        %y.shift: f32[5] = pointwise[expr="neg(mul(x0, x1))"](%y.scale, %mean)
        """
        + ROWS
        + f"""
        %y: f32[2, 5, 8, 8] = {CONV.format(", bias=true")}(%x, %w.folded, %y.shift)
        return %y
        """,
        params=STATISTICS,
    )


def test_into_a_linear():
    head = HEAD.replace("2, 3, 8, 8", "2, 3").replace("5, 3, 3, 3", "5, 3")
    check_pass(
        head
        + """
        %c: f32[2, 5] = linear(%x, %w)
        %y: f32[2, 5] = batch_norm(%c, %mean, %var, %g, %beta)
        return %y
        """,
        PASS,
        head
        + AFFINE
        + """
        %y.scale.rows: f32[5, 1] = reshape[shape=(5, 1)](%y.scale)
        %w.folded: f32[5, 3] = pointwise[expr="mul(x0, x1)"](%w, %y.scale.rows)
        %y: f32[2, 5] = linear[bias=true](%x, %w.folded, %y.shift)
        return %y
        """,
        params=STATISTICS,
    )


ALONE = (
    AFFINE
    + """
    %y.scale.column: f32[5, 1, 1] = reshape[shape=(5, 1, 1)](%y.scale)
    %y.shift.column: f32[5, 1, 1] = reshape[shape=(5, 1, 1)](%y.shift)
    """
)
ARITHMETIC = (
    '%y: f32[2, 5, 8, 8] = pointwise[expr="add(mul(x0, x1), x2)"]'
    "(%c, %y.scale.column, %y.shift.column)"
)


@pytest.mark.parametrize(
    ("made", "result", "code"),
    [
        (f"{CONV.format(', epilogue=@relu(x0)@')}(%x, %w)", "%y", "epilogue"),
        (f"{CONV.format('')}(%x, %w)", "%y, %c", "shared_value"),
        ("cat[dim=1](%x, %z)", "%y", "not_foldable"),
    ],
)
def test_what_cannot_be_folded_is_arithmetic(made, result, code):
    head = (
        HEAD
        + f"""
        input %z: f32[2, 2, 8, 8]
        %c: f32[2, 5, 8, 8] = {made.replace("@", chr(34))}
        """
    )
    norm = "%y: f32[2, 5, 8, 8] = batch_norm(%c, %mean, %var, %g, %beta)"
    context = check_pass(
        f"{head}\n{norm}\nreturn {result}",
        PASS,
        f"{head}{ALONE}\n{ARITHMETIC}\nreturn {result}",
        params=STATISTICS,
    )
    assert [reason.code for reason in context.refusals["y"]] == [code]


def test_statistics_that_change_stay():
    text = (
        HEAD.replace("param %mean", "input %mean")
        + """
        %y: f32[2, 3, 8, 8] = batch_norm(%x, %mean, %var, %g, %beta)
        return %y
        """
    )
    check_untouched(text.replace("f32[5]", "f32[3]"), PASS, "not_foldable")


def test_the_folded_weight_keeps_its_zeros_for_the_choice_of_a_format():
    weight = torch.randn(64, 64, 3, 3) * (torch.rand(64, 64, 3, 3) < 0.05)
    text = """
        input %x: f32[1, 64, 28, 28]
        param %w: f32[64, 64, 3, 3]
        param %mean: f32[64]
        param %var: f32[64]
        %c: f32[1, 64, 28, 28] = conv[stride=(1, 1), padding=(1, 1), dilation=(1, 1)](%x, %w)
        %y: f32[1, 64, 28, 28] = batch_norm[scale=false, shift=false](%c, %mean, %var)
        return %y
        """
    context = Context(facts={"w": sparsity_facts(weight)})
    after = ChooseFormats().run(PASS.run(parse_graph(text), context), context)
    assert "%w.folded.csr: f32[64, 64, 3, 3]{csr} = pack(%w.folded)" in str(after)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_numbers_of_real_modules(transposed, groups):
    torch.manual_seed(0)
    kind = torch.nn.ConvTranspose2d if transposed else torch.nn.Conv2d
    norm = torch.nn.BatchNorm2d(6)
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)
    torch.nn.init.normal_(norm.running_mean)
    model = torch.nn.Sequential(kind(4, 6, 3, stride=2, groups=groups), norm).eval()
    x = torch.randn(2, 4, 9, 9)
    exported = export_module(model, (x,), {})
    graph = exported.imported.graph
    after = PASS.run(graph, Context())
    assert not any(node.op.name == "batch_norm" for node in after.nodes)
    sample = Sample(exported.call.flatten((x,), {}), exported.imported.params)
    assert difference(graph, after, trace(graph, sample), trace(after, sample)) is None
