"""GPU architectures: the limits that set occupancy, the peaks that set a roofline; all public.

Limits of NVIDIA's come from the table of compute capabilities in the CUDA C++ Programming Guide,
peaks from the data sheet that `source` names. Tensor-core figures are those without sparsity.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import OptionError
from ..options import nearest

KB = 1024
MB = 1024 * KB


@dataclass(frozen=True)
class Arch:
    """One GPU.

    name: as targets name it, "cuda:90" or "hip:gfx942". model, source: whose figures these are.
    warp: threads of a warp (a wavefront on AMD's). units: multiprocessors (compute units).
    registers, warps, blocks, shared: what a unit holds: 32-bit registers, warps, thread blocks,
    bytes of shared memory; shared_block, reserved: bytes that a block may have, and that it takes
    besides. sides: parts of a unit among which registers and warps are divided. max_registers: of a
    thread. tensor: fp16 and bf16 tensor-core flops per second with fp32 sums; tf32, fp32 (of vector
    lanes) likewise. memory: bytes per second. cache: bytes of the last shared cache. load_bytes:
    per clock, that a unit loads from its first-level cache. lanes: fp32 multiply-adds per clock.
    small_dots: share of the tensor peak that products of fewer than 64 rows can reach, which have
    instructions of their own (mma.sync beside wgmma and tcgen05).
    """

    name: str
    model: str
    source: str
    warp: int
    units: int
    registers: int
    warps: int
    blocks: int
    shared: int
    shared_block: int
    tensor: float
    tf32: float
    fp32: float
    memory: float
    cache: int
    load_bytes: int
    lanes: int
    reserved: int = 0
    sides: int = 4
    max_registers: int = 255
    sparse_tensor: bool = True
    small_dots: float = 1.0

    @property
    def backend(self) -> str:
        """Triton's name of the vendor: cuda or hip."""
        return self.name.partition(":")[0]

    @property
    def chip(self) -> str:
        """Triton's name of the chip: a compute capability as 90, or gfx942."""
        return self.name.partition(":")[2]

    @property
    def label(self) -> str:
        """As tables name it: sm_90, gfx942."""
        return f"sm_{self.chip}" if self.backend == "cuda" else self.chip

    @property
    def clock(self) -> float:
        """Clocks per second at which the fp32 peak is reached."""
        return self.fp32 / (2 * self.lanes * self.units)

    @property
    def load_rate(self) -> float:
        """Bytes per second that all units together load from their first-level caches."""
        return self.load_bytes * self.units * self.clock

    def dot_rate(self, dtype: str) -> float:
        """Tensor-core flops per second; of the vector lanes for fp32.

        dtype: fp16, bf16, tf32 or fp32.
        """
        return {"tf32": self.tf32, "fp32": self.fp32}.get(dtype, self.tensor)


A100 = Arch(
    name="cuda:80",
    model="A100 SXM4 80 GB",
    source="NVIDIA A100 Tensor Core GPU data sheet; NVIDIA A100 architecture white paper",
    warp=32,
    units=108,
    registers=65536,
    warps=64,
    blocks=32,
    shared=164 * KB,
    shared_block=163 * KB,
    reserved=KB,
    tensor=312e12,
    tf32=156e12,
    fp32=19.5e12,
    memory=2.039e12,
    cache=40 * MB,
    load_bytes=128,
    lanes=64,
)
H100 = Arch(
    name="cuda:90",
    model="H100 SXM5 80 GB",
    source="NVIDIA H100 Tensor Core GPU data sheet; NVIDIA H100 architecture white paper",
    warp=32,
    units=132,
    registers=65536,
    warps=64,
    blocks=32,
    shared=228 * KB,
    shared_block=227 * KB,
    reserved=KB,
    tensor=989.4e12,
    tf32=494.7e12,
    fp32=66.9e12,
    memory=3.35e12,
    cache=50 * MB,
    load_bytes=128,
    lanes=128,
    small_dots=0.62,  # measured by Luo et al. (2024), arXiv:2402.13499
)
B200 = Arch(
    name="cuda:100",
    model="B200 (HGX)",
    source="NVIDIA Blackwell data sheet, column HGX B200",
    warp=32,
    units=148,
    registers=65536,
    warps=64,
    blocks=32,
    shared=228 * KB,
    shared_block=227 * KB,
    reserved=KB,
    tensor=2250e12,
    tf32=1100e12,
    fp32=75e12,
    memory=7.7e12,
    cache=126 * MB,
    load_bytes=128,
    lanes=128,
    small_dots=0.26,  # as many per clock and unit as an A100's, which is what we know of
)
MI300X = Arch(
    name="hip:gfx942",
    model="MI300X",
    source="AMD Instinct MI300X data sheet; AMD CDNA 3 white paper",
    warp=64,
    units=304,
    registers=4 * 512 * 64,  # of each SIMD, 512 for each lane, accumulators among them
    warps=32,
    blocks=32,
    shared=64 * KB,
    shared_block=64 * KB,
    tensor=1307.4e12,
    tf32=653.7e12,
    fp32=163.4e12,
    memory=5.3e12,
    cache=256 * MB,
    load_bytes=64,
    lanes=128,
    max_registers=512,
    sparse_tensor=False,  # torch's semi-structured kernels are NVIDIA's
)

ARCHES = {arch.name: arch for arch in (A100, H100, B200, MI300X)}
DEFAULT = H100
_SMALL = (86, 89, 120, 121)
"""Capabilities of workstations' chips, whose units hold fewer warps and less shared memory."""


def find_arch(target: str) -> Arch:
    """The architecture that a target names: "cuda:90", "sm_90", "gfx942"; "cuda" alone is H100's.

    Raises `OptionError` for what is no GPU, or one that triton or our figures do not know.
    """
    if target in ("cuda", "gpu"):
        return DEFAULT
    name = target
    if target.startswith("sm_"):
        name = f"cuda:{target.removeprefix('sm_')}"
    elif target.startswith("gfx"):
        name = f"hip:{target}"
    if name not in ARCHES:
        raise OptionError(
            f"target {target!r} names no GPU that we compile for",
            why="kernels are checked and their times predicted for these: " + ", ".join(ARCHES),
            fix=nearest(target, tuple(ARCHES)),
        )
    return ARCHES[name]


def arch_of_device(major: int, minor: int, gcn: str = "") -> Arch:
    """The architecture of a device at hand: its compute capability, or AMD's `gcnArchName`.

    One that has no figures of its own takes those of the nearest older one, which its code fits.
    Raises `OptionError` below compute capability 8.0, and for AMD's others.
    """
    if gcn:
        return find_arch(gcn.partition(":")[0])
    chip = 10 * major + minor
    older = [a for a in ARCHES.values() if a.backend == "cuda" and int(a.chip) <= chip]
    if not older:
        raise OptionError(
            f"a GPU of compute capability {major}.{minor} is not supported",
            why="triton's tensor-core code for fp16 and bf16 begins at 8.0",
            fix="use target='cpu'",
        )
    near = replace(max(older, key=lambda a: int(a.chip)), name=f"cuda:{chip}")
    if chip in _SMALL:
        return replace(near, warps=48, blocks=16, shared=100 * KB, shared_block=99 * KB)
    return near
