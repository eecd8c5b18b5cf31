"""Time of a layer on a GPU: the slowest of its roofs, each as high as the kernel can hold it.

    time = max(dots / tensor cores, sums / lanes, loads / first caches, bytes / memory,
               steps of a program's loop * latency of one)

A roof is reached as far as enough bytes are on their way at once (Little's law: rate x latency,
from the warps that fit, which is what occupancy is for) and as far as programs fill all units.
Nothing here was fitted to a GPU: every figure is the vendor's, see `gpu_arch.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ..ir.refusal import No
from .base import Format
from .cost import ConvShape, Machine, Shape, Timed
from .gpu_arch import ARCHES, DEFAULT, Arch, find_arch
from .semi_structured import NAME, limit

DTYPES = ("fp32", "tf32", "fp16", "bf16")
"""How a kernel computes: products of this type, sums of fp32."""
MEMORY_CLOCKS, CACHE_CLOCKS = 600, 250
"""Latency of a load from memory, and of one that the shared cache serves; about those that Luo et
al. (2024, arXiv:2402.13499) measured on A100 and H100."""
STEP_CLOCKS, UNROLLED = 285, 4
"""Of one step: an index from the first-level cache, a line of x from the shared one. Steps under
way at once in a loop without stages of its own, as ptxas unrolls it."""
INDEX_BYTES = 4
HALF_STEPS = 2
"""Vector instructions for a product of half-precision numbers: to fp32, and the multiply-add."""
DOT_ROWS, LARGE_DOT = 16, 64
"""Rows from which a block goes through tensor cores, and at their full rate."""


@dataclass(frozen=True)
class Tile:
    """What one program computes: `rows` x `columns` of the result, by `warps` warps.

    registers, shared: of a thread, of a block; an estimate until the kernel is compiled.
    stages: of a pipelined loop, 1 for one that is merely unrolled. depth: numbers of a row that one
    step of the loop takes.
    """

    rows: int
    columns: int
    warps: int = 4
    stages: int = 3
    registers: int = 64
    shared: int = 0
    depth: int = 1


@dataclass(frozen=True)
class Work:
    """What a layer asks of a GPU in all: products by tensor cores and by lanes (flops), bytes that
    threads load, bytes that must come from memory or go there, programs among which it is divided,
    and steps of the loop of one, each of which waits for an index and then for what it names."""

    dots: float
    sums: float
    loads: float
    memory: float
    programs: int
    steps: float


@dataclass(frozen=True)
class Prediction:
    """ns: of one launch, without the microseconds that starting it takes. bound: the roof that
    sets it. reached: the share of that roof that the kernel can hold."""

    ns: float
    bound: str
    reached: float


def value_bytes(dtype: str) -> int:
    """Bytes of an activation or a stored weight."""
    return 2 if dtype in ("fp16", "bf16") else 4


def dense_ns(shape: Shape, dtype: str, arch: Arch) -> float:
    """The ideal time of a dense layer, cuBLAS's at best: each roof fully reached, no launch."""
    size = value_bytes(dtype)
    flops = 2.0 * shape.rows * shape.columns * shape.n
    moved = size * (shape.rows * shape.columns) + _activations(shape, size)
    return 1e9 * max(flops / arch.dot_rate(dtype), moved / arch.memory)


def semi_structured_ns(shape: Shape, dtype: str, arch: Arch) -> float:
    """The ideal time of an exact 2:4 layer: half the products, half the weight, its places."""
    size = value_bytes(dtype)
    numbers = shape.rows * shape.columns
    moved = numbers * (size / 2 + 1 / 8) + _activations(shape, size)
    return 1e9 * max(numbers * shape.n / arch.dot_rate(dtype), moved / arch.memory)


def _activations(shape: Shape, size: int) -> float:
    """Bytes of what goes in and comes out, each once."""
    taps, groups = (shape.taps, shape.groups) if isinstance(shape, ConvShape) else (1, 1)
    return float(size * shape.n * (groups * shape.columns / taps + shape.rows))


def predict(
    work: Work, tile: Tile, arch: Arch, dtype: str, share: float | None = None
) -> Prediction:
    """The time of a launch. share: occupancy as compiled; estimated from the tile otherwise."""
    resident = _resident(tile, arch) if share is None else share
    filled = min(work.programs / arch.units, 1.0)
    tail = work.programs / (math.ceil(work.programs / arch.units) * arch.units)
    blocks = max(1.0, resident * arch.warps / tile.warps)
    blocks = min(blocks, math.ceil(work.programs / arch.units))
    overlap = UNROLLED if tile.stages == 1 else tile.stages
    on_way = blocks * tile.columns * tile.depth * value_bytes(dtype) * overlap
    fast = tile.rows >= LARGE_DOT or dtype == "fp32"
    roofs = {
        "tensor cores": (
            work.dots / arch.dot_rate(dtype),
            tail * (1.0 if fast else arch.small_dots),
        ),
        "lanes": (work.sums / arch.fp32, tail),
        "loads": (
            work.loads / arch.load_rate,
            tail * min(1.0, on_way / (arch.load_bytes * CACHE_CLOCKS)),
        ),
    }
    if math.isfinite(arch.memory):
        needs = arch.memory / arch.units / arch.clock * MEMORY_CLOCKS
        roofs["memory"] = (work.memory / arch.memory, filled * min(1.0, on_way / needs))
    at_once = arch.units * max(1, int(resident * arch.warps / tile.warps))
    waves = math.ceil(work.programs / at_once)
    roofs["latency"] = (waves * work.steps * STEP_CLOCKS / overlap / arch.clock, 1.0)
    times = {name: ideal / reached for name, (ideal, reached) in roofs.items()}
    bound = max(times, key=lambda name: times[name])
    return Prediction(1e9 * times[bound], bound, roofs[bound][1])


def _resident(tile: Tile, arch: Arch) -> float:
    return occupancy(arch, tile.registers, tile.shared, tile.warps).share


@dataclass(frozen=True)
class Occupancy:
    """share: of the warps that a unit can hold, those that it does hold; blocks: in one unit.

    limit: what keeps it from more: "registers", "shared memory", "blocks" or "warps".
    """

    share: float
    blocks: int
    limit: str


def occupancy(arch: Arch, registers: int, shared: int, warps: int) -> Occupancy:
    """How many blocks of `warps` warps a unit of the architecture holds at once.

    Registers are given to warps in steps (256 of a warp on NVIDIA's, 8 of a thread on AMD's) within
    a side of the unit, shared memory to blocks.
    """
    if arch.backend == "cuda":
        taken = -(-registers * arch.warp // 256) * 256
    else:
        taken = -(-registers // 8) * 8 * arch.warp
    by_side = arch.registers // arch.sides // max(1, taken)
    fits = {
        "warps": arch.warps // warps,
        "registers": by_side * arch.sides // warps,
        "blocks": arch.blocks,
        "shared memory": arch.shared // (shared + arch.reserved) if shared else arch.blocks,
    }
    limit = min(fits, key=lambda name: fits[name])
    return Occupancy(min(1.0, fits[limit] * warps / arch.warps), fits[limit], limit)


def dense_work(format_: Format, shape: Shape, dtype: str, tile: Tile) -> Work:
    """Our own dense kernel: tensor cores, each program all of K for its tile."""
    return _dot_work(shape, dtype, tile, shape.rows * shape.columns, 0)


def block_work(format_: Format, shape: Shape, dtype: str, tile: Tile) -> Work:
    """Blocks of enough rows: a dot for each; lower ones walk their numbers like csr."""
    rows, columns = format_.parameters
    stored = _stored(shape)
    if rows >= DOT_ROWS and columns >= DOT_ROWS:
        return _dot_work(shape, dtype, tile, stored, stored * INDEX_BYTES // (rows * columns))
    return _lane_work(shape, dtype, tile, stored * INDEX_BYTES / (rows * columns), min(rows, 4))


def csr_work(format_: Format, shape: Shape, dtype: str, tile: Tile) -> Work:
    """An index for each non-zero; every product loads its activation."""
    return _lane_work(shape, dtype, tile, _stored(shape) * INDEX_BYTES, 1)


def nm_work(format_: Format, shape: Shape, dtype: str, tile: Tile) -> Work:
    """A byte for the place of each number within its group."""
    return _lane_work(shape, dtype, tile, _stored(shape), 1)


def bitmap_work(format_: Format, shape: Shape, dtype: str, tile: Tile) -> Work:
    """A bit for each element of the weight, zeros too."""
    work = _lane_work(shape, dtype, tile, shape.rows * shape.columns / 8, 1)
    return replace(work, steps=math.ceil(shape.columns / tile.depth))


def _stored(shape: Shape) -> int:
    return shape.nnz if shape.stored is None else shape.stored


def _programs(shape: Shape, tile: Tile) -> int:
    return -(-shape.rows // tile.rows) * -(-shape.n // tile.columns)


def _lane_work(shape: Shape, dtype: str, tile: Tile, index: float, shared_by: int) -> Work:
    """Products on vector lanes; a loaded activation serves `shared_by` rows."""
    size, stored = value_bytes(dtype), _stored(shape)
    steps = HALF_STEPS if size == 2 else 1
    weight = size * stored + index
    again = -(-shape.n // tile.columns)
    return Work(
        dots=0.0,
        sums=2.0 * steps * stored * again * tile.columns,
        loads=size * stored * shape.n / shared_by + again * weight,
        memory=weight + _activations(shape, size),
        programs=_programs(shape, tile),
        steps=math.ceil(stored / shape.rows / tile.depth),
    )


def _dot_work(shape: Shape, dtype: str, tile: Tile, stored: float, index: float) -> Work:
    """Products on tensor cores; each program loads its blocks and the activations they meet."""
    size = value_bytes(dtype)
    again = -(-shape.n // tile.columns)
    weight = size * stored + index
    return Work(
        dots=2.0 * stored * again * tile.columns,
        sums=0.0,
        loads=again * (weight + size * stored / tile.rows * tile.columns),
        memory=weight + _activations(shape, size),
        programs=_programs(shape, tile),
        steps=math.ceil(stored / shape.rows / tile.depth),
    )


WORK: Mapping[str, Callable[[Format, Shape, str, Tile], Work]] = {
    "dense": dense_work,
    "block": block_work,
    "csr": csr_work,
    "nm": nm_work,
    "bitmap": bitmap_work,
}
"""By family of formats; others have no kernel for a GPU."""
WITH_KERNELS = ("bitmap", "block_16x16", "block_32x32", "csr", "dense", "nm_1_4", "nm_2_4")
"""Formats that have one; dense is cuBLAS's."""
FEW = 16
"""Columns up to which a bitmap is read, by a program for each."""


def has_kernel(format_: Format, shape: Shape) -> bool:
    """Whether a kernel runs a layer in a format: convolutions with a window have csr's alone."""
    if isinstance(shape, ConvShape) and (shape.taps > 1 or shape.strided):
        return format_.family == "dense" or (format_.family == "csr" and shape.groups == 1)
    few = shape.n <= FEW or format_.family != "bitmap"
    return few and format_.stem in WITH_KERNELS


DECODE = Tile(1, 1, 4, 1, 40, 128, 1024)
"""Of the kernels for few columns, whose threads lie along a row of the weight."""


def usual_tile(format_: Format, shape: Shape, dtype: str) -> Tile:
    """The tile that a format's kernel takes unless tuned, with an estimate of what it uses."""
    size = value_bytes(dtype)
    rows, columns = format_.parameters if format_.family == "block" else (1, 1)
    if format_.family == "dense" or (rows >= DOT_ROWS and columns >= DOT_ROWS):
        high, wide = (rows, columns) if format_.family == "block" else (64, 32)
        across = max(16, min(64, _power(shape.n)))
        buffer = size * wide * (high + across)
        used = 64 + high * across // 128
        return Tile(high, across, 4, 3, used, 3 * buffer, depth=wide)
    if shape.n <= FEW and format_.family in ("csr", "bitmap"):
        return DECODE
    across = max(128, min(512 * 2 // size, _power(shape.n)))
    return Tile(rows, across, max(1, across // 256), 1, 40)


def _power(n: int) -> int:
    return 1 << max(0, (n - 1).bit_length())


@dataclass(frozen=True)
class GpuMachine(Machine):
    """A GPU in the place of the processor for which costs are asked.

    dtype: one of `DTYPES`. Dense layers are left to cuBLAS, which is taken to reach its ideal.
    """

    arch: Arch = DEFAULT
    dtype: str = "fp32"

    def format_ns(self, format_: Timed, shape: Shape, threads: int) -> float:
        """Predicted nanoseconds of a layer in a format; infinite where it has no kernel here."""
        if not isinstance(format_, Format) or not has_kernel(format_, shape):
            return math.inf
        if format_.family == "dense":
            return dense_ns(shape, self.dtype, self.arch)
        if format_.stem == NAME and self.limit(format_, shape) is None:
            return semi_structured_ns(shape, self.dtype, self.arch)
        work = WORK[format_.family]
        tile = usual_tile(format_, shape, self.dtype)
        return predict(work(format_, shape, self.dtype, tile), tile, self.arch, self.dtype).ns

    def limit(self, format_: Timed, shape: Shape) -> No | None:
        """The limit of torch's 2:4 kernels that an exact 2:4 layer breaks."""
        if not isinstance(format_, Format) or format_.stem != NAME:
            return None
        conv = isinstance(shape, ConvShape)
        return limit(shape.rows, shape.columns, self.dtype, self.arch, convolution=conv)

    def ideal_ns(self, shape: Shape) -> float | None:
        """The ideal time of a dense layer, and torch's."""
        return dense_ns(shape, self.dtype, self.arch)

    def dense_flops_per_ns(self, threads: int) -> float:
        """The peak of the matrix units, in whose dtype a dense layer may be computed."""
        return self.arch.dot_rate(self.dtype) / 1e9

    def without_memory(self) -> Machine:
        """The same with memory that costs nothing."""
        return replace(self, arch=replace(self.arch, memory=math.inf))


def gpu_machine(target: str | Arch, dtype: str) -> GpuMachine:
    """What choices for a target reckon with. dtype: "fp32", "tf32", "fp16" or "bf16"."""
    arch = target if isinstance(target, Arch) else find_arch(target)
    return GpuMachine(
        flops_per_ns=arch.fp32 / 1e9, bytes_per_ns=arch.memory / 1e9, arch=arch, dtype=dtype
    )


__all__ = ["ARCHES", "GpuMachine", "Prediction", "Tile", "Work", "dense_ns", "gpu_machine"]
