"""Time of a kernel on a GPU: the slowest of its roofs, each as high as the kernel can hold it.

    time = max(dots / tensor cores, sums / lanes, loads / first caches, bytes / memory,
               steps of a program's loop * latency of one)

A roof is reached as far as enough bytes are on their way at once (Little's law: rate x latency,
from the warps that fit, which is what occupancy is for) and as far as programs fill all units.
Nothing here was fitted to a GPU: every figure is the vendor's, see `gpu_arch.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .cost import ConvShape, Shape
from .gpu_arch import Arch

DTYPES = ("fp32", "tf32", "fp16", "bf16")
"""How a kernel computes: products of this type, sums of fp32."""
MEMORY_CLOCKS, CACHE_CLOCKS = 600, 250
"""Latency of a load from memory, and of one that the shared cache serves; about those that Luo et
al. (2024, arXiv:2402.13499) measured on A100 and H100."""
NEAR_CLOCKS, UNROLLED = 35, 4
"""Latency of the first-level cache. Steps under way at once in a loop without stages of its own, as
ptxas unrolls it. One step takes an index from the first-level cache, then a line of x."""
LARGE_DOT = 64
"""Rows from which a product goes through matrix units at their full rate."""
NEXT_LAUNCH_NS = 1000
"""Until a kernel that waits for another one runs, in one CUDA graph; an assumption, no vendor's."""


@dataclass(frozen=True)
class Tile:
    """What one program computes: `rows` x `columns` of the result, by `warps` warps.

    registers, shared: of a thread, of a block; an estimate until the kernel is compiled.
    stages: of a pipelined loop, 1 for one that is merely unrolled. depth: numbers of a row that one
    step of the loop takes. parts: programs among which a row is split, whose sums a second launch
    adds up.
    """

    rows: int
    columns: int
    warps: int = 4
    stages: int = 3
    registers: int = 64
    shared: int = 0
    depth: int = 1
    parts: int = 1


@dataclass(frozen=True)
class Work:
    """What a layer asks of a GPU in all: products by tensor cores and by lanes (flops), bytes that
    threads load, bytes that must come from memory or go there, programs among which it is divided,
    and steps of the loop of one, each of which waits for an index and then for what it names;
    bytes that one step of one program loads; of its lines, the share that its first-level cache
    does not have."""

    dots: float
    sums: float
    loads: float
    memory: float
    programs: int
    steps: float
    step_bytes: float
    missed: float = 1.0


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
    moved = size * (shape.rows * shape.columns) + activation_bytes(shape, size)
    return 1e9 * max(flops / arch.dot_rate(dtype), moved / arch.memory)


def semi_structured_ns(shape: Shape, dtype: str, arch: Arch) -> float:
    """The ideal time of an exact 2:4 layer: half the products, half the weight, its places."""
    size = value_bytes(dtype)
    numbers = shape.rows * shape.columns
    moved = numbers * (size / 2 + 1 / 8) + activation_bytes(shape, size)
    return 1e9 * max(numbers * shape.n / arch.dot_rate(dtype), moved / arch.memory)


def activation_bytes(shape: Shape, size: int) -> float:
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
    on_way = blocks * work.step_bytes * overlap
    line = work.missed * CACHE_CLOCKS + (1 - work.missed) * NEAR_CLOCKS
    fast = tile.rows >= LARGE_DOT or dtype == "fp32"
    roofs = {
        "tensor cores": (
            work.dots / arch.dot_rate(dtype),
            tail * (1.0 if fast else arch.small_dots),
        ),
        "lanes": (work.sums / arch.fp32, tail),
        "loads": (
            work.loads / arch.load_rate,
            tail * min(1.0, on_way / (arch.load_bytes * line)),
        ),
    }
    if math.isfinite(arch.memory):
        needs = arch.memory / arch.units / arch.clock * MEMORY_CLOCKS
        roofs["memory"] = (work.memory / arch.memory, filled * min(1.0, on_way / needs))
    at_once = arch.units * max(1, int(resident * arch.warps / tile.warps))
    waves = math.ceil(work.programs / at_once)
    roofs["latency"] = (
        waves * work.steps * (NEAR_CLOCKS + line) / overlap / arch.clock,
        1.0,
    )
    times = {name: ideal / reached for name, (ideal, reached) in roofs.items()}
    bound = max(times, key=lambda name: times[name])
    passes = NEXT_LAUNCH_NS if tile.parts > 1 else 0
    return Prediction(1e9 * times[bound] + passes, bound, roofs[bound][1])


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
