"""`gpu.py --check`: what can be validated of the benchmark on a machine without a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from gpu_cases import DTYPES, TOLERANCES, Case, all_cases, build, small_cases
from gpu_engines import relative_error
from rich.console import Console
from torch import nn

from sparse_compiler.bench.engines.torch_sparse import compress
from sparse_compiler.bench.gpu_layers import pruned_facts
from sparse_compiler.bench.layers import parse_layer
from sparse_compiler.codegen.gpu.layer_kernels import Family, kernel
from sparse_compiler.codegen.gpu.semi_structured import pack
from sparse_compiler.codegen.gpu.static import compile_kernel
from sparse_compiler.formats.base import FORMATS
from sparse_compiler.formats.cost import ConvShape, LinearShape, Shape
from sparse_compiler.formats.gpu_arch import Arch
from sparse_compiler.formats.gpu_cost import GpuMachine
from sparse_compiler.formats.gpu_kernels import form_of, ranked
from sparse_compiler.formats.semi_structured import library_for, limit

_FORMATS = {"unstructured": "csr", "16x16": "block_16x16", "32x32": "block_32x32", "2:4": "nm_2_4"}
_COMPUTED = {"fp32": "tf32"}
"""What fp32 is multiplied as where a kernel has dots."""


@torch.no_grad()
def check(arch: Arch, dtype: str, console: Console) -> list[str]:
    """Small cases by torch's sparse engines on the CPU; the kernel of every case compiled for
    `arch`. Returns what is wrong."""
    wrong = []
    for case in small_cases(dtype):
        found = list(_small(case, arch))
        console.print(f"{case.title}: {'; '.join(found) or 'right'}")
        wrong += [f"{case.title}: {text}" for text in found]
    kernels: dict[str, int] = {}
    for case in all_cases(dtype):
        if parse_layer(case.name) is None:
            continue
        text = _compiled(case, arch)
        kernels[text] = kernels.get(text, 0) + 1
        if "WRONG" in text:
            wrong.append(f"{case.title}: {text}")
    for text, count in sorted(kernels.items()):
        console.print(f"{count:4} cases for {arch.label}: {text}")
    return wrong


def _small(case: Case, arch: Arch) -> Iterator[str]:
    """What is wrong with the zeros, or with what torch's sparse tensors make of them."""
    module, inputs = build(case, "cpu")
    weight = next(p for p in module.parameters() if p.ndim >= 2)
    share = 1 - float((weight != 0).float().mean())
    if abs(share - case.sparsity) > 0.15:
        yield f"{share:.0%} of the weight are zero"
    wanted = module(*inputs)
    if case.block and weight.ndim == 2:
        other = nn.Sequential(build(case, "cpu")[0])
        compress(other, (case.block, case.block))
        error = relative_error(other(*inputs), wanted)
        if error > TOLERANCES["fp32"]:
            yield f"BSR is off by {error:.1e}"
    if case.pattern == "2:4" and limit(*weight.shape, case.dtype, arch) is None:
        half = weight.to(DTYPES[case.dtype])
        if not torch.equal(pack(half, arch).to_dense(), half):
            yield "2:4 packing loses numbers"


def _shape(case: Case) -> tuple[Shape, tuple[int, int] | None]:
    """The layer as costs see it, and its window as kernels do."""
    layer = parse_layer(case.name)
    if layer is None:
        raise ValueError(case.name)
    if not layer.is_convolution:
        facts = pruned_facts(layer.out, layer.into, case.sparsity, _pattern(case))
        return LinearShape(layer.out, layer.into, facts.nnz, case.tokens or 1, facts.nnz), None
    depth, side = layer.into * layer.kernel**2, layer.kernel
    facts = pruned_facts(layer.out, depth, case.sparsity, _pattern(case))
    n = case.batch * (layer.size // layer.stride) ** 2
    shape = ConvShape(layer.out, depth, facts.nnz, n, side**2, stored=facts.nnz)
    return shape, None if side == 1 else (side, layer.stride)


def _pattern(case: Case) -> str:
    return case.pattern if case.block else "unstructured"


def _compiled(case: Case, arch: Arch) -> str:
    """Which kernel the case has, that it compiles without spilling, or what runs it instead."""
    shape, window = _shape(case)
    name = _FORMATS[case.pattern]
    machine = GpuMachine(arch=arch, dtype=case.dtype)
    if name == "nm_2_4" and machine.limit(FORMATS[name], shape) is None:
        library = library_for(arch)
        return f"2:4 by {library.name if library else 'torch'}"
    dtype = _COMPUTED.get(case.dtype, case.dtype) if case.block else case.dtype
    stored = form_of(FORMATS[name], shape)
    best = ranked(stored, shape, dtype, arch)[0]
    family, tile = Family(name, best.kind, stored, window), best.tile
    facts = compile_kernel(kernel(family, dtype, tile), arch).facts
    spilled = f", WRONG: spills {facts.spill_bytes} bytes" if facts.spill_bytes else ""
    return f"{family.function} for {family.format}, {facts.registers} registers{spilled}"
