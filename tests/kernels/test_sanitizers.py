"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer: odd sizes, tight buffers.

Each program holds its own plain loops to compare with and ends with an error at the first
difference. Built without optimisation, so that no access is optimised away before it is checked.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.kernels.native import HERE, PROGRAMS, WIDTHS, compiler, make, packers

FLAGS = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.mark.portable  # ten seconds each
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_nothing_is_found(name: str, width: int, tmp_path: Path, kernel_cache: Path) -> None:
    command = compiler(width, *FLAGS)
    sources = [HERE / PROGRAMS[name], packers(command, kernel_cache)]
    program = make(command, sources, tmp_path / "kernels")
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "fault,said",
    [
        ("int* p = new int[4]; return p[n + 3];", "AddressSanitizer: heap-buffer-overflow"),
        ("return n << (n + 31);", "runtime error: shift exponent"),
    ],
)
def test_a_fault_is_found(fault: str, said: str, tmp_path: Path) -> None:
    source = tmp_path / "fault.cpp"
    source.write_text(f"int main(int n, char**) {{ {fault} }}\n")
    program = tmp_path / "fault"
    subprocess.run(["g++", *FLAGS, str(source), "-o", str(program)], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and said in done.stderr
