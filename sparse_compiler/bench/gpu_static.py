"""`sparse-compiler bench --static`: every GPU kernel compiled off-line, and what it promises.

Kernels are compiled once for each format, dtype and architecture, and read (`codegen/gpu/static`);
layers of BERT-base and ResNet-50 are then predicted from what was read, by `formats/gpu_cost`.
Facts are kept in the cache folder under the kernel's own hash: an interrupted run goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sparse_compiler.analysis.sparsity import SparsityFacts
from sparse_compiler.codegen.gpu.layer_kernels import Family
from sparse_compiler.codegen.gpu.static import (
    Kernel,
    SharedMemoryError,
    StaticFacts,
    compile_kernel,
    require_triton,
)
from sparse_compiler.files import replacing
from sparse_compiler.formats.base import FORMATS, candidates
from sparse_compiler.formats.cost import Shape
from sparse_compiler.formats.gpu_arch import Arch
from sparse_compiler.formats.gpu_kernels import FEW, SUM
from sparse_compiler.formats.gpu_roofline import (
    Occupancy,
    Tile,
    dense_ns,
    predict,
    value_bytes,
)

from .gpu_layers import PATTERNS, GpuLayer, pruned_facts

MIN_GAIN = 1.05
ENOUGH = 0.5
"""Occupancy below which the table states a reason."""


@dataclass(frozen=True)
class Variant:
    """One kernel of a format in one dtype, as compiled for one architecture: the tile that a
    program computes, and what was read; None with the reason where it cannot be compiled."""

    family: Family
    dtype: str
    tile: Tile
    facts: StaticFacts | None
    refused: str = ""

    @property
    def format(self) -> str:
        """The format that it reads."""
        return self.family.format

    @property
    def compiled_tile(self) -> Tile:
        """The tile with what its kernel really uses."""
        if self.facts is None:
            return self.tile
        return replace(
            self.tile,
            registers=self.facts.registers,
            shared=self.facts.shared_bytes,
        )


Offer = tuple[Family, str, Tile, Kernel]
"""What `codegen/gpu/layer_kernels.offers` gives."""


@dataclass(frozen=True)
class Promise:
    """What a layer is predicted to take. choice: the format that runs it, dense where none gains;
    best: the fastest sparse one, with its time and what bounds it, and for each output the bytes
    from and to memory and the operations of lanes and matrix units."""

    layer: GpuLayer
    n: int
    pattern: str
    sparsity: float
    dtype: str
    arch: str
    dense_ns: float
    best: str
    best_ns: float
    bound: str
    choice: str
    bytes: float = 0.0
    flops: float = 0.0

    @property
    def gain(self) -> float:
        """Ideal dense time over the sparse one's: below 1 where dense is faster."""
        return self.dense_ns / self.best_ns


def facts_of(kernel: Kernel, arch: Arch, folder: Path) -> StaticFacts:
    """What a kernel is on an architecture, from the folder where it was asked before."""
    key = hashlib.sha256(
        repr(
            (
                require_triton().__version__,
                arch,
                kernel.function.fn.__code__.co_code,
                kernel.function.src,
                *(kernel.types, kernel.constants, kernel.aligned, kernel.warps, kernel.stages),
            )
        ).encode()
    ).hexdigest()
    kept = folder / f"{key[:32]}.json"
    if kept.exists():
        return _read(json.loads(kept.read_text()))
    facts = compile_kernel(kernel, arch).facts
    with replacing(kept) as file:
        file.write_text(json.dumps(asdict(facts)))
    return facts


def _read(stored: Mapping[str, Any]) -> StaticFacts:
    pairs = {name: tuple((a, b) for a, b in stored[name]) for name in ("loads", "stores", "dots")}
    return StaticFacts(**{**stored, **pairs, "occupancy": Occupancy(**stored["occupancy"])})


def variants(offers: Iterable[Offer], arch: Arch, folder: Path) -> Iterator[Variant]:
    """Every kernel offered, compiled for an architecture, in order."""
    for family, dtype, tile, kernel in offers:
        try:
            yield Variant(family, dtype, tile, facts_of(kernel, arch, folder))
        except SharedMemoryError as error:
            yield Variant(family, dtype, tile, None, error.why)


def promises(
    layers: Sequence[GpuLayer],
    batches: Sequence[int],
    sparsities: Sequence[float],
    dtype: str,
    arch: Arch,
    found: Sequence[Variant],
) -> Iterator[Promise]:
    """Each layer at each batch, sparsity and pattern, by the best of the kernels found."""
    for layer in layers:
        for batch in batches:
            for pattern in PATTERNS:
                for sparsity in sparsities:
                    facts = pruned_facts(layer.rows, layer.depth, sparsity, pattern)
                    yield _promise(layer, batch, pattern, sparsity, dtype, arch, facts, found)


def _promise(
    layer: GpuLayer,
    batch: int,
    pattern: str,
    sparsity: float,
    dtype: str,
    arch: Arch,
    facts: SparsityFacts,
    found: Sequence[Variant],
) -> Promise:
    plain = layer.shape(batch, facts.nnz)
    dense = dense_ns(plain, "fp16", arch)
    fitting = set(candidates(facts)) - {"dense"}
    times = [
        (_time(layer.shape(batch, facts.nnz, stored), v, arch), v.format)
        for v in found
        if v.dtype == dtype and _runs(v, layer, plain.n) and v.format in fitting
        for stored in (FORMATS[v.format].stored(facts),)
    ]
    (best_ns, bound, moved, flops), best = min((time, name) for time, name in times)
    choice = best if best_ns * MIN_GAIN < dense else "dense"
    return Promise(
        *(layer, plain.n, pattern, sparsity, dtype, arch.name, dense, best, best_ns, bound),
        *(choice, moved, flops),
    )


def _runs(variant: Variant, layer: GpuLayer, n: int) -> bool:
    family = variant.family
    few = n <= FEW or not family.kind.few
    compiled = variant.facts is not None and family.kind is not SUM
    return compiled and family.window == layer.window and few


def _time(shape: Shape, variant: Variant, arch: Arch) -> tuple[float, str, float, float]:
    """Nanoseconds, the bound, and for each output bytes of memory and operations."""
    tile = variant.compiled_tile
    share = None if variant.facts is None else variant.facts.occupancy.share
    family, size = variant.family, value_bytes(variant.dtype)
    work = family.kind.work(family.stored, shape, size, tile)
    found = predict(work, tile, arch, variant.dtype, share)
    outputs = shape.rows * shape.n
    return found.ns, found.bound, work.memory / outputs, (work.dots + work.sums) / outputs
