"""Every format of the registry: its sizes, costs that behave, a packer that is exact."""

import ctypes

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_compiler.codegen.cpu.build import Toolchain, native_width
from sparse_compiler.formats.base import FORMATS, LinearShape, Machine, torch_linear_ns
from sparse_compiler.options import Options, find_compiler
from sparse_compiler.runtime.native import packer_for

SHAPES = st.builds(
    lambda m, k, share, n: LinearShape(m, k, int(m * k * share), n),
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.floats(0, 1),
    st.integers(1, 2000),
)
MACHINES = st.sampled_from([Machine(v, flops_per_ns=v * 12.8) for v in (4, 8, 16)])
NAMES = sorted(FORMATS)


def test_dense_is_always_there() -> None:
    assert "dense" in FORMATS
    assert "csr" in FORMATS


@pytest.mark.parametrize("name", NAMES)
@given(SHAPES, MACHINES, st.integers(1, 8))
def test_costs_are_positive_and_grow(
    name: str, shape: LinearShape, machine: Machine, threads: int
) -> None:
    time = FORMATS[name].linear_ns(shape, machine, threads)
    assert time > 0 or shape.nnz == 0
    double = LinearShape(2 * shape.rows, shape.columns, 2 * shape.nnz, shape.n)
    assert FORMATS[name].linear_ns(double, machine, threads) >= time
    wide = LinearShape(shape.rows, shape.columns, shape.nnz, 4 * shape.n + 64)
    assert FORMATS[name].linear_ns(wide, machine, threads) >= 0.9 * time
    assert FORMATS[name].linear_ns(shape, machine, threads + 1) <= time


@given(SHAPES, MACHINES)
def test_only_dense_ignores_zeros(shape: LinearShape, machine: Machine) -> None:
    empty = LinearShape(shape.rows, shape.columns, 0, shape.n)
    times = {n: FORMATS[n].linear_ns(shape, machine, 1) for n in NAMES}
    assert FORMATS["dense"].linear_ns(empty, machine, 1) == times["dense"]
    assert FORMATS["csr"].linear_ns(empty, machine, 1) <= times["csr"]
    assert torch_linear_ns(empty, machine, 1) == torch_linear_ns(shape, machine, 1)


@pytest.mark.parametrize("vector", [4, 8, 16])
def test_the_order_of_formats_on_a_layer_of_bert(vector: int) -> None:
    """3072 x 768 on 128 tokens: dense wins without zeros, csr at 90 %."""
    machine = Machine(vector, flops_per_ns=vector * 12.8)
    for share, best in ((1.0, "dense"), (0.1, "csr"), (0.05, "csr")):
        shape = LinearShape(3072, 768, int(3072 * 768 * share), 128)
        assert min(NAMES, key=lambda n: FORMATS[n].linear_ns(shape, machine, 2)) == best


@pytest.mark.parametrize("name", NAMES)
@given(st.integers(1, 3000), st.integers(1, 3000), st.floats(0, 1), st.sampled_from([8, 16, 32]))
def test_ideal_size(name: str, rows: int, columns: int, share: float, bits: int) -> None:
    nnz = int(rows * columns * share)
    size = FORMATS[name].ideal_bits(rows, columns, nnz, bits)
    assert size >= nnz * bits
    if name == "dense":
        assert size == rows * columns * bits


def test_ideal_size_by_hand() -> None:
    # 4 x 8, 3 non-zeros of 32 bits: 3 values, 3 columns of 3 bits, 4 rows of 2 bits
    assert FORMATS["csr"].ideal_bits(4, 8, 3, 32) == 3 * 32 + 3 * 3 + 4 * 2
    assert FORMATS["csr"].ideal_bits(4, 8, 0, 32) == 0


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 90), st.integers(1, 300), st.sampled_from([0.0, 0.05, 0.5, 1.0]))
def test_packing_is_exact(kernel_cache, name: str, rows: int, columns: int, share: float) -> None:
    """Unpacked again, the weight is the same to the bit; strides and NaN do not matter."""
    compiler = find_compiler()
    assert compiler is not None
    packer = packer_for(Toolchain((compiler,), kernel_cache, native_width()))
    generator = torch.Generator().manual_seed(rows * 1000 + columns)
    weight = torch.randn(columns, rows, generator=generator).T
    weight = weight * (torch.rand(rows, columns, generator=generator) < share)
    if share:
        weight[0, 0] = torch.nan
    blob = packer.pack(name, weight, 128)
    assert blob.data_ptr() % 64 == 0
    back = torch.full((rows, columns), 7.0)
    unpack = packer.library[f"sc_{name}_unpack"]
    unpack.argtypes = [ctypes.c_void_p] * 2
    unpack(blob.data_ptr(), back.data_ptr())
    assert torch.equal(back.nan_to_num(123.0), (weight + 0.0).nan_to_num(123.0))


def test_default_options_name_this_machine() -> None:
    assert Options().isa == "native"
    assert native_width() in (4, 8, 16)
