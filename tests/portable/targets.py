"""What the portability tests build for: a compiler, a vector width, and a way to run the result."""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sparse_compiler.codegen.cpu.build import cpu_features, kernel_folder

FLAGS = (
    "-std=c++17", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp",
    "-Wno-psabi",
)  # fmt: skip
X86 = platform.machine() in ("x86_64", "AMD64")


@dataclass(frozen=True)
class Target:
    """width: floats of a vector; run: the command before the program; needs: CPU features."""

    name: str
    compiler: str
    width: int
    flags: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()

    @property
    def missing(self) -> str:
        """Why nothing can be run for it here, or empty."""
        absent = [tool for tool in (self.compiler, *self.run) if shutil.which(tool) is None]
        if absent:
            return f"{', '.join(absent)} not installed: see tools/install_cross.sh"
        lacking = sorted(self.needs - cpu_features())
        return f"this CPU lacks {', '.join(lacking)}" if lacking else ""

    def command(self, *more: str) -> list[str]:
        """The compiler's, up to sources and output."""
        flags = (*FLAGS, *self.flags, f"-DSC_WIDTH={self.width}", *more)
        return [self.compiler, *flags, f"-I{kernel_folder()}"]

    def execute(self, program: Path, *arguments: str) -> str:
        """What the program prints; fails the test that calls it where it ends with an error."""
        done = subprocess.run(
            [*self.run, str(program), *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{self.name}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout


TARGETS = (
    # Linked statically, since qemu's user mode then needs no aarch64 libraries.
    Target("aarch64, NEON", "aarch64-linux-gnu-g++", 4, ("-static",), ("qemu-aarch64-static",)),
    Target("x86-64-v2, SSE", "g++", 4, ("-march=x86-64-v2",), needs=frozenset({"sse4_2"})),
    # AVX-512's semantics where it need not exist: the compiler splits each vector in two.
    Target(
        "x86-64-v3, 16 floats on AVX2", "g++", 16, ("-march=x86-64-v3",),
        needs=frozenset({"avx2", "fma"}),
    ),
)  # fmt: skip
