"""What the analyser reads of a compiled kernel, and what it says of one that cannot be compiled."""

import sys

import pytest

from sparse_compiler.codegen.gpu.static import SharedMemoryError, compile_kernel, require_triton
from sparse_compiler.errors import CodegenError, OptionError
from sparse_compiler.formats.gpu_arch import A100, ARCHES, B200, H100, MI300X, find_arch
from tests.gpu.small_kernels import small_kernel

DOTS = {A100: "mma.sync", H100: "wgmma.mma_async", B200: "tcgen05.mma", MI300X: "v_mfma"}


def test_a_row_kernel_loads_wide_and_does_not_spill() -> None:
    facts = compile_kernel(small_kernel("row", wide=1024), H100).facts
    assert (facts.spill_bytes, facts.dots, facts.threads) == (0, (), 128)
    assert facts.widest == 128 and facts.wide_share > 0.5
    assert facts.occupancy.share == 1.0 and facts.registers <= 40


@pytest.mark.system
@pytest.mark.parametrize("arch", list(DOTS), ids=lambda arch: arch.label)
def test_a_dot_becomes_the_matrix_instruction_of_each_architecture(arch) -> None:
    facts = compile_kernel(small_kernel("blocks"), arch).facts
    assert [name for name, _ in facts.dots] == [DOTS[arch]]
    assert facts.spill_bytes == 0 and 0 < facts.shared_bytes <= arch.shared_block
    assert facts.widest == 128


@pytest.mark.system
@pytest.mark.parametrize("arch", list(ARCHES.values()), ids=lambda arch: arch.label)
def test_sums_on_lanes_have_no_matrix_instruction(arch) -> None:
    assert compile_kernel(small_kernel("row"), arch).facts.dots == ()


@pytest.mark.system
def test_a_kernel_that_spills_is_seen_to() -> None:
    facts = compile_kernel(small_kernel("blocks", registers=32), A100).facts
    assert facts.spill_bytes > 0 and facts.registers <= 32


@pytest.mark.system
def test_loads_of_addresses_that_nothing_is_known_of_are_narrow() -> None:
    facts = compile_kernel(small_kernel("row", wide=1024, aligned=False), H100).facts
    assert facts.widest == 16 or facts.wide_share == 0.0


@pytest.mark.system
def test_a_block_too_large_for_shared_memory_names_both_sizes() -> None:
    large = small_kernel("blocks", "fp32", wide=64, side=128, warps=8, stages=6)
    with pytest.raises(SharedMemoryError, match="sm_80 gives a block 166912") as caught:
        compile_kernel(large, A100)
    assert caught.value.needed > A100.shared_block


@pytest.mark.system
def test_what_triton_refuses_is_a_clear_error(capfd) -> None:
    with pytest.raises(CodegenError, match="cannot compile _blocks for sm_90"):
        compile_kernel(small_kernel("blocks", registers=32), H100)
    assert ".visible .entry" not in capfd.readouterr().out, "triton printed the assembly"


@pytest.mark.parametrize("target", ["cuda:77", "sm_12", "gfx90x", "hip:gfx1", "tpu", "cuda:"])
def test_an_unknown_architecture_is_named_with_those_that_are_known(target) -> None:
    with pytest.raises(OptionError, match="cuda:90") as caught:
        find_arch(target)
    assert repr(target) in str(caught.value)


def test_without_triton_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(OptionError, match=r"sparse-compiler\[gpu\]"):
        require_triton()
