"""`bench --static`: the command line becomes kernels, predictions and a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from sparse_compiler.codegen.gpu.layer_kernels import offers
from sparse_compiler.codegen.gpu.static import require_triton
from sparse_compiler.files import replacing
from sparse_compiler.formats.gpu_arch import ARCHES, Arch, find_arch
from sparse_compiler.formats.gpu_roofline import DTYPES
from sparse_compiler.options import Options

from .case import numbers
from .gpu_layers import MODELS, layers_of
from .gpu_page import ArchResult, page
from .gpu_programs import program_kernels
from .gpu_static import Variant, promises, variants
from .machine import git_commit

SPARSITIES = "0.8,0.9,0.95"
PAGE = "gpu_static.md"
PREDICTED = "fp16"
"""What layers are predicted in; kernels are compiled in every dtype."""
OF_PROGRAMS = ("fp16", "fp32")
EXIT_SPILLS = 1


@dataclass(frozen=True)
class StaticRequest:
    """The command line, as typed; see cli.py for what each means."""

    models: tuple[str, ...] = ()
    sparsity: str = ""
    batch: str = "1"
    arches: str = ""
    json: Path | None = None
    write: Path | None = None
    command: str = "sparse-compiler bench --static"


def execute_static(request: StaticRequest, console: Console) -> int:
    """Compiles, predicts, writes; 0, or 1 where a kernel spills. Raises `OptionError`."""
    triton = require_triton().__version__
    named = [find_arch(name) for name in request.arches.split(",") if name]
    layers = {model: layers_of(model) for model in request.models or tuple(MODELS)}
    shares = numbers(request.sparsity or SPARSITIES, float, "--sparsity")
    batches = numbers(request.batch, int, "--batch")
    results = []
    for arch in named or list(ARCHES.values()):
        found = _compiled(arch, console)
        result = ArchResult(arch, found)
        for model, some in layers.items():
            made = promises(some, batches, shares, PREDICTED, arch, found)
            result.promises[model] = list(made)
        result.programs = [
            (dtype, kernel)
            for dtype in OF_PROGRAMS
            for kernel in program_kernels(arch, dtype, _folder())
        ]
        results.append(result)
    _write(request, results, triton, console)
    spilled = any(v.facts and v.facts.spill_bytes for r in results for v in r.variants)
    spilled |= any(k.facts.spill_bytes for r in results for _, k in r.programs)
    return EXIT_SPILLS if spilled else 0


def _name(value: object) -> str:
    """What a kernel's tiles and work are computed by, as JSON has it."""
    return getattr(value, "__name__", str(value))


def _folder() -> Path:
    """Where the figures of kernels are kept."""
    return Options.from_env().cache_dir / "gpu_static"


def _compiled(arch: Arch, console: Console) -> list[Variant]:
    found = []
    for variant in variants(offers(DTYPES), arch, _folder()):
        found.append(variant)
        if variant.facts is not None and variant.facts.spill_bytes:
            size = variant.facts.spill_bytes
            console.print(f"{arch.label}: {variant.format} {variant.dtype} spills {size} bytes")
    console.print(f"{arch.label}: {len(found)} kernels compiled")
    return found


def _write(
    request: StaticRequest, results: Sequence[ArchResult], triton: str, console: Console
) -> None:
    if request.json is not None:
        with replacing(request.json) as file:
            found = [asdict(result) for result in results]
            file.write_text(json.dumps(found, indent=1, default=_name))
        console.print(f"all figures: {request.json}")
    text = page(results, request.command, git_commit(Path(__file__).parent), triton)
    if request.write is not None:
        with replacing(request.write / PAGE) as file:
            file.write_text(text)
        console.print(f"page: {request.write / PAGE}")
    elif request.json is None:
        console.print(text, markup=False, highlight=False)
