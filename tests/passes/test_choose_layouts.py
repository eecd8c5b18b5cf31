"""ChooseLayouts: planes or rows for every node, the copies between, every refusal's reason."""

import networkx as nx
import pytest

from sparse_compiler.ir.graph import Graph
from sparse_compiler.ir.text import parse_graph
from sparse_compiler.ir.types import TensorType
from sparse_compiler.ir.verify import verify
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


def chosen(text: str, **context: object) -> Graph:
    """The verified graph after the pass."""
    graph = ChooseLayouts().run(parse_graph(text), Context(**(FORCE | context)))
    verify(graph)
    return graph


def layout(graph: Graph, name: str) -> str:
    type_ = graph.tensor(name)
    return "torch" if type_.layout is None else str(type_.layout)


def is_native(graph: Graph, name: str) -> bool:
    node = graph.producers.get(name)
    planar = node is not None and isinstance(node.type, TensorType) and node.type.layout is not None
    return planar or (node is not None and node.op.name == "relayout")


def segments(graph: Graph) -> list[set[str]]:
    """Native nodes joined by native values; asserts that they can run one after another."""
    joined = nx.Graph()
    for node in graph.nodes:
        if is_native(graph, node.name) and node.name not in graph.bind_time:
            joined.add_node(node.name)
            natives = (
                n for n in node.inputs if is_native(graph, n) and layout(graph, n) != "torch"
            )
            joined.add_edges_from((name, node.name) for name in natives)
    found = [set(component) for component in nx.connected_components(joined)]
    owner = {name: f"segment {i}" for i, names in enumerate(found) for name in names}
    order = nx.DiGraph()
    for node in graph.nodes:
        here = owner.get(node.name, node.name)
        sources = (owner.get(name, name) for name in node.inputs)
        order.add_edges_from((source, here) for source in sources if source != here)
    assert nx.is_directed_acyclic_graph(order)
    return found


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
    after = chosen(
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
    relayouts = [n for n in after.nodes if n.op.name == "relayout"]
    assert [n.name for n in relayouts] == ["x.planes", "b.rows", "c.rows"]
    assert len(segments(after)) == 1


def test_what_torch_does_between_makes_two_segments() -> None:
    check_pass(
        """
        input %x: f32[5, 8]
        param %w: f32[8, 8]
        %w.csr: f32[8, 8]{csr} = pack[format="csr"](%w)
        %a: f32[5, 8] = linear(%x, %w.csr)
        %t: f32[5, 8] = torch_call[target="aten.flip.default", args=(_0, (0,))](%a)
        %b: f32[5, 8] = linear[epilogue="add(x0, x1)"](%t, %w.csr, %a)
        return %b
        """,
        ChooseLayouts(),
        # %a leaves the first and enters the second: had it stayed, they would need each other
        """
        input %x: f32[5, 8]
        param %w: f32[8, 8]
        %w.csr: f32[8, 8]{csr} = pack[format="csr"](%w)
        %x.planes: f32[5, 8]{1|0} = relayout[order=(1, 0), planes=1](%x)
        %a: f32[5, 8]{1|0} = linear(%x.planes, %w.csr)
        %a.rows: f32[5, 8] = relayout(%a)
        %t: f32[5, 8] = torch_call[target="aten.flip.default", args=(_0, (0,))](%a.rows)
        %t.planes: f32[5, 8]{1|0} = relayout[order=(1, 0), planes=1](%t)
        %a.planes: f32[5, 8]{1|0} = relayout[order=(1, 0), planes=1](%a.rows)
        %b: f32[5, 8]{1|0} = linear[epilogue="add(x0, x1)"](%t.planes, %w.csr, %a.planes)
        %b.rows: f32[5, 8] = relayout(%b)
        return %b.rows
        """,
        context=Context(**FORCE),
    )


TORCH_BETWEEN = """
    input %x: f32[5, 8]
    input %n: i64[5, 8]
    param %w: f32[8, 8]
    %w.csr: f32[8, 8]{csr} = pack[format="csr"](%w)
    %a: f32[5, 8] = linear(%x, %w.csr)
    %m: i64[5, 8] = pointwise[expr="add(x0, 1)"](%n)
    %t: f32[5, 8] = torch_call[target="aten.add.Tensor", args=(_0, _1)](%a, %m)
    %c: f32[5, 8] = linear(%a, %w.csr)
    %b: f32[5, 8] = linear[epilogue="add(x0, x1)"](%t, %w.csr, %c)
    %d: f32[5, 8] = pointwise[expr="mul(x0, x1)"](%b, %m)
    return %b, %d
    """


def test_segments_never_need_one_another_in_a_circle() -> None:
    assert len(segments(chosen(TORCH_BETWEEN))) == 3


# --- whole models: planes and rows in one segment -------------------------------------------------


def test_images() -> None:
    """A normalisation before the first convolution goes into planes with it; the mean leaves."""
    check_pass(
        """
        input %x: f32[2, 3, 8, 8]
        param %w: f32[4, 3, 3, 3]
        %w.csr: f32[4, 3, 3, 3]{csr} = pack[format="csr"](%w)
        %n: f32[2, 3, 8, 8] = pointwise[expr="mul(x0, 2.0)"](%x)
        %a: f32[2, 4, 8, 8] = conv[stride=(1,1), padding=(1,1), dilation=(1,1)](%n, %w.csr)
        %r: f32[2, 4, 8, 8] = pointwise[expr="relu(x0)"](%a)
        %p: f32[2, 4, 16, 16] = upsample[size=(16,16)](%r)
        %m: f32[2, 4] = reduce[fn="mean", dims=(2, 3)](%p)
        return %m
        """,
        ChooseLayouts(),
        """
        input %x: f32[2, 3, 8, 8]
        param %w: f32[4, 3, 3, 3]
        %w.csr: f32[4, 3, 3, 3]{csr} = pack[format="csr"](%w)
        %x.planes: f32[2, 3, 8, 8]{1|0,2,3} = relayout[order=(1, 0, 2, 3), planes=1](%x)
        %n: f32[2, 3, 8, 8]{1|0,2,3} = pointwise[expr="mul(x0, 2.0)"](%x.planes)
        %a: f32[2, 4, 8, 8]{1|0,2,3} = conv[stride=(1,1), padding=(1,1), dilation=(1,1)](%n, %w.csr)
        %r: f32[2, 4, 8, 8]{1|0,2,3} = pointwise[expr="relu(x0)"](%a)
        %p: f32[2, 4, 16, 16]{1|0,2,3} = upsample[size=(16,16)](%r)
        %m: f32[2, 4]{1|0} = reduce[fn="mean", dims=(2, 3)](%p)
        %m.rows: f32[2, 4] = relayout(%m)
        return %m.rows
        """,
        context=Context(**FORCE),
    )


def test_tokens_and_their_mask() -> None:
    """Embedding to attention in planes; the mask is whole numbers and stays in rows."""
    after = chosen(
        """
        input %ids: i64[2, 5]
        input %keep: i64[2, 5]
        param %t: f32[10, 8]
        param %g: f32[8]
        param %w: f32[8, 8]
        %w.csr: f32[8, 8]{csr} = pack[format="csr"](%w)
        %e: f32[2, 5, 8] = embedding(%t, %ids)
        %l: f32[2, 5, 8] = layer_norm[shift=false](%e, %g)
        %a: f32[2, 5, 8] = linear(%l, %w.csr)
        %q: f32[2, 5, 2, 4] = reshape[shape=(2, 5, 2, 4)](%a)
        %h: f32[2, 2, 5, 4] = permute[dims=(0, 2, 1, 3)](%q)
        %k4: i64[2, 1, 1, 5] = reshape[shape=(2, 1, 1, 5)](%keep)
        %kb: bool[2, 1, 1, 5] = pointwise[expr="ne(x0, 0)"](%k4)
        %o: f32[2, 2, 5, 4] = attention[mask=true](%h, %h, %h, %kb)
        %o2: f32[2, 5, 2, 4] = permute[dims=(0, 2, 1, 3)](%o)
        %o3: f32[2, 5, 8] = reshape[shape=(2, 5, 8)](%o2)
        %y: f32[2, 5, 8] = linear[epilogue="add(x0, x1)"](%o3, %w.csr, %l)
        %first: f32[2, 1, 8] = slice[dim=1, start=0, stop=1](%y)
        %f: f32[2, 8] = reshape[shape=(2, 8)](%first)
        %z: f32[2, 8] = linear(%f, %w.csr)
        return %z, %y
        """
    )
    found = {n.name: layout(after, n.name) for n in after.nodes if n.name not in after.weight_time}
    assert found == {
        "ids.flat": "|0,1",
        "e": "2|0,1",
        "l": "2|0,1",
        "a": "2|0,1",
        "q": "2,3|0,1",
        "h": "1,3|0,2",
        "keep.flat": "|0,1",
        "k4": "|0,1,2,3",
        "kb": "|0,1,2,3",
        "o": "1,3|0,2",
        "o2": "2,3|0,1",
        "o3": "2|0,1",
        "y": "2|0,1",
        "first": "2|0,1",
        "f": "1|0",
        "z": "1|0",
        "z.rows": "torch",
        "y.rows": "torch",
    }
    assert len(segments(after)) == 1


def test_windows_are_one_copy() -> None:
    """Swin's partition: two views, and one strided copy between where no layout does without."""
    check_pass(
        """
        input %x: f32[2, 4, 6, 8]
        param %w: f32[8, 8]
        %w.csr: f32[8, 8]{csr} = pack[format="csr"](%w)
        %a: f32[2, 4, 6, 8] = linear(%x, %w.csr)
        %b: f32[2, 2, 2, 3, 2, 8] = reshape[shape=(2, 2, 2, 3, 2, 8)](%a)
        %c: f32[2, 2, 3, 2, 2, 8] = permute[dims=(0, 1, 3, 2, 4, 5)](%b)
        %d: f32[12, 4, 8] = reshape[shape=(12, 4, 8)](%c)
        %e: f32[12, 4, 8] = linear(%d, %w.csr)
        return %e
        """,
        ChooseLayouts(),
        """
        input %x: f32[2, 4, 6, 8]
        param %w: f32[8, 8]
        %w.csr: f32[8, 8]{csr} = pack[format="csr"](%w)
        %x.planes: f32[2, 4, 6, 8]{3|0,1,2} = relayout[order=(3, 0, 1, 2), planes=1](%x)
        %a: f32[2, 4, 6, 8]{3|0,1,2} = linear(%x.planes, %w.csr)
        %b: f32[2, 2, 2, 3, 2, 8]{5|0,1,2,3,4} = reshape[shape=(2, 2, 2, 3, 2, 8)](%a)
        %c: f32[2, 2, 3, 2, 2, 8]{5|0,1,3,2,4} = permute[dims=(0, 1, 3, 2, 4, 5)](%b)
        %c.planes: f32[2, 2, 3, 2, 2, 8]{5|0,1,2,3,4} = relayout[order=(5,0,1,2,3,4), planes=1](%c)
        %d: f32[12, 4, 8]{2|0,1} = reshape[shape=(12, 4, 8)](%c.planes)
        %e: f32[12, 4, 8]{2|0,1} = linear(%d, %w.csr)
        %e.rows: f32[12, 4, 8] = relayout(%e)
        return %e.rows
        """,
        context=Context(**FORCE),
    )


def test_images_given_with_their_channels_last() -> None:
    """The input enters planes in the order that makes the view after it free."""
    after = chosen(
        """
        input %x: f32[2, 8, 8, 3]
        param %w: f32[4, 3, 1, 1]
        %w.csr: f32[4, 3, 1, 1]{csr} = pack[format="csr"](%w)
        %p: f32[2, 3, 8, 8] = permute[dims=(0, 3, 1, 2)](%x)
        %a: f32[2, 4, 8, 8] = conv[stride=(1, 1), padding=(0, 0), dilation=(1, 1)](%p, %w.csr)
        %f: f32[2, 256] = reshape[shape=(2, 256)](%a)
        return %f
        """
    )
    assert layout(after, "x.planes") == "3|0,1,2"
    assert layout(after, "p") == layout(after, "a") == "1|0,2,3"


def test_operands_that_are_spread_over_the_planes() -> None:
    """A table of positions is laid out with the constants, a gate has one number a sample."""
    conv = "conv[stride=(1,1), padding=(0,0), dilation=(1,1)]"
    check_pass(
        """
        input %x: f32[2, 3, 4, 4]
        param %p: f32[1, 16, 8]
        param %w: f32[8, 3, 1, 1]
        param %v: f32[8, 8]
        %w.csr: f32[8, 3, 1, 1]{csr} = pack(%w)
        %v.csr: f32[8, 8]{csr} = pack(%v)
        %a: f32[2, 8, 4, 4] = CONV(%x, %w.csr)
        %m: f32[2, 8, 1, 1] = reduce[fn="mean", dims=(2, 3), keepdim=true](%a)
        %g: f32[2, 8, 4, 4] = pointwise[expr="mul(x0, x1)"](%a, %m)
        %r: f32[2, 8, 16] = reshape[shape=(2, 8, 16)](%g)
        %t: f32[2, 16, 8] = permute[dims=(0, 2, 1)](%r)
        %y: f32[2, 16, 8] = linear[epilogue="add(x0, x1)"](%t, %v.csr, %p)
        return %y
        """.replace("CONV", conv),
        ChooseLayouts(),
        """
        input %x: f32[2, 3, 4, 4]
        param %p: f32[1, 16, 8]
        param %w: f32[8, 3, 1, 1]
        param %v: f32[8, 8]
        %w.csr: f32[8, 3, 1, 1]{csr} = pack(%w)
        %v.csr: f32[8, 8]{csr} = pack(%v)
        %x.planes: f32[2, 3, 4, 4]{1|0,2,3} = relayout[order=(1, 0, 2, 3), planes=1](%x)
        %a: f32[2, 8, 4, 4]{1|0,2,3} = CONV(%x.planes, %w.csr)
        %m: f32[2, 8, 1, 1]{1|0,2,3} = reduce[fn="mean", dims=(2, 3), keepdim=true](%a)
        %g: f32[2, 8, 4, 4]{1|0,2,3} = pointwise[expr="mul(x0, x1)"](%a, %m)
        %r: f32[2, 8, 16]{1|0,2} = reshape[shape=(2, 8, 16)](%g)
        %t: f32[2, 16, 8]{2|0,1} = permute[dims=(0, 2, 1)](%r)
        %p.planes: f32[1, 16, 8]{2|0,1} = relayout[order=(2, 0, 1), planes=1](%p)
        %y: f32[2, 16, 8]{2|0,1} = linear[epilogue="add(x0, x1)"](%t, %v.csr, %p.planes)
        %y.rows: f32[2, 16, 8] = relayout(%y)
        return %y.rows
        """.replace("CONV", conv),
        context=Context(**FORCE),
    )


CROSSING = """
    input %x: f32[2, 50, 40]
    input %i: i64[2, 50, 40]
    param %w: f32[40, 40]
    %w.csr: f32[40, 40]{csr} = pack[format="csr"](%w)
    %a: f32[2, 50, 40] = linear(%x, %w.csr)
    %r: f32[2, 50, 40] = pointwise[expr="relu(x0)"](%a)
    %g: f32[2, 50, 40] = gather[dim=1](%r, %i)
    %h: f32[2, 50, 40] = pointwise[expr="neg(x0)"](%g)
    %y: f32[2, 50, 40] = RESULT
    return %y
    """


@pytest.mark.parametrize(
    ("result", "r", "h"),
    [
        ('pointwise[expr="abs(x0)"](%h)', "2|0,1", "|0,1,2"),
        ("linear(%h, %w.csr)", "2|0,1", "2|0,1"),
    ],
)
def test_the_cut_puts_each_copy_where_it_is_cheapest(result: str, r: str, h: str) -> None:
    """gather has rows only; what stands between it and the end goes with its neighbours."""
    after = chosen(CROSSING.replace("RESULT", result))
    assert (layout(after, "r"), layout(after, "g"), layout(after, "h")) == (r, "|0,1,2", h)
    assert layout(after, "r.flat") == "|0,1,2"
    assert len(segments(after)) == 1


def test_two_row_readers_pull_a_pointwise_op_into_rows_with_them() -> None:
    """%a must be copied to rows for its own reader: %r beside it then costs no second copy."""
    after = chosen(
        """
        input %x: f32[2, 50, 40]
        input %i: i64[2, 50, 40]
        param %w: f32[40, 40]
        %w.csr: f32[40, 40]{csr} = pack[format="csr"](%w)
        %a: f32[2, 50, 40] = linear(%x, %w.csr)
        %r: f32[2, 50, 40] = pointwise[expr="relu(x0)"](%a)
        %g: f32[2, 50, 40] = gather[dim=1](%a, %i)
        %h: f32[2, 50, 40] = gather[dim=1](%r, %i)
        return %g, %h
        """
    )
    assert layout(after, "r") == "|0,1,2"
    assert [n.name for n in after.nodes if n.op.name == "relayout"] == [
        "x.planes",
        "a.flat",
        "i.flat",
        "g.rows",
        "h.rows",
    ]


MASK = """
    input %x: f32[64, 128]
    input %n: i64[64, 128]
    param %w: f32[128, 128]
    %w.csr: f32[128, 128]{csr} = pack[format="csr"](%w)
    %a: f32[64, 128] = linear(%x, %w.csr)
    %m: i64[64, 128] = pointwise[expr="add(x0, 1)"](%n)
    %t: f32[64, 128] = torch_call[target="aten.mul.Tensor", args=(_0, 1.5)](%m)
    %b: f32[64, 128] = linear[epilogue="add(x0, x1)"](%a, %w.csr, %t)
    return %b
    """


def test_what_torch_waits_for_is_left_to_torch() -> None:
    """Native, %m would put %b into a second segment, behind torch: %a would have to leave."""
    gains = tuple(Candidate(f, t, None) for f, t in (("csr", 1e3), (TORCH, 1e6)))
    context = Context(candidates={"a": gains, "b": gains})
    graph = ChooseLayouts().run(parse_graph(MASK), context)
    verify(graph)
    assert len(segments(graph)) == 1
    assert layout(graph, "m") == "torch"
    assert codes(context) == {"before_torch", "op_unsupported"}
    assert len(segments(chosen(MASK))) == 3  # without a look at the costs


def test_single_numbers_change_sides_too() -> None:
    after = chosen(
        """
        input %x: i64[5]
        input %s: i64[]
        %y: i64[5] = pointwise[expr="add(x0, x1)"](%x, %s)
        %z: i64[] = reduce[fn="sum", dims=(0,)](%y)
        return %z
        """
    )
    assert layout(after, "s.flat") == layout(after, "z") == "|"
    assert layout(after, "z.rows") == "torch"
    assert str(parse_graph(str(after))) == str(after)


# --- must not fire --------------------------------------------------------------------------------


def test_a_weight_without_a_format() -> None:
    text = LINEAR.replace("linear(%x, %w.csr)", "linear(%x, %w)")
    assert untouched(text) == {"not_packed"}


def test_another_dtype() -> None:
    assert untouched(LINEAR.replace("f32", "f64")) == {"dtype_unsupported"}


def test_a_single_row() -> None:
    check_pass(
        LINEAR.replace("5, 7, ", ""),
        ChooseLayouts(),
        """
        input %x: f32[8]
        param %w: f32[6, 8]
        %w.csr: f32[6, 8]{csr} = pack(%w)
        %x.flat: f32[8]{|0} = relayout[order=(0,)](%x)
        %y: f32[6]{|0} = linear(%x.flat, %w.csr)
        %y.rows: f32[6] = relayout(%y)
        return %y.rows
        """,
        context=Context(force_native=True),
    )


def test_an_epilogue_with_an_input_that_samples_share() -> None:
    text = """
        input %x: f32[5, 7, 8]
        input %z: f32[1, 7, 6]
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
    assert untouched(text, force_native=False) == {"below_break_even"}
    assert layout(chosen(text), "y") == "|0,1,2"  # row-major on both sides: no copy at all


def test_what_torch_gives_as_a_tuple() -> None:
    text = """
        input %x: f32[5, 8]
        %t: (f32[5], i64[5]) = torch_call[target="aten.max.dim", args=(_0, 1)](%x)
        %y: f32[5] = getitem[index=0](%t)
        return %y
        """
    assert untouched(text) == {"no_tensor"}


def test_a_view_at_the_end_leaves_planes_once() -> None:
    text = LINEAR.replace("return %y", "%v: f32[35, 6] = reshape[shape=(35, 6)](%y)\n    return %v")
    after = chosen(text)
    assert [n.name for n in after.nodes if n.op.name == "relayout"] == ["x.planes", "v.rows"]


def candidates(torch_us: float, csr_us: float) -> dict[str, tuple[Candidate, ...]]:
    return {"y": (Candidate("csr", csr_us * 1e3), Candidate(TORCH, torch_us * 1e3, None))}


@pytest.mark.parametrize(("gain_us", "native"), [(1.0, False), (1000.0, True)])
def test_a_region_must_earn_its_relayouts(gain_us: float, native: bool) -> None:
    context = Context(candidates=candidates(10 + gain_us, 10))
    after = ChooseLayouts().run(parse_graph(LINEAR), context)
    assert (len(segments(after)) == 1) == native
    assert codes(context) == (set() if native else {"below_break_even"})


def test_it_runs_once() -> None:
    once = ChooseLayouts().run(parse_graph(LINEAR), Context(**FORCE))
    assert ChooseLayouts().run(once, Context(**FORCE)) is once
