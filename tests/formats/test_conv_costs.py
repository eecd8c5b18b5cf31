"""Predicted times of convolutions: positive, growing, and in the measured order of the engines.

The measured times are those of `benchmarks/kernels/conv.py` on two cores with 16 floats a vector.
"""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_compiler.formats.base import FORMATS, ConvShape, Machine, torch_conv_ns

ZEN5 = Machine(16, flops_per_ns=250.0)
MACHINES = st.sampled_from([Machine(v, flops_per_ns=v * 12.8) for v in (4, 8, 16)])
NAMES = sorted(FORMATS)
SHAPES = st.builds(
    lambda m, c, share, n, taps, groups, strided: ConvShape(
        m * groups, c * taps, int(m * groups * c * taps * share), n, taps, groups, strided
    ),
    st.integers(1, 600),
    st.integers(1, 600),
    st.floats(0, 1),
    st.integers(1, 20000),
    st.sampled_from([1, 3, 9, 27, 49]),
    st.sampled_from([1, 1, 2, 32]),
    st.booleans(),
)


@pytest.mark.parametrize("name", NAMES)
@given(SHAPES, MACHINES, st.integers(1, 8))
def test_costs_are_positive_and_grow(
    name: str, shape: ConvShape, machine: Machine, threads: int
) -> None:
    time = FORMATS[name].conv_ns(shape, machine, threads)
    assert time > 0
    s = shape
    wide = ConvShape(s.rows, s.columns, s.nnz, 4 * s.n + 64, s.taps, s.groups, s.strided)
    alone = FORMATS[name].conv_ns(shape, machine, 1)
    same_kernel = FORMATS[name].cost_of(shape, machine.vector) is FORMATS[name].cost_of(
        wide, machine.vector
    )
    if same_kernel:  # a first convolution has a faster one from 256 columns on
        assert FORMATS[name].conv_ns(wide, machine, 1) >= 0.9 * alone
    assert FORMATS[name].conv_ns(shape, machine, threads + 1) <= time
    assert torch_conv_ns(shape, machine, threads) > 0


# rows, channels, output pixels, taps, strided; torch, dense, csr at 50 % and 90 % in microseconds.
# Dense 3 x 3 of stride 1 goes by Winograd's algorithm.
MEASURED = {
    "3x3 64": (64, 64, 56**2, 9, False, 509, 335, 344, 104),
    "3x3 256": (256, 256, 14**2, 9, False, 540, 340, 328, 85),
    "3x3 512": (512, 512, 7**2, 9, False, 730, 390, 419, 105),
    "3x3 128, stride 2": (128, 128, 28**2, 9, True, 530, 537, 385, 138),
    "1x1 256": (256, 64, 56**2, 1, False, 248, 222, 144, 52),
    "1x1 1024": (1024, 256, 14**2, 1, False, 282, 224, 161, 45),
    "1x1 512": (512, 512, 14**2, 1, False, 286, 237, 168, 48),
    "stem": (64, 3, 112**2, 49, True, 530, 646, 456, 230),
}


@pytest.mark.parametrize("layer", MEASURED.values(), ids=MEASURED.keys())
def test_near_the_measured_times(layer: tuple[int, ...]) -> None:
    """Within a fifth for dense and torch, a quarter for csr; in their order, if not about a tie."""
    rows, channels, n, taps, strided, torch_us, dense_us, half_us, tenth_us = layer
    numbers = rows * channels * taps

    def shape(nnz: int) -> ConvShape:
        side = math.isqrt(n)
        image = (side, side) if taps == 9 and not strided else ()
        return ConvShape(rows, channels * taps, nnz, n, taps, 1, bool(strided), image=image)

    dense = FORMATS["dense"].conv_ns(shape(numbers), ZEN5, 2)
    assert dense == pytest.approx(dense_us * 1e3, rel=0.2)
    assert torch_conv_ns(shape(numbers), ZEN5, 2) == pytest.approx(torch_us * 1e3, rel=0.2)
    half = FORMATS["csr"].conv_ns(shape(numbers // 2), ZEN5, 2)
    assert half == pytest.approx(half_us * 1e3, rel=0.25)
    if abs(half_us / dense_us - 1) > 0.1:
        assert (half < dense) == (half_us < dense_us)
    tenth = FORMATS["csr"].conv_ns(shape(numbers // 10), ZEN5, 2)
    assert tenth == pytest.approx(tenth_us * 1e3, rel=0.25)
    assert tenth < dense


def test_depthwise_by_torch_is_bound_by_memory() -> None:
    """13 % of the speed of a full convolution, not one lane in sixteen."""
    shape = ConvShape(256, 9, 256 * 9, 28**2, 9, groups=256)
    assert shape.depthwise
    assert torch_conv_ns(shape, ZEN5, 2) < 100_000
