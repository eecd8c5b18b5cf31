"""What the compilers say of a kernel, without a GPU: registers, spills, occupancy, loads, dots.

A kernel is compiled for an architecture as it will be there; ptxas and LLVM state what it uses,
and the assembly shows how wide its loads are and which matrix instructions it has.
"""

from __future__ import annotations

import io
import re
import subprocess
import tempfile
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparse_compiler.errors import CodegenError, OptionError
from sparse_compiler.formats.gpu_arch import Arch
from sparse_compiler.formats.gpu_roofline import Occupancy, occupancy

_LOAD = re.compile(r"\bld\.(?:global|param::entry\.global)[\w.:]*?(?:\.v(\d))?\.[busf](\d+)\b")
_STORE = re.compile(r"\bst\.global[\w.:]*?(?:\.v(\d))?\.[busf](\d+)\b")
_ASYNC = re.compile(r"\bcp\.async\.c[ag]\.shared\.global\s.*?,\s*(0x[0-9a-f]+|\d+)\s*[,;]")
_AMD_MOVE = re.compile(r"\b(?:global|buffer|flat)_(load|store)_(\w+)")
_AMD_BITS = {"dwordx4": 128, "dwordx3": 96, "dwordx2": 64, "dword": 32}
_DOT = re.compile(r"\b(tcgen05\.mma|wgmma\.mma_async|mma\.sync|v_mfma)[\w.:]*")
_RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
_AMD_FIELD = re.compile(r"^\s*\.(vgpr_count|vgpr_spill_count|private_segment_fixed_size):\s+(\d+)")
WIDE = 64
"""Bits of a load per thread from which a warp fetches 256 bytes at a time: whole cache lines."""


@dataclass(frozen=True)
class Kernel:
    """A kernel with all that its compilation depends on.

    function: a `triton.JITFunction`. types: triton's type of each argument in order, "constexpr"
    for those that `constants` gives. aligned: arguments whose value or address is a multiple of 16.
    """

    function: Any
    types: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...] = ()
    aligned: tuple[str, ...] = ()
    warps: int = 4
    stages: int = 3
    registers: int | None = None


@dataclass(frozen=True)
class StaticFacts:
    """Of one kernel on one architecture.

    registers: of a thread. spill_bytes: of stack per thread, 0 where nothing was spilled.
    shared_bytes: of a block. loads, stores: (bits per thread, instructions) to global memory.
    dots: (matrix instruction, count).
    """

    arch: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    threads: int
    occupancy: Occupancy
    loads: tuple[tuple[int, int], ...]
    stores: tuple[tuple[int, int], ...]
    dots: tuple[tuple[str, int], ...]

    @property
    def wide_share(self) -> float:
        """Of the bytes that loads fetch, those by loads of `WIDE` bits and more per thread."""
        total = sum(bits * count for bits, count in self.loads)
        wide = sum(bits * count for bits, count in self.loads if bits >= WIDE)
        return wide / total if total else 1.0

    @property
    def widest(self) -> int:
        """Bits per thread of the widest load."""
        return max((bits for bits, _ in self.loads), default=0)


@dataclass(frozen=True)
class Compiled:
    """What the compilers say, and triton's compiled kernel: `asm` by stage, `metadata`."""

    facts: StaticFacts
    built: Any


def compile_kernel(kernel: Kernel, arch: Arch) -> Compiled:
    """Compiles off-line, 0.1 to 0.6 s; triton keeps the result in its cache.

    Raises `SharedMemoryError` for a block larger than the architecture's, `CodegenError` where
    triton refuses the kernel.
    """
    built = build(kernel, arch)
    read = _read_nvidia if arch.backend == "cuda" else _read_amd
    return Compiled(read(built, int(built.metadata.shared), kernel.warps, arch), built)


def build(kernel: Kernel, arch: Arch) -> Any:
    """triton's own compiled kernel. Raises as `compile_kernel`."""
    triton = require_triton()
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = dict(kernel.constants)
    source = ASTSource(kernel.function, dict(kernel.types), constants, _attributes(kernel))
    chip = int(arch.chip) if arch.backend == "cuda" else arch.chip
    options = {"num_warps": kernel.warps, "num_stages": kernel.stages}
    if kernel.registers is not None:
        options["maxnreg"] = kernel.registers
    target = GPUTarget(arch.backend, chip, arch.warp)
    try:
        with redirect_stdout(io.StringIO()):  # triton prints the assembly that ptxas refused
            built = triton.compile(source, target=target, options=options)
    except (triton.TritonError, RuntimeError, ValueError) as error:
        raise CodegenError(
            f"triton cannot compile {kernel.function.__name__} for {arch.label}",
            why=_reason(str(error)),
            fix="report it with the model's layer",
        ) from error
    shared = int(built.metadata.shared)
    if shared > arch.shared_block:
        raise SharedMemoryError(kernel.function.__name__, shared, arch)
    return built


def _attributes(kernel: Kernel) -> dict[tuple[int], list[list[Any]]]:
    """What is known of each parameter but of floats, in the form that a launch gives it: triton's
    key, by which a launch finds what was compiled here, is a hash of the text of it."""
    return {
        (place,): [["tt.divisibility", 16]] if name in kernel.aligned else []
        for place, (name, type_) in enumerate(kernel.types)
        if not type_.startswith("fp")
    }


def _reason(text: str) -> str:
    """The line of a compiler's message that tells the cause."""
    lines = text.strip().splitlines() or ["no message"]
    return next((line for line in lines if "fatal" in line), lines[0])


class SharedMemoryError(OptionError):
    """A block needs more shared memory than the architecture gives one."""

    def __init__(self, name: str, needed: int, arch: Arch) -> None:
        super().__init__(
            f"a block of {name} needs {needed} bytes of shared memory",
            why=f"{arch.label} gives a block {arch.shared_block}",
            fix="take smaller blocks or fewer stages",
        )
        self.needed = needed


def require_triton() -> Any:
    """The module triton. Raises `OptionError` naming the extra where it is not installed."""
    try:
        import triton
    except ImportError as error:
        raise OptionError(
            "code for GPUs needs triton, which is not installed",
            why=str(error),
            fix="pip install 'sparse-compiler[gpu]'",
        ) from error
    return triton


def _read_nvidia(built: Any, shared: int, warps: int, arch: Arch) -> StaticFacts:
    ptx = built.asm["ptx"]
    registers, stack, _, local = _resources(built.asm["cubin"], built.metadata.name)
    loads = Counter(_width(found) for found in _LOAD.finditer(ptx))
    loads += Counter(8 * int(found[1], 0) for found in _ASYNC.finditer(ptx))
    return StaticFacts(
        arch=arch.name,
        registers=registers,
        spill_bytes=stack + local,
        shared_bytes=shared,
        threads=arch.warp * warps,
        occupancy=occupancy(arch, registers, shared, warps),
        loads=tuple(sorted(loads.items())),
        stores=tuple(sorted(Counter(_width(f) for f in _STORE.finditer(ptx)).items())),
        dots=_dots(ptx),
    )


def _width(found: re.Match[str]) -> int:
    return int(found[1] or 1) * int(found[2])


def _dots(assembly: str) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(Counter(found[1] for found in _DOT.finditer(assembly)).items()))


def _resources(cubin: bytes, name: str) -> tuple[int, ...]:
    """Registers, stack, shared, local: as `cuobjdump` of triton's wheel reads them."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=False
        )
    found = _RESOURCES.search(done.stdout)
    if found is None:
        raise CodegenError(
            f"cuobjdump says nothing of {name}", why=done.stderr.strip()[:200] or "no output"
        )
    return tuple(map(int, found.groups()))


def _read_amd(built: Any, shared: int, warps: int, arch: Arch) -> StaticFacts:
    text = built.asm["amdgcn"]
    fields: dict[str, int] = {}
    for line in text.splitlines():
        if found := _AMD_FIELD.match(line):
            fields[found[1]] = int(found[2])
    moves: dict[str, Counter[int]] = {"load": Counter(), "store": Counter()}
    for found in _AMD_MOVE.finditer(text):
        bits = _AMD_BITS.get(found[2])
        moves[found[1]][bits or (8 if "byte" in found[2] else 16)] += 1
    registers = fields["vgpr_count"]
    return StaticFacts(
        arch=arch.name,
        registers=registers,
        spill_bytes=4 * fields["vgpr_spill_count"] or fields.get("private_segment_fixed_size", 0),
        shared_bytes=shared,
        threads=arch.warp * warps,
        occupancy=occupancy(arch, registers, shared, warps),
        loads=tuple(sorted(moves["load"].items())),
        stores=tuple(sorted(moves["store"].items())),
        dots=_dots(text),
    )
