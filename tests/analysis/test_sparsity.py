"""Sparsity facts against a brute-force oracle, and the names against matrices of known pattern."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_compiler.analysis.sparsity import (
    BLOCK_SHAPES,
    GROUP_SIZES,
    HIGH_FILL,
    MIN_COVER,
    sparsity_facts,
)
from sparse_compiler.errors import UnsupportedError


@st.composite
def weights(draw):
    shape = draw(
        st.one_of(
            st.tuples(st.integers(1, 70)),
            st.tuples(st.integers(1, 70), st.sampled_from([1, 3, 4, 8, 15, 16, 32, 48, 64, 65])),
            st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3), st.integers(1, 3)),
        )
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    unit = draw(st.sampled_from([(1, 1), (4, 1), (1, 4), (8, 8), (1, 1000), (1000, 1)]))
    density = draw(st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.9, 0.99, 1.0]))
    rows, columns = shape[0], math.prod(shape[1:])
    units = torch.rand(-(-rows // unit[0]), -(-columns // unit[1]), generator=generator) < density
    keep = units.repeat_interleave(unit[0], 0).repeat_interleave(unit[1], 1)[:rows, :columns]
    values = torch.randn(rows, columns, generator=generator)
    values[values == 0] = 1.0
    matrix = torch.where(keep, values, torch.tensor(-0.0 if draw(st.booleans()) else 0.0))
    for special in draw(st.lists(st.sampled_from([math.nan, math.inf, -math.inf]), max_size=3)):
        at = int(torch.randint(rows * columns, (), generator=generator))
        matrix.view(-1)[at] = special
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
    return matrix.reshape(shape).to(dtype)


def brute_force(weight):
    """Every fact by loops over a list of lists of booleans."""
    rows, columns = weight.shape[0], math.prod(weight.shape[1:])
    flat = [v != 0.0 for v in weight.reshape(-1).tolist()]
    matrix = [flat[i * columns : (i + 1) * columns] for i in range(rows)]
    nnz = sum(flat)
    fills = {}
    stored = {}
    for r, c in BLOCK_SHAPES:
        blocks = sum(
            any(any(row[j : j + c]) for row in matrix[i : i + r])
            for i in range(0, rows, r)
            for j in range(0, columns, c)
        )
        fills[f"{r}x{c}"] = nnz / (blocks * r * c) if blocks else 0.0
        stored[f"{r}x{c}"] = (blocks * r * c, blocks, r * c)
    fit = [
        (elements + blocks, -area, shape)
        for shape, (elements, blocks, area) in stored.items()
        if fills[shape] >= HIGH_FILL
        and nnz < rows * columns
        and rows * columns - elements >= MIN_COVER * (rows * columns - nnz)
    ]
    n_of_m = {}
    for m in GROUP_SIZES:
        n = max(sum(row[j : j + m]) for row in matrix for j in range(0, columns, m))
        n_of_m[str(m)] = n if columns % m == 0 and n < m else None
    lengths = [sum(row) for row in matrix]
    mean = nnz / rows
    inputs = weight.shape[1] if weight.dim() > 1 else 1
    each = columns // inputs
    dead = sum(
        not any(any(row[i * each : (i + 1) * each]) for row in matrix) for i in range(inputs)
    )
    return {
        "shape": list(weight.shape),
        "nnz": nnz,
        "density": nnz / (rows * columns),
        "zero_rows": sum(not any(row) for row in matrix),
        "zero_columns": sum(not any(row[j] for row in matrix) for j in range(columns)),
        "zero_inputs": dead,
        "block": min(fit)[2] if fit else None,
        "block_fill": fills[min(fit)[2]] if fit else None,
        "block_fills": fills,
        "n_of_m": n_of_m,
        "row_length": {
            "min": min(lengths),
            "max": max(lengths),
            "mean": mean,
            "cv": math.sqrt(sum((n - mean) ** 2 for n in lengths) / rows) / mean if nnz else 0.0,
        },
        "nonfinite": sum(not math.isfinite(v) for v in weight.reshape(-1).tolist()),
    }


@settings(max_examples=120, deadline=None)
@given(weights())
def test_facts_equal_brute_force(weight):
    facts = sparsity_facts(weight).as_dict()
    want = brute_force(weight)
    del facts["pattern"]
    cv, want_cv = facts["row_length"].pop("cv"), want["row_length"].pop("cv")
    assert cv == pytest.approx(want_cv, abs=1e-12)
    ties = (facts.pop("block"), want.pop("block"))  # shapes that save the same: compare savings
    if None in ties:
        assert ties == (None, None)
    else:
        assert facts["block_fill"] == pytest.approx(want["block_fill"])
    assert facts == want


def random_weight(rows, columns, density, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    return weight * (torch.rand(rows, columns, generator=generator) < density)


def blocks_of(r, c, density, rows=128, columns=96):
    return torch.kron(
        (random_weight(rows // r, columns // c, density) != 0).float(), torch.ones(r, c)
    )


@pytest.mark.parametrize("r, c", BLOCK_SHAPES)
@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_block_patterns_are_named_by_their_shape(r, c, density):
    facts = sparsity_facts(blocks_of(r, c, density, 512, 512))
    assert facts.pattern == f"{r}x{c} block"
    assert facts.block is not None and facts.block.fill == 1.0


@pytest.mark.parametrize("density", [0.002, 0.01, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98])
@pytest.mark.parametrize("shape", [(64, 64), (100, 37), (768, 768), (33, 9), (16, 1024)])
def test_a_random_matrix_is_unstructured(density, shape):
    for seed in range(3):
        facts = sparsity_facts(random_weight(*shape, density, seed))
        if facts.nnz > 10 and facts.density < 0.985:
            assert facts.pattern == "unstructured", facts


def test_a_block_matrix_with_holes_keeps_its_name_while_the_fill_is_high():
    weight = blocks_of(4, 1, 0.2)
    holes = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1))
    assert sparsity_facts(weight * (holes < 0.9)).pattern == "4x1 block"
    assert sparsity_facts(weight * (holes < 0.6)).pattern == "unstructured"


@pytest.mark.parametrize("n, m", [(1, 4), (2, 4), (3, 4), (1, 8), (4, 8), (2, 16), (8, 16)])
def test_n_of_m(n, m):
    generator = torch.Generator().manual_seed(0)
    order = torch.rand(64, 96 // m, m, generator=generator).argsort(-1)
    weight = (order < n).float().reshape(64, 96)
    facts = sparsity_facts(weight)
    assert facts.pattern == f"{n}:{m}"
    assert dict(facts.groups)[m] == n
    assert dict(sparsity_facts(weight[:, : 96 - m + 1]).groups)[m] is None  # not divisible


def test_channel_pattern_counts_rows_and_columns():
    weight = torch.randn(128, 64)
    weight[:37] = 0
    assert sparsity_facts(weight).pattern == "channel (37 of 128 rows zero)"
    weight[:, 5:10] = 0
    facts = sparsity_facts(weight)
    assert facts.pattern == "channel (37 of 128 rows and 5 of 64 columns zero)"
    assert (facts.zero_rows, facts.zero_columns) == (37, 5)


def test_dead_input_channels_of_a_convolution():
    weight = torch.randn(8, 6, 3, 3)
    weight[:, 2] = 0
    weight[:, 4, 0, 0] = 0
    facts = sparsity_facts(weight)
    assert (facts.zero_inputs, facts.zero_columns) == (1, 10)


def test_dense_empty_and_degenerate():
    assert sparsity_facts(torch.ones(8, 8)).pattern == "dense"
    assert sparsity_facts(torch.full((8, 8), -0.0)).pattern == "empty"
    assert sparsity_facts(torch.full((8, 8), math.nan)).nnz == 64
    assert sparsity_facts(torch.tensor([0.0, 1.0])).pattern == "channel (1 of 2 rows zero)"
    for shape in [(0,), (0, 5), (5, 0), (5, 0, 3), (5, 3, 0)]:
        facts = sparsity_facts(torch.ones(shape))
        assert (facts.pattern, facts.density, facts.sparsity) == ("empty", 0.0, 0.0)
        json.dumps(facts.as_dict(), allow_nan=False)


def test_views_parameters_and_other_dtypes():
    weight = random_weight(48, 80, 0.3)
    want = sparsity_facts(weight)
    assert sparsity_facts(weight.t().contiguous().t()) == want
    assert sparsity_facts(torch.nn.Parameter(weight)) == want
    assert sparsity_facts((weight != 0).to(torch.int8)) == want
    assert sparsity_facts(torch.ones(1, 1).expand(16, 16)).pattern == "dense"
    json.dumps(want.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    "weight, why",
    [
        (torch.tensor(1.0), "no dimensions"),
        (torch.ones(3, 3, device="meta"), "meta"),
        (torch.nn.LazyLinear(3).weight, "lazy"),
        (torch.eye(3).to_sparse(), "sparse_coo"),
    ],
)
def test_refuses_with_a_reason(weight, why):
    with pytest.raises(UnsupportedError, match=why):
        sparsity_facts(weight)
