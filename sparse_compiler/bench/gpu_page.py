"""The static table of GPU kernels as a page: what was compiled, and what it promises per layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sparse_compiler.codegen.gpu.static import StaticFacts
from sparse_compiler.formats.gpu_arch import Arch

from .gpu_layers import PATTERNS
from .gpu_programs import ProgramKernel
from .gpu_static import ENOUGH, Promise, Variant

ABOUT = """\
Nothing on this page was measured: no GPU was at hand. Every kernel was compiled off-line by triton
{triton} for each architecture, and what the compilers say was read; see [GPU](gpu.md).

Times are rooflines (`sparse_compiler/formats/gpu_roofline.py`): the slowest of matrix units, vector
lanes, first-level caches and memory, each as far as the kernel's occupancy and grid can use it.
They leave out the microseconds that starting a kernel takes, for both sides. **Gain** is the ideal
dense time over ours, where ideal means that cuBLAS reaches the whole fp16 tensor-core peak or the
whole memory bandwidth: no real library does, so the gains are on the low side as far as dense is
concerned, and on the high side as far as our kernels fall short of their own roofs.

**Loads** are instructions by bits for each thread: 128 is `ld.global.v4` (or an asynchronous copy
of 16 bytes). Neighbouring threads of a plane load neighbouring numbers in all of them. Those of one
number are indices and weights, the same for all threads of a program, the gathers of the kernels
for few columns, and the lines of convolutions, which begin at any number and stop at borders.
Kernels that are alike in several dtypes share a row. One for few columns computes rows x 1 numbers,
by so many of a row at a time; the parts of a row that is split along K go through `sum_parts`.
**Matrix instructions**: blocks of 16 and 32 rows use `mma.sync`, also where `wgmma` (sm_90) and
`tcgen05` (sm_100) exist, which need 64 rows; the prediction takes their lower peak. In fp32 without
tf32 NVIDIA's tensor cores do not multiply, so there are none. A reason stands beside every
occupancy below one half.
"""


@dataclass
class ArchResult:
    """What was found for one architecture; promises by model; kernels of programs with the dtype
    of their products."""

    arch: Arch
    variants: list[Variant]
    promises: dict[str, list[Promise]] = field(default_factory=dict)
    programs: list[tuple[str, ProgramKernel]] = field(default_factory=list)


def page(results: Sequence[ArchResult], command: str, commit: str, triton: str) -> str:
    """The whole page in markdown."""
    lines = ["# GPU kernels, statically", ""]
    lines += [f"Written by `{command}` at commit {commit}; do not edit by hand.", ""]
    lines += [ABOUT.format(triton=triton), *_figures(results), "## Kernels", "", *_verdict(results)]
    lines += _kernels(results)
    lines += _programs(results)
    for model in results[0].promises:
        lines += [f"## {model}", "", *_totals(results, model)]
        for result in results:
            lines += [f"### {model} on {result.arch.label}", ""]
            lines += _layers(result.promises[model])
    return "\n".join(lines).rstrip() + "\n"


def _figures(results: Sequence[ArchResult]) -> Iterator[str]:
    yield "## Architectures"
    yield ""
    yield "| | GPU | units | fp16 tensor | tf32 | fp32 | memory | figures from |"
    yield "| --- | --- | --: | --: | --: | --: | --: | --- |"
    for arch in (result.arch for result in results):
        peaks = (f"{peak / 1e12:.0f} TFLOP/s" for peak in (arch.tensor, arch.tf32, arch.fp32))
        memory = f"{arch.memory / 1e12:.2f} TB/s"
        row = (arch.label, arch.model, str(arch.units), *peaks, memory, arch.source)
        yield f"| {' | '.join(row)} |"
    yield ""
    yield "Tensor figures are without sparsity."
    yield ""


def _verdict(results: Sequence[ArchResult]) -> Iterator[str]:
    found = [v for result in results for v in result.variants if v.facts is not None]
    spilled = [v for v in found if v.facts and v.facts.spill_bytes]
    low = [v for v in found if v.facts and v.facts.occupancy.share < ENOUGH]
    yield (
        f"{len(found)} kernels; {len(spilled)} spill registers; {len(low)} have an occupancy "
        f"below {ENOUGH:.0%}, with the reason beside it."
    )
    yield ""


def _kernels(results: Sequence[ArchResult]) -> Iterator[str]:
    """A row for each kernel and tile; what differs between architectures in their order."""
    yield "Of the architectures in this order: " + ", ".join(r.arch.label for r in results) + "."
    yield ""
    yield (
        "| format | kernel | dtype | rows x columns | warps | registers | spills | shared "
        "| occupancy | loads | matrix instructions |"
    )
    yield "| --- | --- | --- | --- | --: | --- | --- | --- | --- | --- | --- |"
    rows: dict[tuple[str, ...], list[str]] = {}
    for same in zip(*(result.variants for result in results), strict=True):
        first = same[0]
        head = (first.format, _name(first), _size(first), str(first.tile.warps))
        told = [_once(cells) for cells in zip(*map(_told, same), strict=True)]
        rows.setdefault((*head, *told), []).append(first.dtype)
    for (format_, name, *rest), dtypes in rows.items():
        yield f"| {' | '.join((format_, name, ', '.join(dtypes), *rest))} |"
    yield ""


def _told(v: Variant) -> tuple[str, ...]:
    return (v.refused, *[""] * 5) if v.facts is None else (*_used(v), *_moved(v.facts))


def _once(cells: Sequence[str]) -> str:
    """What all architectures agree in, or all of it."""
    return cells[0] if len(set(cells)) == 1 else " / ".join(cells)


def _used(v: Variant) -> tuple[str, ...]:
    """Registers, spills, shared memory and occupancy."""
    if v.facts is None:
        return ()
    facts = v.facts
    return str(facts.registers), str(facts.spill_bytes), str(facts.shared_bytes), _occupancy(v)


def _moved(facts: StaticFacts) -> tuple[str, str]:
    """Loads and matrix instructions."""
    loads = ", ".join(f"{count} of {bits}" for bits, count in reversed(facts.loads))
    dots = ", ".join(f"{count} {name}" for name, count in facts.dots)
    return f"{loads} bits", dots or "none"


def _size(v: Variant) -> str:
    if not v.family.kind.few:
        return f"{v.tile.rows} x {v.tile.columns}"
    split = f", {v.tile.parts} parts" if v.tile.parts > 1 else ""
    return f"{v.tile.rows} x 1 by {v.tile.depth}{split}"


def _programs(results: Sequence[ArchResult]) -> Iterator[str]:
    """A row for each kernel of a program on each architecture."""
    if not any(result.programs for result in results):
        return
    yield "## Programs"
    yield ""
    yield "Every kernel of two small models, pruned to 90 % at random, in csr, as segments print"
    yield "them: layers with their epilogues, sweeps, norms, pools. Attention is torch's."
    yield ""
    yield "| program | kernel | dtype | warps | registers | spills | shared | occupancy | loads |"
    yield "| --- | --- | --- | --: | --- | --- | --- | --- | --- |"
    rows: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for result in results:
        for dtype, k in result.programs:
            f = k.facts
            limit = f": {f.occupancy.limit}" if f.occupancy.share < ENOUGH else ""
            head = (k.program, f"{k.name} for {k.computes}", dtype, str(k.warps))
            sizes = (str(n) for n in (f.registers, f.spill_bytes, f.shared_bytes))
            told = (*sizes, f"{f.occupancy.share:.0%}{limit}", _moved(f)[0])
            rows.setdefault(head, []).append(told)
    for names, found in rows.items():
        cells = [_once(some) for some in zip(*found, strict=True)]
        yield f"| {' | '.join((*names, *cells))} |"
    yield ""


def _name(variant: Variant) -> str:
    if variant.family.window is None:
        return variant.family.function
    side, stride = variant.family.window
    return f"{variant.family.function} {side}x{side} s{stride}"


def _occupancy(variant: Variant) -> str:
    facts = variant.facts
    if facts is None:
        return ""
    share = f"{facts.occupancy.share:.0%}"
    if facts.occupancy.share >= ENOUGH:
        return share
    per = {
        "registers": f"{facts.registers} registers for each of {facts.threads} threads, for "
        f"{variant.tile.rows} x {variant.tile.columns} sums and the addresses of their loads",
        "shared memory": f"{facts.shared_bytes} bytes a block, for {variant.tile.stages} stages",
        "blocks": f"{variant.tile.warps} warps a block, and no more blocks fit",
        "warps": "blocks do not divide the warps",
    }
    return f"{share}: {per[facts.occupancy.limit]}"


def _totals(results: Sequence[ArchResult], model: str) -> Iterator[str]:
    """Ideal dense time over that of the choice, all layers together."""
    some = results[0].promises[model]
    columns = list(dict.fromkeys((p.pattern, p.sparsity) for p in some))
    batches = sorted({p.n // p.layer.columns for p in some})
    yield "All layers together: ideal dense time over the time of what is chosen."
    yield ""
    yield "| | batch | " + " | ".join(f"{p} {s:.0%}" for p, s in columns) + " |"
    yield "| --- | --: |" + " --: |" * len(columns)
    for result in results:
        for batch in batches:
            cells = [f"{_total(result.promises[model], batch, *key):.2f}" for key in columns]
            yield f"| {result.arch.label} | {batch} | {' | '.join(cells)} |"
    yield ""


def _total(promises: Sequence[Promise], batch: int, pattern: str, sparsity: float) -> float:
    dense = ours = 0.0
    for p in promises:
        if (p.n, p.pattern, p.sparsity) == (batch * p.layer.columns, pattern, sparsity):
            dense += p.layer.count * p.dense_ns
            ours += p.layer.count * (p.dense_ns if p.choice == "dense" else p.best_ns)
    return dense / ours


def _layers(promises: Sequence[Promise]) -> Iterator[str]:
    """A row for each layer and number of columns: the fastest sparse format and its gain."""
    sparsities = sorted({p.sparsity for p in promises})
    heads = [f"{pattern} {s:.0%}" for pattern in PATTERNS for s in sparsities]
    yield "The fastest sparse format, its gain over ideal dense, **bold** where it is chosen; what"
    yield "bounds it; bytes of memory and operations of lanes and matrix units for each output."
    yield ""
    yield "| layer | times | columns | dense µs | " + " | ".join(heads) + " |"
    yield "| --- | --: | --: | --: |" + " --: |" * len(heads)
    rows: dict[tuple[str, int], list[Promise]] = {}
    for p in promises:
        rows.setdefault((p.layer.name, p.n), []).append(p)
    for (name, n), found in rows.items():
        cells = [_cell(p) for p in found]
        first = found[0]
        head = f"| {name} | {first.layer.count} | {n} | {first.dense_ns / 1e3:.2f} | "
        yield head + " | ".join(cells) + " |"
    yield ""


def _cell(promise: Promise) -> str:
    text = f"{promise.best} {promise.gain:.2f}"
    text = text if promise.choice == "dense" else f"**{text}**"
    return f"{text} {promise.bound}, {promise.bytes:.3g} B, {promise.flops:.3g} F"
