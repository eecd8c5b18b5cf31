"""Cost formulae of every format: positive, growing with the work, and solved for their crossing."""

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sparse_compiler.formats.base import FORMATS, torch_linear_ns
from sparse_compiler.formats.coefficients import COEFFICIENTS
from sparse_compiler.formats.cost import ConvShape, Cost, LinearShape, Machine, Shape, crossover
from sparse_compiler.runtime.calibrate import fit, non_negative

NAMES = sorted(FORMATS)
MACHINES = st.sampled_from([Machine(v, flops_per_ns=v * 12.8) for v in (4, 8, 16)])
FEW = settings(max_examples=15, deadline=None, derandomize=True, database=None)
LINEARS = st.builds(
    lambda m, k, share, n: LinearShape(m, k, int(m * k * share), n),
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.floats(0, 1),
    st.integers(1, 3000),
)
CONVS = st.builds(
    lambda m, c, share, n, taps, groups, strided: ConvShape(
        m * groups, c * taps, int(m * groups * c * taps * share), n, taps, groups, strided
    ),
    st.integers(1, 400),
    st.integers(1, 400),
    st.floats(0, 1),
    st.integers(1, 9000),
    st.sampled_from([1, 3, 9, 49]),
    st.sampled_from([1, 1, 2, 32]),
    st.booleans(),
)


def costs(name: str) -> list[Cost]:
    found = FORMATS[name]
    image = ConvShape(64, 576, 6000, 56**2, 9, image=(56, 56))
    stem = ConvShape(64, 147, 6000, 112**2, 49, strided=True)
    special = (found.cost_of(shape, 16) for shape in (image, stem))
    every = (found.linear, found.conv, found.decode, *special)
    return list({c.kernel: c for c in every if c is not None}.values())


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(st.one_of(LINEARS, CONVS), MACHINES, st.integers(1, 4), st.integers(1, 500))
def test_costs_are_positive_and_grow_with_the_work(
    name: str, shape: Shape, machine: Machine, threads: int, more: int
) -> None:
    for cost in costs(name):
        time = cost.ns(shape, machine, threads)
        assert time > 0
        near = 1 - 1e-9  # sums are taken in another order
        numbers = shape.rows * shape.columns
        fuller = replace(shape, nnz=min(numbers, shape.nnz + more))
        assert cost.ns(fuller, machine, threads) >= near * time
        assert cost.ns(replace(shape, n=shape.n + more), machine, threads) >= near * time
        assert cost.ns(shape, machine, threads + 1) <= time / near


@pytest.mark.parametrize("name", NAMES)
def test_padding_counts(name: str) -> None:
    """A format that walks stored elements takes longer where padding is stored."""
    shape, machine = LinearShape(512, 512, 1 << 14, 128), Machine(8)
    padded = replace(shape, stored=4 * shape.nnz)
    walks = any(e.has(*[s for s in e.free_symbols if s.name == "stored"] or [1]) for _, e in
                FORMATS[name].linear.terms)  # fmt: skip
    cost = FORMATS[name].linear
    if walks:
        assert cost.ns(padded, machine, 1) >= cost.ns(shape, machine, 1)
    else:
        assert cost.ns(padded, machine, 1) == cost.ns(shape, machine, 1)


def test_a_slower_machine_takes_longer() -> None:
    shape = LinearShape(768, 768, 50_000, 128)
    fast, slow = Machine(16, scale=(("", 1.0),)), Machine(16, scale=(("", 2.0),))
    for name in NAMES:
        cost = FORMATS[name].linear
        assert cost.ns(shape, slow, 1) == pytest.approx(2 * cost.ns(shape, fast, 1))
    own = Machine(16, scale=(("", 1.0), ("linear_csr", 3.0), ("linear_dense", 1.0)))
    csr, dense = FORMATS["csr"].linear, FORMATS["dense"].linear
    assert csr.ns(shape, own, 1) == pytest.approx(3 * csr.ns(shape, fast, 1))
    assert dense.ns(shape, own, 1) == dense.ns(shape, fast, 1)
    bitmap = FORMATS["bitmap"].linear
    ratios = [bitmap.ns(shape, m, 1) / csr.ns(shape, m, 1) for m in (own, fast)]
    assert ratios[0] == pytest.approx(ratios[1]), "an error in csr's figure changes no choice"


def test_the_weight_is_read_from_memory_at_least() -> None:
    shape = LinearShape(4096, 11008, 4096 * 11008, 1)
    slow = Machine(16, flops_per_ns=1e9, bytes_per_ns=1.0, scale=(("", 1e-9),))
    assert FORMATS["dense"].linear.ns(shape, slow, 8) == 4 * 4096 * 11008


def test_measured_torch_replaces_the_guess() -> None:
    shape = LinearShape(100, 10, 1000, 5)
    machine = Machine(16, torch=(("torch_linear", (7000.0, 0.0, 0.0)),))
    assert torch_linear_ns(shape, machine, 2) == 7000.0


def test_every_coefficient_belongs_to_a_kernel() -> None:
    known = {c.kernel: len(c.terms) for name in NAMES for c in costs(name)}
    for kernel, table in COEFFICIENTS.items():
        assert kernel in known
        for values in table.values():
            assert len(values) == known[kernel], kernel
            assert min(values) >= 0


# --- crossovers -----------------------------------------------------------------------------------


@FEW
@given(LINEARS, MACHINES)
def test_the_crossover_is_where_the_costs_cross(shape: LinearShape, machine: Machine) -> None:
    """From it on csr is faster, but for the rounding to whole vectors around it."""
    assume(shape.nnz)
    csr, dense = FORMATS["csr"].linear, FORMATS["dense"].linear
    first = crossover(csr, dense, shape, shape, machine, 1)
    far = 200_000 * machine.vector
    wins = csr.ns(replace(shape, n=far), machine, 1) < dense.ns(replace(shape, n=far), machine, 1)
    if first is None:
        assert not wins
    elif first > 1:
        later = replace(shape, n=2 * first + 4 * machine.vector)
        assert csr.ns(later, machine, 1) <= 1.1 * dense.ns(later, machine, 1)


def test_the_crossover_by_hand() -> None:
    """100 + P against 3 P: from 50 columns on."""
    one = Cost("a", (("call", _one()), ("column", _p())), bytes=_one() * 0, guess=(100.0, 1.0))
    other = Cost("b", (("column", _p()),), bytes=_one() * 0, guess=(3.0,))
    shape, machine = LinearShape(1, 1, 1, 1), Machine(16, scale=(("", 1.0),))
    assert crossover(one, other, shape, shape, machine, 1) == 50
    assert crossover(other, one, shape, shape, machine, 1) is None, "only for few columns"
    assert crossover(one, one, shape, shape, machine, 1) is None


def _one():
    from sparse_compiler.formats.cost import ONE

    return ONE


def _p():
    from sparse_compiler.formats.cost import P

    return P


# --- fitting --------------------------------------------------------------------------------------


def test_the_fit_finds_the_coefficients() -> None:
    machine, cost = Machine(16), FORMATS["dense"].linear
    shapes = [
        LinearShape(m, k, m * k, n)
        for m, k, n in ((64, 64, 16), (512, 64, 100), (96, 2048, 40), (300, 300, 999), (8, 8, 1))
    ]
    samples = [(s, cost.ns(s, replace(machine, bytes_per_ns=1e9), 1)) for s in shapes]
    found = fit(cost, samples, machine, 1)
    again = [
        sum(c * v for c, v in zip(found, cost.values(s, 16, 1)[:-1], strict=True)) for s in shapes
    ]
    assert again == pytest.approx([ns for _, ns in samples], rel=0.02)


def test_no_coefficient_is_negative() -> None:
    import numpy as np

    terms = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    assert non_negative(terms, np.array([3.0, 2.0, 1.0]))[1] == 0
