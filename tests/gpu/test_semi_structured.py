"""2:4 weights: packed losslessly on the CPU, refused by the limit that they break."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_compiler.codegen.gpu.semi_structured import pack
from sparse_compiler.errors import UnsupportedError
from sparse_compiler.formats.base import FORMATS
from sparse_compiler.formats.cost import ConvShape, LinearShape
from sparse_compiler.formats.gpu_arch import A100, ARCHES, H100, MI300X
from sparse_compiler.formats.gpu_cost import gpu_machine
from sparse_compiler.formats.gpu_roofline import dense_ns
from sparse_compiler.formats.semi_structured import limit


def two_of_four(
    rows: int, columns: int, dtype: torch.dtype, seed: int, kept: float = 0.8
) -> torch.Tensor:
    """At most two of each four, of which a share of `kept`."""
    generator = torch.Generator().manual_seed(seed)
    fours = torch.randn(rows, columns // 4, 4, generator=generator)
    order = torch.rand(fours.shape, generator=generator).argsort(-1)
    fours = torch.where(order < 2, fours, 0.0)
    fours *= torch.rand(fours.shape, generator=generator) < kept
    return fours.view(rows, columns).to(dtype)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([torch.float16, torch.bfloat16]),
    st.integers(0, 999),
)
def test_packing_loses_nothing(high, wide, dtype, seed) -> None:
    weight = two_of_four(32 * high, 64 * wide, dtype, seed)
    packed = pack(weight, A100)
    assert packed.values.shape == (32 * high, 32 * wide) and packed.meta is not None
    assert torch.equal(packed.to_dense(), weight)


def test_cusparselt_packs_on_the_device() -> None:
    weight = two_of_four(16, 48, torch.float16, 0)
    packed = pack(weight, H100)
    assert packed.meta is None and torch.equal(packed.to_dense(), weight)


@pytest.mark.parametrize(
    ("rows", "columns", "dtype", "arch", "why"),
    [
        (24, 64, "fp16", A100, "CUTLASS on sm_80 takes multiples of 32 rows, not 24"),
        (32, 48, "bf16", A100, "multiples of 64 columns, not 48"),
        (24, 64, "fp16", H100, "cuSPARSELt on sm_90 takes multiples of 16 rows, not 24"),
        (32, 64, "fp32", H100, "not fp32"),
        (32, 64, "tf32", A100, "not tf32"),
        (32, 64, "fp16", MI300X, "no 2:4 kernel for gfx942"),
    ],
)
def test_a_refusal_names_its_limit(rows, columns, dtype, arch, why) -> None:
    refused = limit(rows, columns, dtype, arch)
    assert refused is not None and refused.code == "semi_structured" and why in refused.why


def test_what_is_within_the_limits_is_not_refused() -> None:
    assert all(limit(96, 128, "fp16", arch) is None for arch in ARCHES.values() if arch != MI300X)
    assert limit(32, 64, "fp16", A100, convolution=True) is not None


def test_what_is_not_2_of_4_is_not_packed() -> None:
    weight = two_of_four(32, 64, torch.float16, 0)
    weight[3, 8:11] = 1.0
    with pytest.raises(UnsupportedError, match="hold 3"):
        pack(weight, A100)
    with pytest.raises(UnsupportedError, match="rows, not 20"):
        pack(torch.zeros(20, 64, dtype=torch.float16), A100)


def test_the_cost_model_takes_them_within_the_limits_and_says_where_not() -> None:
    machine, found = gpu_machine("cuda:90", "fp16"), FORMATS["nm_2_4"]
    large = LinearShape(4096, 4096, 8 << 20, 4096, 8 << 20)
    assert machine.limit(found, large) is None
    assert machine.format_ns(found, large, 1) == pytest.approx(dense_ns(large, "fp16", H100) / 2)
    odd = LinearShape(4100, 4096, 8 << 20, 4096, 8 << 20)
    assert "multiples of 16 rows" in str(machine.limit(found, odd))
    assert machine.format_ns(found, odd, 1) > dense_ns(odd, "fp16", H100)
    conv = ConvShape(64, 576, 64 * 288, 3136, 9, stored=64 * 288)
    assert "no convolutions" in str(machine.limit(found, conv))
    assert machine.limit(FORMATS["csr"], odd) is None
