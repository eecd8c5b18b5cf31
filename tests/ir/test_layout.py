"""Layouts through views, against brute force: real tensors, stored in the order of the layout."""

import math

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.types import Layout, TensorType, product, symbol
from sparse_compiler.ops.shape import Permute, Reshape, Slice, reshape_groups, reshape_layout

SIZES = st.sampled_from([1, 1, 2, 3, 4, 6])


@st.composite
def shapes(draw):
    return tuple(draw(st.lists(SIZES, min_size=1, max_size=4)))


@st.composite
def reshapes(draw):
    """Two shapes of one size: the first, with runs merged, split and ones put in at random."""
    old = draw(shapes())
    new = []
    for size in old:
        if new and draw(st.booleans()):
            new[-1] *= size
        else:
            new.append(size)
    split = []
    for size in new:
        part = draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
        split += [part, size // part] if draw(st.booleans()) else [size]
    for _ in range(draw(st.integers(0, 2))):
        split.insert(draw(st.integers(0, len(split))), 1)
    return old, tuple(split)


@st.composite
def layouts(draw, rank, *, least=0):
    """Any order; at least `least` dimensions count planes."""
    order = tuple(draw(st.permutations(range(rank))))
    return Layout(order, draw(st.integers(least, rank)))


def stored(tensor, layout):
    """Planes and what lies inside each, as [planes, columns]."""
    planes = math.prod(tensor.shape[d] for d in layout.outer)
    return tensor.permute(layout.order).reshape(planes, -1)


@settings(max_examples=150, deadline=None)
@given(reshapes(), st.data())
@example(((2, 1, 3), (2, 3, 1)), None)
@example(((1,), (1, 1)), None)
def test_a_reshape_that_keeps_its_layout_moves_nothing(pair, data):
    old, new = pair
    layout = data.draw(layouts(len(old))) if data else Layout(tuple(range(len(old))), 1)
    found = reshape_layout(old, layout, new)
    assume(found is not None)
    assert sorted(found.order) == list(range(len(new)))
    x = torch.arange(math.prod(old)).reshape(old)
    assert torch.equal(stored(x, layout), stored(x.reshape(new), found))


@settings(max_examples=80, deadline=None)
@given(shapes(), st.data())
def test_a_reshape_to_the_same_shape_keeps_every_layout(shape, data):
    layout = data.draw(layouts(len(shape)))
    found = reshape_layout(shape, layout, shape)
    assert found is not None
    x = torch.arange(math.prod(shape)).reshape(shape)
    assert torch.equal(stored(x, layout), stored(x, found))


@settings(max_examples=80, deadline=None)
@given(reshapes())
def test_groups_are_runs_of_equal_product_in_order(pair):
    old, new = pair
    groups = reshape_groups(old, new)
    assert groups is not None
    assert [d for before, _ in groups for d in before] == list(range(len(old)))
    assert [d for _, after in groups for d in after] == list(range(len(new)))
    for before, after in groups:
        assert product(old[d] for d in before) == product(new[d] for d in after)


@settings(max_examples=100, deadline=None)
@given(shapes(), st.data())
def test_a_permutation_keeps_every_layout(shape, data):
    type_ = TensorType("f32", shape, data.draw(layouts(len(shape), least=1)))
    op = Permute(tuple(data.draw(st.permutations(range(len(shape))))))
    result = op.infer((type_,))
    x = torch.arange(math.prod(shape)).reshape(shape)
    assert torch.equal(stored(x, type_.layout), stored(op.reference(x), result.layout))
    assert op.free((type_,))
    assert op.planar((type_,), (False,)) == (type_.layout,)


@settings(max_examples=100, deadline=None)
@given(shapes(), st.data())
def test_a_permutation_of_rows_is_a_copy_unless_only_ones_move(shape, data):
    type_ = TensorType("f32", shape, Layout.rows(len(shape)))
    op = Permute(tuple(data.draw(st.permutations(range(len(shape))))))
    result = op.infer((type_,))
    assert result.layout == type_.layout
    x = torch.arange(math.prod(shape)).reshape(shape)
    same = torch.equal(stored(x, type_.layout), stored(op.reference(x), result.layout))
    assert op.free((type_,)) == same


@settings(max_examples=150, deadline=None)
@given(shapes(), st.data())
def test_a_slice_is_free_where_its_planes_stay_adjacent(shape, data):
    layout = data.draw(st.one_of(layouts(len(shape), least=1), st.just(Layout.rows(len(shape)))))
    type_ = TensorType("f32", shape, layout)
    dim = data.draw(st.integers(0, len(shape) - 1))
    start = data.draw(st.integers(0, shape[dim] - 1))
    op = Slice(dim, start, data.draw(st.integers(start + 1, shape[dim])), data.draw(SIZES))
    result = op.infer((type_,))
    assert result.layout == layout
    assert layout.planes == 0 or op.planar((type_,), (False,)) == (layout,)
    x = torch.arange(math.prod(shape)).reshape(shape)
    planes, part = stored(x, layout), stored(op.reference(x), layout)
    if layout.planes == 0:
        planes, part = planes.reshape(-1, 1), part.reshape(-1, 1)
    if op.free((type_,)):
        first = int((planes == part[0]).all(1).nonzero()[0])
        assert torch.equal(planes[first : first + len(part)], part)


@settings(max_examples=150, deadline=None)
@given(reshapes(), st.data())
def test_a_reshape_asks_for_a_layout_in_which_it_is_free(pair, data):
    old, new = pair
    op = Reshape(new)
    type_ = TensorType("f32", old, data.draw(layouts(len(old), least=1)))
    wanted = op.planar((type_,), (False,))
    if isinstance(wanted, No):
        assert not op.free((type_,))
        return
    assert set(wanted[0].outer) == set(type_.layout.outer)
    assert op.free((type_.laid_out(wanted[0]),))
    assert wanted == (type_.layout,) or not op.free((type_,))


def test_a_window_of_swin_moves_columns_and_then_needs_no_more():
    """[B, h, w, 2, 2, C] -> [B h w, 4, C] is free where the windows lie one after another."""
    windows = TensorType("f32", (2, 3, 4, 2, 2, 8), Layout((5, 0, 1, 3, 2, 4), 1))
    op = Reshape((24, 4, 8))
    assert not op.free((windows,))
    assert op.planar((windows,), (False,)) == (Layout((5, 0, 1, 2, 3, 4), 1),)


S, T = symbol("s0"), symbol("s1")


@pytest.mark.parametrize(
    ("old", "layout", "new", "expected"),
    [
        # the head split of attention: channels are planes, tokens are columns
        ((S, 16, 768), "2|0,1", (S, 16, 12, 64), "2,3|0,1"),
        ((S, 16, 12, 64), "2,3|0,1", (S, 16, 768), "2|0,1"),
        ((S, T, 768), "2|0,1", (S * T, 768), "1|0"),
        ((S * T, 768), "1|0", (S, T, 768), "2|0,1"),
        ((S, T, 768), "2|0,1", (S, 1, T, 768), "3|0,1,2"),
        # refused: the run is torn apart, reversed, or lies across the bar
        ((S, T, 768), "0,2|1", (S * T, 768), None),
        ((S, T, 768), "2|1,0", (S * T, 768), None),
        ((S, T, 768), "0|1,2", (S * T, 768), None),
        ((6, 4), "1|0", (3, 8), None),
        ((S, T), "1|0", (T, S), None),
        ((S,), "0|", (T, 4), None),
    ],
)
def test_symbolic_reshapes(old, layout, new, expected):
    outer, inner = (tuple(map(int, half.split(","))) if half else () for half in layout.split("|"))
    found = reshape_layout(old, Layout(outer + inner, len(outer)), new)
    assert (None if found is None else str(found)) == expected
