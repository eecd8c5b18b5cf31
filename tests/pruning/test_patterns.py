"""Patterns and scopes against brute force; no model is involved."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_compiler.errors import UnsupportedError
from sparse_compiler.pruning.patterns import (
    Block,
    Channel,
    NofM,
    Unstructured,
    parse_pattern,
)
from sparse_compiler.pruning.scopes import SCOPES, keep_highest


def masks(pattern, scores, sparsity, scope="uniform", live=None):
    live = live or [torch.ones_like(s, dtype=torch.bool) for s in scores]
    shares = [sparsity or 0.0] * len(scores)
    return list(pattern.masks(scores, live, shares, SCOPES[scope]))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, float("inf")]), min_size=1), st.data())
def test_keep_highest_is_a_stable_sort(values, data):
    drop = data.draw(st.integers(0, len(values) - 1))
    order = sorted(range(len(values)), key=lambda i: values[i])  # stable: ties by position
    want = [i not in order[:drop] for i in range(len(values))]
    assert keep_highest(torch.tensor(values), drop).tolist() == want


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from([(1, 1), (4, 1), (1, 4), (3, 2), (8, 8), (32, 1)]),
    st.floats(0, 0.999),
    st.integers(0, 2**31),
)
def test_blocks_with_ragged_edges_against_loops(rows, columns, shape, sparsity, seed):
    scores = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed))
    r, c = shape
    corners = list(itertools.product(range(0, rows, r), range(0, columns, c)))
    sums = {
        at: float(scores[at[0] : at[0] + r, at[1] : at[1] + c].double().sum()) for at in corners
    }
    drop = min(round(sparsity * len(corners)), len(corners) - 1)
    want = torch.ones(rows, columns, dtype=torch.bool)
    for i, j in sorted(corners, key=sums.__getitem__)[:drop]:
        want[i : i + r, j : j + c] = False
    (got,) = masks(Block(r, c), [scores.double()], sparsity)
    assert torch.equal(got, want)


@pytest.mark.parametrize("n, m", [(2, 4), (1, 4), (4, 8), (3, 16)])
def test_n_of_m_keeps_the_highest_of_each_group(n, m):
    scores = torch.rand(6, 3 * m)
    (mask,) = masks(NofM(n, m), [scores], None)
    groups, kept = scores.reshape(-1, m), mask.reshape(-1, m)
    assert (kept.sum(1) == n).all()
    for group, keep in zip(groups, kept, strict=True):
        assert group[keep].min() > group[~keep].max()


def test_channels_by_l2_norm():
    scores = torch.zeros(3, 4)
    scores[0] = 1.0  # norm 2.0, sum 4
    scores[1, 0] = 2.5  # norm 2.5, sum 2.5: a sum would drop this one
    scores[2] = 3.0
    (mask,) = masks(Channel(), [scores], 1 / 3)
    assert mask.all(dim=1).tolist() == [False, True, True]
    assert not mask[0].any()


def test_global_is_one_threshold_and_empties_no_layer():
    low, high = torch.rand(50, 10), torch.rand(50, 10) + 1
    first, second = masks(Unstructured(), [low, high], 0.5, "global")
    assert first.sum() == 1 and second.sum() == 499  # low loses all but its best
    assert first.flatten()[low.argmax()]
    first, second = masks(Unstructured(), [low, high], 0.25, "global")
    assert first.sum() == 250 and second.all()


@pytest.mark.parametrize("scope", ["uniform", "global"])
@pytest.mark.parametrize("pattern", [Unstructured(), Block(2, 2), Channel()])
def test_never_empties_a_layer(scope, pattern):
    for mask in masks(pattern, [torch.zeros(4, 4), torch.rand(4, 4)], 0.999, scope):
        assert mask.any()


@pytest.mark.parametrize("pattern", [Unstructured(), Block(4, 1), Channel(), NofM(2, 4)])
def test_dead_stays_dead_and_goes_first(pattern):
    scores = torch.rand(16, 16)
    (once,) = masks(pattern, [scores], 0.5)
    (again,) = masks(pattern, [scores + (~once) * 10.0], 0.5, live=[once])
    assert torch.equal(once, again)
    if not isinstance(pattern, NofM):
        (more,) = masks(pattern, [scores + (~once) * 10.0], 0.75, live=[once])
        assert more.sum() == 64 and not (more & ~once).any()


def test_ties_and_nan():
    (mask,) = masks(Unstructured(), [torch.ones(2, 4)], 0.5)
    assert mask.flatten().tolist() == [False] * 4 + [True] * 4
    (mask,) = masks(NofM(2, 4), [torch.ones(1, 4)], None)
    assert mask.flatten().tolist() == [False, False, True, True]
    scores = torch.ones(2, 4)
    scores[0, 0] = float("nan")
    for pattern in (Unstructured(), Block(1, 2), NofM(2, 4)):
        (mask,) = masks(pattern, [scores], 0.5)
        assert mask[0, 0]


def test_parse_pattern():
    assert parse_pattern("2:4") == NofM(2, 4)
    assert parse_pattern("16x1") == Block(16, 1)
    assert parse_pattern("channel") == Channel()
    assert parse_pattern("unstructured") == Unstructured()


@pytest.mark.parametrize(
    "text, hint",
    [
        ("chanel", '"channel"'),
        ("unstructred", '"unstructured"'),
        ("4:2", '"4:8"'),
        ("4:4", "0 < N < M"),
        ("0x4", '"4x4"'),
        ("", '"4x1"'),
        (None, "a pattern is"),
    ],
)
def test_unknown_pattern_offers_near_ones(text, hint):
    with pytest.raises(UnsupportedError) as caught:
        parse_pattern(text)
    assert hint in str(caught.value)
