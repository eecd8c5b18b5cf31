"""Where Inductor runs the rest, leaving it costs more and its ops cost less: another break-even."""

import torch

from sparse_compiler.analysis.sparsity import sparsity_facts
from sparse_compiler.formats.base import TORCH_LINEAR
from sparse_compiler.formats.cost import Machine
from sparse_compiler.ir.text import parse_graph
from sparse_compiler.passes.base import Context
from sparse_compiler.passes.choose_formats import ChooseFormats
from sparse_compiler.passes.choose_layouts import ChooseLayouts

TEXT = """
    input %x: f32[{n}, 64]
    param %w: f32[64, 64]
    %a: f32[{n}, 64] = linear(%x, %w)
    %b: f32[{n}, 64] = linear(%a, %w)
    %c: f32[{n}, 64] = linear(%b, %w)
    return %c
    """


def is_native(n: int, hosted: bool) -> bool:
    context = Context(
        facts={"w": sparsity_facts(torch.randn(64, 64))},
        machine=Machine(16, 200.0, torch=(("torch_linear", (4000.0, 0.3, 0.9)),)),
        hosted=hosted,
    )
    graph = ChooseFormats().run(parse_graph(TEXT.format(n=n)), context)
    graph = ChooseLayouts().run(graph, context)
    native = any(getattr(node.type, "layout", None) is not None for node in graph.nodes)
    refused = any(r.code == "below_break_even" for rs in context.refusals.values() for r in rs)
    assert native or refused, "whatever stays out says why"
    return native


def test_a_tiny_graph_stays_with_inductor_but_not_with_torch() -> None:
    assert is_native(16, hosted=False)
    assert not is_native(2, hosted=True)


def test_a_larger_one_is_native_in_both() -> None:
    assert is_native(512, hosted=False)
    assert is_native(512, hosted=True)


def test_the_figures_of_torch_decide() -> None:
    """The coefficients here are those that the tests above reckon with."""
    assert [name for name, _ in TORCH_LINEAR.terms] == ["call", "macs", "rows"]
