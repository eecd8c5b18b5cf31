"""The cost model of GPUs: occupancy by hand, roofs, and what is chosen where."""

import math
from dataclasses import replace

import pytest

from sparse_compiler.bench.gpu_layers import bert_layers, pruned_facts, resnet50_layers
from sparse_compiler.codegen.gpu.layer_kernels import FAMILIES
from sparse_compiler.formats.base import FORMATS, candidates
from sparse_compiler.formats.cost import ConvShape, LinearShape
from sparse_compiler.formats.gpu_arch import A100, ARCHES, H100, MI300X, arch_of_device
from sparse_compiler.formats.gpu_cost import gpu_machine
from sparse_compiler.formats.gpu_kernels import (
    CSR,
    KINDS,
    SUM,
    Stored,
    form_of,
    kinds_of,
    ranked,
)
from sparse_compiler.formats.gpu_roofline import Tile, dense_ns, occupancy, predict

AS_CSR = Stored("csr")


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "share", "limit"),
    [
        (32, 0, 4, 1.0, "warps"),
        (64, 0, 4, 0.5, "registers"),
        (168, 0, 4, 0.1875, "registers"),  # as the CUDA occupancy calculator has it
        (32, 48 * 1024, 4, 0.1875, "shared memory"),
        (32, 0, 1, 0.5, "blocks"),
    ],
)
def test_occupancy_of_an_a100(registers, shared, warps, share, limit) -> None:
    found = occupancy(A100, registers, shared, warps)
    assert (found.share, found.limit) == (share, limit)


def test_occupancy_of_an_mi300x() -> None:
    assert occupancy(MI300X, 128, 0, 4).share == 0.5
    assert occupancy(MI300X, 64, 0, 4).share == 1.0
    assert occupancy(MI300X, 64, 33 * 1024, 4).limit == "shared memory"


def test_the_clocks_are_those_of_the_data_sheets() -> None:
    assert A100.clock == pytest.approx(1.41e9, rel=0.01)
    assert H100.clock == pytest.approx(1.98e9, rel=0.01)
    assert MI300X.clock == pytest.approx(2.1e9, rel=0.01)


def test_a_large_dense_layer_is_bound_by_tensor_cores() -> None:
    shape = LinearShape(4096, 4096, 4096 * 4096, 4096)
    assert dense_ns(shape, "fp16", H100) == pytest.approx(1e9 * 2 * 4096**3 / 989.4e12)
    assert dense_ns(shape, "fp32", H100) > 10 * dense_ns(shape, "fp16", H100)


def test_a_layer_of_one_column_is_bound_by_memory() -> None:
    shape = LinearShape(4096, 4096, 4096 * 4096, 1)
    assert dense_ns(shape, "fp16", H100) == pytest.approx(1e9 * 2 * 4096**2 / 3.35e12, rel=0.01)


@pytest.mark.parametrize("arch", list(ARCHES.values()), ids=lambda arch: arch.label)
@pytest.mark.parametrize("dtype", ["fp32", "tf32", "fp16", "bf16"])
def test_fewer_non_zeros_never_take_longer(arch, dtype) -> None:
    machine = gpu_machine(arch.name, dtype)
    for n in (1, 7, 128, 4096):
        shapes = [LinearShape(768, 3072, nnz, n) for nnz in (240_000, 120_000, 60_000)]
        times = [machine.format_ns(FORMATS["csr"], shape, 1) for shape in shapes]
        assert times == sorted(times, reverse=True) and all(map(math.isfinite, times))


def test_less_occupancy_never_helps() -> None:
    tile, shape = Tile(1, 512), LinearShape(3072, 768, 240_000, 4096)
    work = CSR.work(AS_CSR, shape, 2, tile)
    times = [predict(work, tile, H100, "fp16", share).ns for share in (1.0, 0.5, 0.25, 0.125)]
    assert times == sorted(times) and times[0] < times[-1]


def best(arch: str, n: int, pattern: str, sparsity: float) -> str:
    """The format that the model of a GPU prefers for a 3072x768 linear."""
    facts, machine = pruned_facts(3072, 768, sparsity, pattern), gpu_machine(arch, "fp16")
    times = {
        name: machine.format_ns(
            FORMATS[name], LinearShape(3072, 768, facts.nnz, n, FORMATS[name].stored(facts)), 1
        )
        for name in candidates(facts)
    }
    return min(times, key=lambda name: times[name])


@pytest.mark.parametrize("arch", list(ARCHES))
def test_scattered_zeros_lose_to_tensor_cores_but_not_where_memory_is_the_bound(arch) -> None:
    assert best(arch, 4096, "unstructured", 0.9) == "dense"
    assert best(arch, 1, "unstructured", 0.9) != "dense"
    assert best(arch, 4096, "32x32", 0.95).startswith("block_")


def test_the_layers_are_those_of_the_models() -> None:
    def numbers(layers):
        return sum(layer.rows * layer.depth * layer.count for layer in layers)

    assert numbers(bert_layers(128)) == 12 * 12 * 768**2
    assert numbers(resnet50_layers()) == 25_557_032 - 53_120 - 1_000  # norms and a bias apart


def test_pruned_weights_have_the_share_of_zeros_asked_for() -> None:
    for pattern in ("unstructured", "16x16", "32x32"):
        facts = pruned_facts(768, 3072, 0.9, pattern)
        assert facts.density == pytest.approx(0.1, abs=0.002)
    assert next(f for f in facts.block_fills if f.shape == "32x32").fill == 1.0


def test_a_device_without_figures_takes_the_nearest_older_ones() -> None:
    assert arch_of_device(9, 0) == H100
    small = arch_of_device(8, 9)
    assert (small.name, small.shared_block, small.warps) == ("cuda:89", 99 * 1024, 48)
    assert small.tensor == A100.tensor
    assert arch_of_device(0, 0, "gfx942:sramecc+:xnack-") == MI300X


def test_every_format_has_a_time_and_csr_comes_before_what_is_stored_as_csr() -> None:
    machine = gpu_machine("cuda", "fp16")
    linear = LinearShape(64, 576, 5760, 784, 5760)
    window = ConvShape(64, 576, 5760, 784, 9, stored=5760)
    grouped = ConvShape(64, 144, 1440, 784, 9, groups=4, stored=1440)
    for shape in (linear, window, grouped):
        names = ("csr", "sorted_4x1", "block_32x32", "block_4x4", "bitmap", "nm_2_4")
        times = {name: machine.format_ns(FORMATS[name], shape, 1) for name in names}
        assert all(map(math.isfinite, times.values()))
        assert times["csr"] < times["sorted_4x1"] and times["csr"] < times["bitmap"]


def test_convolutions_in_blocks_are_chosen_where_they_win() -> None:
    machine, numbers = gpu_machine("cuda:90", "fp16"), 256 * 2304 // 20
    window = ConvShape(256, 2304, numbers, 32 * 196, 9, stored=numbers)
    times = {n: machine.format_ns(FORMATS[n], window, 1) for n in ("dense", "csr", "block_32x32")}
    assert times["block_32x32"] < times["dense"] < times["csr"]


def test_every_kind_of_kernel_is_compiled_off_line() -> None:
    printed = {kind for kinds in KINDS.values() for kind in kinds if "DENSE" not in kind.template}
    compiled = {family.kind for family in FAMILIES if family.stored.kind != "dense"}
    assert (
        printed | {SUM} <= compiled and kinds_of(Stored("blocks", 16, 16), few=False)[0] in compiled
    )


@pytest.mark.parametrize("arch", list(ARCHES.values()), ids=lambda arch: arch.label)
def test_tiles_are_tried_in_the_order_of_the_model(arch) -> None:
    for n, few in ((1, True), (4096, False)):
        shape = LinearShape(3072, 768, 240_000, n, 240_000)
        found = ranked(AS_CSR, shape, "fp16", arch)
        assert [c.ns for c in found] == sorted(c.ns for c in found)
        assert found[0].kind.few == few
    window = ConvShape(256, 2304, 59_000, 6272, 9, stored=59_000)
    assert {c.kind for c in ranked(AS_CSR, window, "fp16", arch)} == {CSR}


def test_rows_are_split_along_k_where_there_are_few_of_them() -> None:
    long, square = LinearShape(8, 4_000_000, 4_000_000, 1), LinearShape(3072, 768, 240_000, 1)
    assert ranked(AS_CSR, long, "fp16", H100)[0].tile.parts > 1
    assert ranked(AS_CSR, square, "fp16", H100)[0].tile.parts == 1


def test_rows_that_share_a_panel_wait_less() -> None:
    shape = LinearShape(768, 192, 30_000, 4096)
    alone, shared = Tile(1, 256, 1, 1), Tile(8, 256, 1, 1)
    missed = [CSR.work(AS_CSR, shape, 2, tile).missed for tile in (shared, alone)]
    assert missed[0] < 0.6 and missed[1] == pytest.approx(1)


def test_a_tile_too_large_for_shared_memory_is_not_tried() -> None:
    shape, big = LinearShape(4096, 4096, 1_600_000, 4096), Stored("blocks", 512, 512)
    small = replace(MI300X, shared_block=1024)
    assert form_of(FORMATS["block_32x32"], shape) == Stored("blocks", 32, 32)
    assert ranked(big, shape, "fp32", MI300X) == () == ranked(big, shape, "fp16", small)
