"""The C example for other machines: exported and built here, run under qemu."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "c_embed"
X86 = platform.machine() in ("x86_64", "AMD64")

pytestmark = [pytest.mark.portable, pytest.mark.skipif(not X86, reason="crosses from x86")]


def made(out: Path, target: str, run: str) -> subprocess.CompletedProcess[str]:
    """Exports, builds and runs the example."""
    tools = [run.split()[0], "aarch64-linux-gnu-gcc" if target == "aarch64" else "cc"]
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} not installed: see tools/install_packages.sh")
    return subprocess.run(
        ["make", "-C", EXAMPLE, f"TARGET={target}", f"OUT={out}", f"PYTHON={sys.executable}",
         f"RUN={run}", "THREADS=2"], capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_aarch64(tmp_path: Path) -> None:
    done = made(tmp_path / "out", "aarch64", "qemu-aarch64-static -L /usr/aarch64-linux-gnu")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "relative error" in done.stdout


def test_a_processor_without_the_instructions_gets_an_error(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = made(out, "x86-64-v3", "qemu-x86_64-static -cpu Haswell")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "relative error" in done.stdout
    old = subprocess.run(
        ["qemu-x86_64-static", "-cpu", "Nehalem", out / "main", out, "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert old.returncode == 1 and "this processor lacks" in old.stderr
