"""`bench --static` with small kernels: compiled once, predicted, written as a page; honest."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

import sparse_compiler as sc
from sparse_compiler.bench import gpu_command, gpu_static
from sparse_compiler.bench.gpu_command import StaticRequest, execute_static
from sparse_compiler.bench.gpu_layers import bert_layers
from sparse_compiler.bench.gpu_page import ArchResult, page
from sparse_compiler.bench.gpu_static import Promise, Variant, promises, variants
from sparse_compiler.codegen.gpu.layer_kernels import Family
from sparse_compiler.errors import OptionError
from sparse_compiler.formats.gpu_arch import A100, H100, Arch
from sparse_compiler.formats.gpu_kernels import CSR, DOTS, Stored
from sparse_compiler.formats.gpu_roofline import Tile
from tests.gpu.small_kernels import small_kernel

pytestmark = pytest.mark.system
OFFERS = (
    (Family("csr", CSR, Stored("csr")), "fp16", Tile(1, 512), small_kernel("row", wide=512)),
    (
        *(Family("block_32x32", DOTS, Stored("blocks", 32, 32)), "fp16", Tile(32, 64, depth=32)),
        small_kernel("blocks", wide=64, side=32),
    ),
)


def found(arch: Arch, folder: Path) -> list[Variant]:
    return list(variants(OFFERS, arch, folder))


def predicted(arch: Arch, some: list[Variant]) -> list[Promise]:
    return list(promises(bert_layers(128), (1, 32), (0.8, 0.95), "fp16", arch, some))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> ArchResult:
    some = found(H100, tmp_path_factory.mktemp("facts"))
    return ArchResult(H100, some, {"bert": predicted(H100, some)})


def test_the_page_has_every_kernel_layer_and_figure(result: ArchResult) -> None:
    text = page([result], "the command", "abc123", "3.7.1")
    assert "Written by `the command` at commit abc123" in text
    assert "2 kernels; 0 spill registers" in text and " mma.sync |" in text
    assert all(layer.name in text for layer in bert_layers(128))
    assert "NVIDIA H100" in text and "989 TFLOP/s" in text
    for variant in result.variants:
        assert (
            f"| {variant.format} | {variant.family.function} | fp16 |" in text
            and variant.facts is not None
        )
        assert f"| {variant.facts.registers} | 0 | {variant.facts.shared_bytes} |" in text


def test_a_low_occupancy_has_its_reason(result: ArchResult) -> None:
    (blocks,) = [v for v in result.variants if v.format == "block_32x32" and v.facts]
    low = replace(blocks.facts, occupancy=replace(blocks.facts.occupancy, share=0.25))
    for limit, said in (("registers", "registers for each of 128"), ("shared memory", "stages")):
        facts = replace(low, occupancy=replace(low.occupancy, limit=limit))
        text = page([ArchResult(H100, [replace(blocks, facts=facts)])], "c", "a", "t")
        assert "| 25%: " in text and said in text and "1 have an occupancy below 50%" in text


def test_a_spill_is_counted(result: ArchResult) -> None:
    spilled = [
        replace(v, facts=replace(v.facts, spill_bytes=8)) for v in result.variants if v.facts
    ]
    assert "2 spill registers" in page([ArchResult(H100, spilled)], "c", "a", "t")


def test_scattered_zeros_are_left_dense_in_large_batches_and_said_so(result: ArchResult) -> None:
    some = result.promises["bert"]
    scattered = [p for p in some if p.pattern == "unstructured" and p.n == 4096]
    assert scattered and all(p.gain < 1 and p.choice == "dense" for p in scattered)
    blocks = [p for p in some if p.pattern == "32x32" and p.n == 4096 and p.sparsity == 0.95]
    assert blocks and all(p.gain > 1 and p.choice == "block_32x32" for p in blocks)
    text = page([result], "c", "a", "t")
    first = scattered[0]
    assert f"| csr {first.gain:.2f} {first.bound}, " in text
    assert f"**block_32x32 {blocks[0].gain:.2f}** " in text


def test_gains_are_over_fp16_whatever_ours_computes_in(result: ArchResult) -> None:
    slow = [replace(v, dtype="fp32") for v in result.variants]
    (fp32, *_), (fp16, *_) = (
        list(promises(bert_layers(128), (32,), (0.8,), dtype, H100, v))
        for dtype, v in (("fp32", slow), ("fp16", result.variants))
    )
    assert fp32.dense_ns == fp16.dense_ns and fp32.best_ns > fp16.best_ns


def test_what_was_read_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = found(A100, tmp_path)
    monkeypatch.setattr(gpu_static, "compile_kernel", None)
    assert found(A100, tmp_path) == first
    with pytest.raises(TypeError):
        found(H100, tmp_path)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StaticRequest:
    """The command on the small kernels, with a cache of its own."""
    monkeypatch.setattr(gpu_command, "offers", lambda dtypes: iter(OFFERS))
    monkeypatch.setattr(gpu_command, "program_kernels", lambda arch, dtype, folder: iter(()))
    monkeypatch.setenv("SPARSE_COMPILER_CACHE", str(tmp_path / "cache"))
    return StaticRequest(("bert",), "0.9", "1", "cuda:90", tmp_path / "all.json", tmp_path / "docs")


def test_the_command_writes_the_page_and_all_figures(few: StaticRequest) -> None:
    assert execute_static(few, Console(quiet=True)) == 0
    assert few.write is not None and few.json is not None
    assert "### bert on sm_90" in (few.write / "gpu_static.md").read_text()
    (found,) = json.loads(few.json.read_text())
    assert found["arch"]["name"] == "cuda:90" and len(found["variants"]) == 2
    assert len(found["promises"]["bert"]) == 3 * 3  # layers, patterns


def test_the_command_fails_where_a_kernel_spills(few, monkeypatch) -> None:
    def spill(*arguments):
        return [replace(v, facts=replace(v.facts, spill_bytes=4)) for v in found_before]

    found_before = list(variants(OFFERS, H100, few.json.parent / "facts"))
    monkeypatch.setattr(gpu_command, "variants", spill)
    assert execute_static(few, Console(quiet=True)) == 1


@pytest.mark.parametrize(
    "bad", [{"arches": "cuda:11"}, {"models": ("gpt9",)}, {"sparsity": "most"}, {"batch": "0"}]
)
def test_the_command_refuses_what_it_does_not_know(few: StaticRequest, bad) -> None:
    with pytest.raises(OptionError):
        execute_static(replace(few, **bad), Console(quiet=True))


def test_without_triton_the_command_and_the_export_name_the_extra(few, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(OptionError, match=r"sparse-compiler\[gpu\]"):
        execute_static(few, Console(quiet=True))
    small = nn.Linear(8, 8).eval().requires_grad_(False)
    path = few.json.parent / "model.scz"
    with pytest.raises(OptionError, match=r"sparse-compiler\[gpu\]"):
        sc.export(small, (torch.ones(2, 8),), path, target="cuda:90")
    sc.export(small, (torch.ones(2, 8),), path)
    assert sc.load(path)(torch.ones(2, 8)).shape == (2, 8)
