"""The cost model of GPUs: occupancy by hand, roofs, and what is chosen where."""

import math

import pytest

from sparse_compiler.bench.gpu_layers import bert_layers, pruned_facts, resnet50_layers
from sparse_compiler.codegen.gpu.layer_kernels import FAMILIES, ranked
from sparse_compiler.formats.base import FORMATS, candidates
from sparse_compiler.formats.cost import ConvShape, LinearShape
from sparse_compiler.formats.gpu_arch import A100, ARCHES, H100, MI300X, arch_of_device
from sparse_compiler.formats.gpu_cost import (
    WITH_KERNELS,
    Tile,
    csr_work,
    dense_ns,
    gpu_machine,
    occupancy,
    predict,
)

CSR = FORMATS["csr"]


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
        times = [machine.format_ns(CSR, shape, 1) for shape in shapes]
        assert times == sorted(times, reverse=True) and all(map(math.isfinite, times))


def test_less_occupancy_never_helps() -> None:
    tile, shape = Tile(1, 512), LinearShape(3072, 768, 240_000, 4096)
    work = csr_work(CSR, shape, "fp16", tile)
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


def test_formats_without_a_kernel_take_for_ever() -> None:
    machine, linear = gpu_machine("cuda", "fp16"), LinearShape(64, 576, 5760, 784, 5760)
    window = ConvShape(64, 576, 5760, 784, 9, stored=5760)
    times = {
        (name, shape): machine.format_ns(FORMATS[name], shape, 1)
        for name in ("csr", "sorted_4x1", "block_32x32", "block_4x4", "bitmap")
        for shape in (linear, window)
    }
    finite = {key for key, time in times.items() if math.isfinite(time)}
    assert finite == {("csr", linear), ("csr", window), ("block_32x32", linear)}


def test_formats_that_are_chosen_have_kernels() -> None:
    assert {family.format for family in FAMILIES} | {"dense"} == set(WITH_KERNELS)


def test_tiles_are_tried_in_the_order_of_the_model() -> None:
    for n, first in ((1, "decode"), (4096, "linear")):
        shape = LinearShape(3072, 768, 240_000, n, 240_000)
        found = ranked("csr", shape, None, "fp16", H100)
        assert [ns for ns, *_ in found] == sorted(ns for ns, *_ in found)
        assert found[0][1].function == f"csr_{first}"
        assert all(family.window is None for _, family, _ in found)
    assert {f.function for _, f, _ in ranked("csr", shape, (3, 2), "fp16", H100)} == {"csr_conv"}
    assert ranked("csr", shape, (5, 1), "fp16", H100) == []
