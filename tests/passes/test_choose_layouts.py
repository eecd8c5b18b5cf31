"""ChooseLayouts: whole regions in planes, a relayout at each border, and every refusal's reason."""

import pytest

from sparse_compiler.codegen.lower import lower
from sparse_compiler.ir.text import parse_graph
from sparse_compiler.passes.base import TORCH, Candidate, Context
from sparse_compiler.passes.choose_layouts import ChooseLayouts
from tests.passes.checks import check_pass

FORCE = {"force_native": True}
LINEAR = """
    input %x: f32[5, 7, 8]
    param %w: f32[6, 8]
    %w.csr: f32[6, 8]{csr} = pack[format="csr"](%w)
    %y: f32[5, 7, 6] = linear(%x, %w.csr)
    return %y
    """


def codes(context: Context) -> set[str]:
    return {reason.code for reasons in context.refusals.values() for reason in reasons}


def untouched(text: str, **context: object) -> set[str]:
    """The pass must leave the graph alone; the codes of its reasons."""
    return codes(check_pass(text, ChooseLayouts(), text, context=Context(**(FORCE | context))))


def test_a_linear_goes_into_planes() -> None:
    check_pass(
        LINEAR,
        ChooseLayouts(),
        """
        input %x: f32[5, 7, 8]
        param %w: f32[6, 8]
        %w.csr: f32[6, 8]{csr} = pack[format="csr"](%w)
        %x.planes: f32[5, 7, 8]{2|0,1} = relayout[order=(2, 0, 1), planes=1](%x)
        %y: f32[5, 7, 6]{2|0,1} = linear(%x.planes, %w.csr)
        %y.rows: f32[5, 7, 6] = relayout(%y)
        return %y.rows
        """,
        context=Context(**FORCE),
    )


def test_a_chain_crosses_the_border_twice() -> None:
    """Norm, pointwise, a reshape that keeps the planes and a second linear: one region."""
    check_pass(
        """
        input %x: f32[5, 7, 8]
        param %w: f32[8, 8]
        param %g: f32[8]
        %w.csr: f32[8, 8]{csr} = pack[format="csr"](%w)
        %a: f32[5, 7, 8] = linear(%x, %w.csr)
        %b: f32[5, 7, 8] = layer_norm[shift=false](%a, %g)
        %c: f32[5, 7, 8] = pointwise[expr="gelu(x0)"](%b)
        %d: f32[35, 8] = reshape[shape=(35, 8)](%c)
        %e: f32[35, 8] = linear(%d, %w.csr)
        return %e
        """,
        ChooseLayouts(),
        """
        input %x: f32[5, 7, 8]
        param %w: f32[8, 8]
        param %g: f32[8]
        %w.csr: f32[8, 8]{csr} = pack[format="csr"](%w)
        %x.planes: f32[5, 7, 8]{2|0,1} = relayout[order=(2, 0, 1), planes=1](%x)
        %a: f32[5, 7, 8]{2|0,1} = linear(%x.planes, %w.csr)
        %b: f32[5, 7, 8]{2|0,1} = layer_norm[shift=false](%a, %g)
        %c: f32[5, 7, 8]{2|0,1} = pointwise[expr="gelu(x0)"](%b)
        %d: f32[35, 8]{1|0} = reshape[shape=(35, 8)](%c)
        %e: f32[35, 8]{1|0} = linear(%d, %w.csr)
        %e.rows: f32[35, 8] = relayout(%e)
        return %e.rows
        """,
        context=Context(**FORCE),
    )


def test_an_input_is_converted_once_for_all_its_readers() -> None:
    context = Context(**FORCE)
    graph = parse_graph(
        """
        input %x: f32[5, 8]
        param %w: f32[8, 8]
        %w.csr: f32[8, 8]{csr} = pack[format="csr"](%w)
        %a: f32[5, 8] = linear(%x, %w.csr)
        %b: f32[5, 8] = linear[epilogue="add(x0, x1)"](%a, %w.csr, %x)
        %c: f32[5, 8] = linear(%x, %w.csr)
        return %b, %c
        """
    )
    after = ChooseLayouts().run(graph, context)
    relayouts = [n for n in after.nodes if n.op.name == "relayout"]
    assert [n.name for n in relayouts] == ["x.planes", "b.rows", "c.rows"]
    assert len(lower(after).segments) == 1


def test_what_torch_does_between_makes_two_regions() -> None:
    text = """
        input %x: f32[5, 8]
        param %w: f32[8, 8]
        %w.csr: f32[8, 8]{csr} = pack[format="csr"](%w)
        %a: f32[5, 8] = linear(%x, %w.csr)
        %t: f32[5, 8] = torch_call[target="aten.flip.default", args=(_0, (0,))](%a)
        %b: f32[5, 8] = linear[epilogue="add(x0, x1)"](%t, %w.csr, %a)
        return %b
        """
    after = ChooseLayouts().run(parse_graph(text), Context(**FORCE))
    program = lower(after)
    assert len(program.segments) == 2
    # %a leaves the first region and enters the second: had it stayed, they would need each other
    assert [name for name, _ in program.segments[1].inputs] == ["t", "a.rows"]


# --- must not fire --------------------------------------------------------------------------------


def test_a_weight_without_a_format() -> None:
    text = LINEAR.replace("linear(%x, %w.csr)", "linear(%x, %w)")
    assert untouched(text) == {"not_packed"}


def test_another_dtype() -> None:
    assert untouched(LINEAR.replace("f32", "f64")) == {"dtype_unsupported"}


def test_a_single_row() -> None:
    text = LINEAR.replace("5, 7, ", "")
    assert untouched(text) == {"rank_unsupported"}


def test_an_epilogue_that_broadcasts_an_input() -> None:
    text = """
        input %x: f32[5, 7, 8]
        input %z: f32[5, 1, 6]
        param %w: f32[6, 8]
        %w.csr: f32[6, 8]{csr} = pack[format="csr"](%w)
        %y: f32[5, 7, 6] = linear[epilogue="add(x0, x1)"](%x, %w.csr, %z)
        return %y
        """
    assert untouched(text) == {"broadcast"}


def test_pointwise_ops_alone() -> None:
    text = """
        input %x: f32[5, 7, 8]
        %y: f32[5, 7, 8] = pointwise[expr="relu(x0)"](%x)
        return %y
        """
    assert untouched(text) == set()


def test_a_view_at_the_end_stays_with_torch() -> None:
    """The value leaves the planes first, then torch renames it for nothing."""
    text = LINEAR.replace("return %y", "%v: f32[35, 6] = reshape[shape=(35, 6)](%y)\n    return %v")
    after = ChooseLayouts().run(parse_graph(text), Context(**FORCE))
    assert [n.name for n in after.nodes if n.type.layout is not None] == ["x.planes", "y"]


def candidates(torch_us: float, csr_us: float) -> dict[str, tuple[Candidate, ...]]:
    return {"y": (Candidate("csr", csr_us * 1e3), Candidate(TORCH, torch_us * 1e3, None))}


@pytest.mark.parametrize(("gain_us", "native"), [(1.0, False), (1000.0, True)])
def test_a_region_must_earn_its_relayouts(gain_us: float, native: bool) -> None:
    context = Context(candidates=candidates(10 + gain_us, 10))
    after = ChooseLayouts().run(parse_graph(LINEAR), context)
    assert (len(lower(after).segments) == 1) == native
    assert codes(context) == (set() if native else {"below_break_even"})


def test_it_runs_once() -> None:
    once = ChooseLayouts().run(parse_graph(LINEAR), Context(**FORCE))
    assert ChooseLayouts().run(once, Context(**FORCE)) is once
