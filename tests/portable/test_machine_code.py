"""The machine code of generated units for AVX2 and AVX-512, which need not run here.

The multiply-add loops of the kernels must use whole registers of the target and leave the stack
alone; those of sparse kernels read one operand of each multiply-add from memory, so that a non-zero
costs nothing but its multiply-adds.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

import pytest

from sparse_compiler.codegen.cpu.build import FLAGS, kernel_folder
from sparse_compiler.codegen.cpu.source import print_segment
from tests.codegen.test_source import GRAPHS, segment_of
from tests.portable.machine_code import Loop, innermost_loops
from tests.portable.targets import X86

pytestmark = [
    pytest.mark.portable,
    pytest.mark.skipif(not X86, reason="builds for x86"),
    pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not installed"),
    pytest.mark.parametrize("width,march,register", [(16, "v4", "z"), (8, "v3", "y")]),
    pytest.mark.parametrize("name", GRAPHS),
]

# Template arguments of the kernels' instances: vectors side by side, and rows that share them.
CSR = re.compile(r"\bsc::csr_block<(\d+),")
DENSE = re.compile(r"\bsc::dense_block<(\d+), (\d+),")
OTHERS = re.compile(r"\bsc::(dense_tail<|AttentionGroup::attend<|DepthwiseTile<)")


@lru_cache(maxsize=8)
def loops_of(name: str, width: int, march: str, folder: Path) -> tuple[Loop, ...]:
    """The innermost loops that multiply and add vectors, of the unit of a graph."""
    source, library = folder / "unit.cpp", folder / "unit.so"
    source.write_text(print_segment(segment_of(name)))
    command = ["g++", *FLAGS, f"-march=x86-64-{march}", f"-DSC_WIDTH={width}"]
    subprocess.run([*command, f"-I{kernel_folder()}", str(source), "-o", str(library)], check=True)
    return tuple(loop for loop in innermost_loops(library) if loop.multiply_adds)


def is_kernel_loop(loop: Loop) -> bool:
    """False for an epilogue's polynomials, which may well keep constants on the stack."""
    dense = DENSE.search(loop.function)
    if dense:
        return len(loop.multiply_adds) == int(dense[1]) * int(dense[2])
    return bool(CSR.search(loop.function) or OTHERS.search(loop.function))


def test_loops(name: str, width: int, march: str, register: str, tmp_path: Path) -> None:
    loops = loops_of(name, width, march, tmp_path)
    kernels = [loop for loop in loops if is_kernel_loop(loop)]
    assert any(DENSE.search(loop.function) for loop in kernels)
    for loop in loops:
        assert loop.registers == {register}, f"{loop.function} uses {loop.registers}"
    for loop in kernels:
        assert not loop.spills, f"{loop.function} spills: {loop.spills[:3]}"
    sparse = [loop for loop in kernels if CSR.search(loop.function)]
    vectors = {int(match[1]) for loop in sparse if (match := CSR.search(loop.function))}
    assert vectors == set(range(1, 9)), "one instance for each number of vectors"
    for loop in sparse:
        count = len(loop.multiply_adds)
        assert loop.from_memory == count, f"{loop.function} loads apart from its multiply-adds"
        match = CSR.search(loop.function)
        assert match is not None and count % int(match[1]) == 0
