"""ChooseFormats: a packed weight for each linear, by predicted time; refusals say why."""

from dataclasses import replace

import torch

from sparse_compiler.analysis.sparsity import SparsityFacts, sparsity_facts
from sparse_compiler.formats.base import FORMATS, Machine
from sparse_compiler.ir.text import parse_graph, print_graph
from sparse_compiler.passes.base import TORCH, Context
from sparse_compiler.passes.choose_formats import ChooseFormats
from tests.passes.checks import check_pass, check_untouched

LINEAR = """
    input %x: f32[128, 768]
    param %fc.weight: f32[512, 768]
    %y: f32[128, 512] = linear(%x, %fc.weight)
    return %y
    """


def weight(density: float, rows: int = 512, columns: int = 768) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(rows, columns, generator=generator) < density
    return torch.randn(rows, columns, generator=generator) * kept


def facts(density: float) -> dict[str, SparsityFacts]:
    return {"fc.weight": sparsity_facts(weight(density))}


def packed(format_: str) -> str:
    shown = "" if format_ == "dense" else f"{{{format_}}}"
    return f"""
    input %x: f32[128, 768]
    param %fc.weight: f32[512, 768]
    %fc.weight.{format_}: f32[512, 768]{shown} = pack[format="{format_}"](%fc.weight)
    %y: f32[128, 512] = linear(%x, %fc.weight.{format_})
    return %y
    """


def test_many_zeros_give_csr() -> None:
    context = check_pass(LINEAR, ChooseFormats(), packed("csr"), facts=facts(0.05))
    candidates = {c.format: c for c in context.candidates["y"]}
    assert {"csr", "dense", TORCH} <= set(candidates) <= {*FORMATS, TORCH}
    assert candidates["csr"].refused is None
    for name in ("dense", TORCH):
        assert candidates[name].refused is not None
        assert candidates[name].refused.code == "slower"
        assert "csr" in candidates[name].refused.why


def test_no_zeros_give_dense() -> None:
    context = check_pass(LINEAR, ChooseFormats(), packed("dense"), facts=facts(1.0))
    candidates = {c.format: c for c in context.candidates["y"]}
    assert candidates["dense"].refused is None
    assert set(candidates) == {"dense", TORCH}, "no other format would store fewer numbers"


def test_few_zeros_are_below_break_even() -> None:
    context = check_pass(LINEAR, ChooseFormats(), packed("dense"), facts=facts(0.95))
    candidates = {c.format: c for c in context.candidates["y"]}
    assert candidates["csr"].refused is not None
    assert candidates["csr"].refused.code == "below_break_even"


def test_a_gain_below_the_threshold_is_none() -> None:
    """min_gain is what a sparse format must beat dense by."""
    check_pass(LINEAR, ChooseFormats(min_gain=100.0), packed("dense"), facts=facts(0.05))


def test_two_layers_share_one_packed_weight() -> None:
    check_pass(
        """
        input %x: f32[128, 96]
        param %w: f32[96, 96]
        %y: f32[128, 96] = linear(%x, %w)
        %z: f32[128, 96] = linear(%y, %w)
        return %z
        """,
        ChooseFormats(),
        """
        input %x: f32[128, 96]
        param %w: f32[96, 96]
        %w.csr: f32[96, 96]{csr} = pack[format="csr"](%w)
        %y: f32[128, 96] = linear(%x, %w.csr)
        %z: f32[128, 96] = linear(%y, %w.csr)
        return %z
        """,
        facts={"w": sparsity_facts(weight(0.05, 96, 96))},
    )


def test_the_format_may_depend_on_the_size_of_the_input() -> None:
    """One weight, two layers: each gets the format that is best for its columns."""
    machine = Machine(16, flops_per_ns=205, bytes_per_ns=28)
    context = Context(facts={"w": sparsity_facts(weight(0.3, 96, 96))}, machine=machine)
    text = """
        input %x: f32[{n}, 96]
        param %w: f32[96, 96]
        %y: f32[{n}, 96] = linear(%x, %w)
        return %y
        """
    for n in (1, 16, 128, 2048):
        ChooseFormats().run(parse_graph(text.format(n=n)), context)
        chosen = [c for c in context.candidates["y"] if c.refused is None]
        fastest = min((c for c in context.candidates["y"] if c.format != TORCH), key=_time)
        assert len(chosen) == 1
        assert chosen[0].predicted_ns <= 1.05 * fastest.predicted_ns


def _time(candidate) -> float:
    return candidate.predicted_ns


def test_symbols_take_the_size_of_the_example() -> None:
    graph = parse_graph(LINEAR.replace("128", "B"))
    times = {}
    for hint in (1, 4096):
        context = Context(facts=facts(0.5), hints={"B": hint})
        ChooseFormats().run(graph, context)
        times[hint] = next(c for c in context.candidates["y"] if c.format == "csr").predicted_ns
    assert times[4096] > 40 * times[1]


def test_masked_weights_are_packed_after_the_mask() -> None:
    """A weight computed from parameters alone is as good as a parameter."""
    masked = """
        input %x: f32[128, 96]
        param %w: f32[64, 96]
        param %mask: f32[64, 96]
        %m: f32[64, 96] = pointwise[expr="mul(x0, x1)"](%w, %mask)
        %y: f32[128, 64] = linear(%x, %m)
        return %y
        """
    check_pass(
        masked,
        ChooseFormats(),
        masked.replace(
            "        %y: f32[128, 64] = linear(%x, %m)",
            "        %m.csr: f32[64, 96]{csr} = pack(%m)\n"
            "        %y: f32[128, 64] = linear(%x, %m.csr)",
        ),
        facts={"m": sparsity_facts(weight(0.05, 64, 96))},
    )


def test_fuel_counts_layers() -> None:
    text = """
        input %x: f32[128, 96]
        param %a: f32[96, 96]
        param %b: f32[96, 96]
        %y: f32[128, 96] = linear(%x, %a)
        %z: f32[128, 96] = linear(%y, %b)
        return %z
        """
    known = {n: sparsity_facts(weight(0.05, 96, 96)) for n in "ab"}
    for fuel, packs in ((0, 0), (1, 1), (2, 2)):
        result = ChooseFormats().run(parse_graph(text), Context(facts=known, fuel=fuel))
        assert print_graph(result).count("= pack(") == packs


# --- must not fire --------------------------------------------------------------------------------


def test_a_weight_without_facts() -> None:
    check_untouched(LINEAR, ChooseFormats(), "no_facts")


def test_a_weight_that_is_an_input() -> None:
    check_untouched(
        """
        input %x: f32[128, 96]
        input %w: f32[64, 96]
        %y: f32[128, 64] = linear(%x, %w)
        return %y
        """,
        ChooseFormats(),
        "weight_is_computed",
        facts={"w": sparsity_facts(weight(0.05, 64, 96))},
    )


def test_a_weight_that_the_model_writes_to() -> None:
    check_untouched(
        """
        input %x: f32[64, 64]
        param %w: f32[64, 64]
        %y: f32[64, 64] = linear(%x, %w)
        return %y
        update %y = %w
        """.replace("update %y = %w", "update %w = %y"),
        ChooseFormats(),
        "weight_is_computed",
        facts={"w": sparsity_facts(weight(0.05, 64, 64))},
    )


def test_another_dtype() -> None:
    check_untouched(
        LINEAR.replace("f32", "f64"),
        ChooseFormats(),
        "dtype_unsupported",
        facts=facts(0.05),
    )


def test_a_graph_without_linears() -> None:
    check_untouched(
        """
        input %x: f32[128, 96]
        %y: f32[128, 96] = pointwise[expr="relu(x0)"](%x)
        return %y
        """,
        ChooseFormats(),
    )


def test_choices_do_not_depend_on_other_layers() -> None:
    """The same facts, the same choice: the pass keeps nothing between layers or runs."""
    first = Context(facts=facts(0.05))
    ChooseFormats().run(parse_graph(LINEAR), first)
    second = replace(first, candidates={})
    ChooseFormats().run(parse_graph(LINEAR), second)
    assert first.candidates == second.candidates


CONV = """
    input %x: f32[1, 64, 28, 28]
    param %w: f32[64, {channels}, 3, 3]
    %y: f32[1, 64, 28, 28] = conv[stride=(1, 1), padding=(1, 1), dilation=(1, 1){groups}](%x, %w)
    return %y
    """


def conv(channels: int, density: float) -> tuple[str, dict[str, SparsityFacts]]:
    groups = 64 // channels
    text = CONV.format(channels=channels, groups=f", groups={groups}" if groups > 1 else "")
    found = sparsity_facts(weight(density, 64, channels * 9).reshape(64, channels, 3, 3))
    return text, {"w": found}


def test_a_conv_is_packed_as_a_matrix_that_keeps_its_shape() -> None:
    text, known = conv(64, 0.05)
    after = text.replace(
        "    %y:", "    %w.csr: f32[64, 64, 3, 3]{csr} = pack(%w)\n    %y:"
    ).replace("(%x, %w)", "(%x, %w.csr)")
    context = check_pass(text, ChooseFormats(), after, facts=known)
    assert {c.format for c in context.candidates["y"]} >= {"csr", "dense", TORCH}


def test_groups_are_told_to_the_packer() -> None:
    text, known = conv(16, 0.05)
    after = text.replace(
        "    %y:", "    %w.csr_4: f32[64, 16, 3, 3]{csr} = pack[groups=4](%w)\n    %y:"
    ).replace("(%x, %w)", "(%x, %w.csr_4)")
    check_pass(text, ChooseFormats(), after, facts=known)


def test_a_depthwise_conv_is_read_as_it_is() -> None:
    text, known = conv(1, 0.5)
    check_untouched(text, ChooseFormats(), "depthwise", facts=known)
