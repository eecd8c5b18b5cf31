"""Compiles linear_kernels.cpp for each vector width this CPU can run, and runs it.

On x86 also reads the assembly: the accumulators of every instance must stay in registers, since
`#pragma GCC unroll` below their number, or one vector too many, spills them without a word.
"""

import platform
import re
import subprocess
from pathlib import Path

import pytest

from tests.kernels.native import EACH_WIDTH, WIDTHS, make, packers

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "codegen" / "cpu"
FLAGS = ["-std=c++17", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp"]
X86 = platform.machine() in ("x86_64", "AMD64")
# What the compiler is asked for per width on x86; assembly needs no CPU to run on.
MARCH = {4: "x86-64-v2", 8: "x86-64-v3", 16: "x86-64-v4"}
INSTANCES = {
    8: {"csr_block": 8, "dense_block": 4, "rows_block": 2, "block_rows": 3 + 3 + 8},
    16: {"csr_block": 8, "dense_block": 4, "rows_block": 2, "block_rows": 6 + 5 + 8},
}  # block_rows: of blocks 4 x 1, 4 x 4 and 1 x 4


def cpu_flags() -> set[str]:
    """The x86 feature flags of this machine; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^flags\s*:(.*)$", info.read_text() if info.exists() else "", re.MULTILINE)
    return set(found.group(1).split()) if found else set()


def march(width: int) -> str:
    """The widest ISA up to `width` floats that runs here; the compiler splits wider vectors."""
    if not X86:
        return "native"
    avx2 = {"avx2", "fma", "bmi2"}
    avx512 = {f"avx512{part}" for part in ("f", "vl", "bw", "dq", "cd")}
    needs = {4: set[str](), 8: avx2, 16: avx2 | avx512}
    return MARCH[max(w for w in WIDTHS if w <= width and needs[w] <= cpu_flags())]


def build(width: int, out: Path, cache: Path) -> None:
    """The test program for a width."""
    arguments = ["-O2", f"-march={march(width)}", f"-DSC_WIDTH={width}", f"-I{KERNELS}"]
    command = ["g++", *arguments, *FLAGS, "-Wall", "-Wextra", "-Wno-psabi", "-Werror"]
    source = Path(__file__).with_name("linear_kernels.cpp")
    make(command, [source, packers(command, cache)], out)


@pytest.mark.parametrize("width", EACH_WIDTH)
def test_kernels_agree_with_double_precision(
    tmp_path: Path, kernel_cache: Path, width: int
) -> None:
    """Values, epilogue counts, special values, bounds, damaged blobs: see the C++ program."""
    build(width, tmp_path / "linear", kernel_cache)
    done = subprocess.run([tmp_path / "linear"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


UNIT = """
#include "linear.h"
using namespace sc;
struct Add {
  const float* bias;
  SC_INLINE V operator()(V sum, int64_t row, int64_t) const { return sum + splat(bias[row]); }
};
template void sc::linear_csr<float, Add>(Team&, const void*, const float*, int64_t, float*,
                                         int64_t, int64_t, float*, const Add&);
template void sc::linear_dense<float, Add>(Team&, const void*, const float*, int64_t, float*,
                                           int64_t, int64_t, float*, const Add&);
template void sc::linear_block<4, 1>(Team&, const void*, const float*, int64_t, float*, int64_t,
                                     int64_t, float*, const Add&);
template void sc::linear_block<4, 4>(Team&, const void*, const float*, int64_t, float*, int64_t,
                                     int64_t, float*, const Add&);
template void sc::linear_block<1, 4>(Team&, const void*, const float*, int64_t, float*, int64_t,
                                     int64_t, float*, const Add&);
"""


def functions(assembly: str) -> dict[str, list[str]]:
    """Kernel instance, such as csr_block<4>, to the lines of its body."""
    found = {}
    for match in re.finditer(
        r"^(_ZN2sc\d+((?:csr|dense|rows)_block|block_rows)I((?:Li\d+E)+)\w*):\n"
        r"(.*?)^\t\.size\t\1",
        assembly,
        re.M | re.S,
    ):
        sizes = ", ".join(re.findall(r"Li(\d+)E", match[3]))
        found[f"{match[2]}<{sizes}>"] = match[4].splitlines()
    return found


def innermost_loops(body: list[str]) -> list[list[str]]:
    """Stretches from a label to a jump back to it that hold no other such stretch."""
    label_at = {line[:-1]: i for i, line in enumerate(body) if re.match(r"\.L\w+:$", line)}
    spans = []
    for end, line in enumerate(body):
        jump = re.match(r"\tj\w+\t(\.L\w+)$", line)
        if jump and label_at.get(jump[1], end) < end:
            spans.append((label_at[jump[1]], end))
    inner = [
        (s, e)
        for s, e in spans
        if not any((s, e) != (a, b) and s <= a and b <= e for a, b in spans)
    ]
    return [body[s : e + 1] for s, e in inner]


@pytest.mark.portable
@pytest.mark.skipif(not X86, reason="reads x86 assembly")
@pytest.mark.parametrize("width", [8, 16])
def test_accumulators_stay_in_registers(tmp_path: Path, width: int) -> None:
    """No access to the stack inside an innermost multiply-add loop of any instance."""
    source = tmp_path / "unit.cpp"
    source.write_text(UNIT)
    arguments = ["-O3", f"-march={MARCH[width]}", f"-DSC_WIDTH={width}", f"-I{KERNELS}", "-S"]
    prefer = ["-mprefer-vector-width=512"] if width == 16 else []
    command = ["g++", *arguments, *prefer, *FLAGS, str(source), "-o", "-"]
    assembly = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    bodies = functions(assembly)
    for kind, count in INSTANCES[width].items():
        assert sum(name.startswith(kind) for name in bodies) == count, kind
    for name, body in bodies.items():
        loops = [loop for loop in innermost_loops(body) if any("vfmadd" in line for line in loop)]
        assert loops, f"{name}: no multiply-add loop found"
        framed = any("movq\t%rsp, %rbp" in line for line in body)
        stack = r"\(%rsp[,)]" + (r"|-\d+\(%rbp[,)]" if framed else "")
        register = "%zmm" if width == 16 else "%ymm"
        vector = [line.strip() for loop in loops for line in loop if register in line]
        assert vector, f"{name} does not use {register}"
        spills = [line for line in vector if re.search(stack, line)]
        assert not spills, f"{name} spills in its inner loop: {spills[:3]}"
