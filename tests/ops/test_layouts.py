"""What ops say about layouts: in rows all of them stay there, in planes the result is an order."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_compiler.ir.op import OPS
from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.types import Layout, TensorType, symbol
from sparse_compiler.ops.cat import Cat
from sparse_compiler.ops.embedding import Embedding
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.reduce import Reduce
from sparse_compiler.ops.rotary import Rotary
from sparse_compiler.ops.shape import Expand
from sparse_compiler.ops.softmax import Softmax
from tests.ops.cases import CASES

IN_ROWS = sorted(name for name, op in OPS.items() if op.rows and name not in ("iota", "full"))
IMAGE, CHANNELS = Layout((1, 0, 2, 3), 1), Layout((1, 0), 1)
TOKENS = Layout((2, 0, 1), 1)
S = symbol("s0")


def f32(*shape, layout=None):
    return TensorType("f32", shape, layout)


@pytest.mark.parametrize("name", IN_ROWS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_rows_stay_rows(name, data):
    case = data.draw(CASES[name]())
    types = tuple(t.laid_out(Layout.rows(t.rank)) for t in case.input_types())
    result = case.op.infer(types)
    if name == "embedding" and result.dtype == "f32" and result.rank > 1:
        assert result.layout.outer == (result.rank - 1,)
    else:
        assert result.layout == Layout.rows(result.rank)


@pytest.mark.parametrize("name", IN_ROWS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_planar_result_has_an_order_of_its_dimensions(name, data):
    case = data.draw(CASES[name]())
    types = case.input_types()
    rank = types[0].rank
    order = tuple(data.draw(st.permutations(range(rank))))
    layout = Layout(order, data.draw(st.integers(1, rank))) if rank else None
    given_types = tuple(t.laid_out(layout) if t.rank == rank else t for t in types)
    wanted = case.op.planar(given_types, (False,) * len(types))
    if isinstance(wanted, No):
        assert wanted.code
        assert wanted.why
        return
    assert len(wanted) == len(types)
    result = case.op.infer(tuple(t.laid_out(w) for t, w in zip(types, wanted, strict=True)))
    assert result.logical == case.op.infer(types).logical
    if result.layout is not None:
        assert sorted(result.layout.order) == list(range(result.rank))
        assert 0 <= result.layout.planes <= result.rank


@pytest.mark.parametrize(
    ("x", "op", "result"),
    [
        (f32(S, 8, 7, 5, layout=IMAGE), Reduce("mean", (2, 3)), "{1|0}"),
        (f32(S, 8, 7, 5, layout=IMAGE), Reduce("mean", (2, 3), True), "{1|0,2,3}"),
        (f32(S, 8, 7, 5, layout=IMAGE), Reduce("amax", (1,), True), "{1|0,2,3}"),
        (f32(S, 8, 7, 5, layout=IMAGE), Reduce("sum", (1,)), "{|0,1,2}"),
        (f32(S, 9, 8, layout=TOKENS), Reduce("mean", (1,)), "{1|0}"),
        (f32(S, 9, 8, layout=TOKENS), Reduce("amin", (2,), True), "{2|0,1}"),
        (f32(S, 8, 7, 5, layout=IMAGE), Reduce("mean", (3,)), "layout"),
        (f32(S, 8, 7, 5, layout=IMAGE), Reduce("mean", (0, 2, 3)), "layout"),
        (f32(S, 8, layout=CHANNELS), Reduce("sum", (0,)), "layout"),
        (f32(S, 9, 8, layout=TOKENS), Reduce("argmax", (2,)), "dtype_unsupported"),
        (f32(S, 9, 8, layout=TOKENS), Reduce("any", (2,)), "dtype_unsupported"),
        (f32(S, 9, 8), Reduce("sum", (2,)), "outside_region"),
        (f32(S, 9, 8, layout=Layout.rows(3)), Reduce("sum", (2,)), "outside_region"),
        (f32(S, 9, 8, layout=TOKENS), Softmax(dim=2), "{2|0,1}"),
        (f32(S, 8, 7, 5, layout=IMAGE), Softmax(dim=1), "{1|0,2,3}"),
        (f32(S, 9, 8, layout=TOKENS), Softmax(dim=1), "layout"),
        (f32(S, 1, 8, layout=TOKENS), Expand((S, 4, 8)), "{2|0,1}"),
        (f32(S, 1, 8, layout=TOKENS), Expand((3, S, 4, 8)), "rank_unsupported"),
    ],
)
def test_planes_of_one_input(x, op, result):
    wanted = op.planar((x,), (False,))
    if isinstance(wanted, No):
        assert wanted.code == result
        return
    assert wanted == (x.layout,)
    assert f"{{{op.infer((x,)).layout}}}" == result


def test_cat_wants_all_in_the_first_planar_layout():
    types = (f32(S, 1, 8), f32(S, 9, 8, layout=TOKENS))
    assert Cat(1).planar(types, (True, False)) == (TOKENS, TOKENS)
    whole = TensorType("i64", (S, 9, 8), TOKENS)
    assert Cat(1).planar((whole, whole), (False, False)).code == "dtype_unsupported"
    assert Cat(1).planar((f32(S, 1, 8),) * 2, (False, False)).code == "outside_region"


def test_an_embedding_reads_ids_in_rows_and_gives_planes():
    types = (f32(100, 16), TensorType("i64", (S, 9)))
    assert Embedding().planar(types, (True, False)) == (None, Layout.rows(2))
    assert Embedding().infer((types[0], types[1].laid_out(Layout.rows(2)))).layout == TOKENS
    assert Embedding().infer(types).layout is None
    assert Embedding().planar(types, (False, False)).code == "weight_is_computed"


def test_rotary_wants_heads_and_angles_in_planes():
    heads = Layout((1, 3, 0, 2), 2)
    types = (f32(S, 4, 9, 8, layout=heads), f32(1, 9, 8), f32(1, 9, 8))
    assert Rotary().planar(types, (False, True, True)) == (heads, TOKENS, TOKENS)
    assert Rotary().infer(types).layout == heads
    x, cos, sin = (torch.randn(2, 4, 9, 8).double() for _ in range(3))
    cos, sin = cos[:1, 0, :, :6], sin[:1, 0, :, :6]
    half = Rotary().reference(x, cos, sin)
    pairs = Rotary(True).reference(x, cos, sin)
    for i in range(3):
        a, b, c = x[..., i], x[..., i + 3], cos[..., i]
        assert torch.allclose(half[..., i], a * c - b * sin[..., i])
        assert torch.allclose(half[..., i + 3], b * cos[..., i + 3] + a * sin[..., i + 3])
        a, b = x[..., 2 * i], x[..., 2 * i + 1]
        assert torch.allclose(pairs[..., 2 * i], a * cos[..., 2 * i] - b * sin[..., 2 * i])
    assert torch.equal(half[..., 6:], x[..., 6:])
    assert torch.equal(pairs[..., 6:], x[..., 6:])


@pytest.mark.parametrize(
    ("op", "kinds", "code"),
    [
        (Pointwise("where(lt(x0, x1), x0, 0.0)"), ("f32", "f32"), None),
        (Pointwise("mul(x0, x1)"), ("f32", "f64"), "dtype_unsupported"),
        (Pointwise("lt(x0, x1)"), ("f32", "f32"), "dtype_unsupported"),
        (Pointwise("f32(i64(x0))"), ("f32",), "dtype_unsupported"),
        (Pointwise("add(x0, x1)", "i64"), ("f32", "f32"), "dtype_unsupported"),
        (Pointwise("add(x0, 1.0)"), ("i64",), "dtype_unsupported"),
    ],
)
def test_planes_hold_f32_only(op, kinds, code):
    wanted = op.planar(
        tuple(TensorType(k, (S, 9, 8), TOKENS) for k in kinds), (False,) * len(kinds)
    )
    assert (wanted.code if isinstance(wanted, No) else None) == code
