"""The kernels for layers: right, by the interpreter; compiled to what they should be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparse_compiler.codegen.gpu.layer_kernels import DTYPES, FAMILIES, kernel, offers
from sparse_compiler.codegen.gpu.static import compile_kernel
from sparse_compiler.formats.gpu_arch import ARCHES
from sparse_compiler.formats.gpu_kernels import BLOCKS

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
    assert done.returncode == 0 and "12 passed" in done.stdout, done.stdout[-4000:]


@pytest.mark.system
@pytest.mark.parametrize("arch", list(ARCHES.values()), ids=lambda arch: arch.label)
def test_half_precision_kernels_are_what_they_should_be(arch) -> None:
    """The first tile of each family: no spills, wide loads along planes, dots on matrix units."""
    for family in FAMILIES:
        facts = compile_kernel(kernel(family, "fp16", family.tiles("fp16")[0]), arch).facts
        assert facts.spill_bytes == 0, family
        assert bool(facts.dots) == ("DOTS" in family.kind.template), family
        assert facts.occupancy.share >= 0.25, family
        # Blocks on lanes have loads of 16 bits where triton lays threads along their rows.
        if family.window is None and not family.kind.few and family.kind is not BLOCKS:
            assert facts.widest >= 64, family


@pytest.mark.slow
@pytest.mark.parametrize("arch", list(ARCHES.values()), ids=lambda arch: arch.label)
def test_no_kernel_spills_in_any_dtype(arch) -> None:
    spilled = [
        (family.function, dtype, tile)
        for family, dtype, tile, made in offers(tuple(DTYPES))
        if compile_kernel(made, arch).facts.spill_bytes
    ]
    assert not spilled
