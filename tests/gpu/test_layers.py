"""The kernels for layers: right, by the interpreter; compiled to what they should be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparse_compiler.codegen.gpu.layer_kernels import DTYPES, FAMILIES, kernel, offers
from sparse_compiler.codegen.gpu.static import compile_kernel
from sparse_compiler.formats.gpu_arch import ARCHES

INTERPRETED = Path(__file__).parent / "interpreted_layers.py"


@pytest.mark.system
def test_every_kernel_is_right_under_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(INTERPRETED)]
    done = subprocess.run(
        command,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "8 passed" in done.stdout, done.stdout[-4000:]


@pytest.mark.system
@pytest.mark.parametrize("arch", list(ARCHES.values()), ids=lambda arch: arch.label)
def test_half_precision_kernels_are_what_they_should_be(arch) -> None:
    """The first tile of each family: no spills, wide loads along planes, dots on matrix units."""
    for family in FAMILIES:
        facts = compile_kernel(kernel(family, "fp16", family.tiles[0]), arch).facts
        assert facts.spill_bytes == 0, family
        assert bool(facts.dots) == (family.template == "BLOCK_DOTS"), family
        if family.template in ("BLOCK_DOTS", "NM_ROWS"):
            assert facts.widest >= 32, family


@pytest.mark.slow
@pytest.mark.parametrize("arch", list(ARCHES.values()), ids=lambda arch: arch.label)
def test_no_kernel_spills_in_any_dtype(arch) -> None:
    spilled = [
        (family.function, dtype, tile)
        for family, dtype, tile, made in offers(tuple(DTYPES))
        if compile_kernel(made, arch).facts.spill_bytes
    ]
    assert not spilled
