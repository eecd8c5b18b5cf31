"""Profiles: exact work per kernel call, times that add up to the call, torch's steps too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sparse_compiler as sc
from sparse_compiler.inspector import profile as profile_module
from sparse_compiler.inspector.profile import Profile, ProfileRow
from sparse_compiler.inspector.roofline import Roofs
from sparse_compiler.options import Options
from sparse_compiler.runtime.clock import SegmentClock, StepClock

ROOT = Path(__file__).parents[2]
ROOFS = Roofs(flops=100e9, bytes_per_s=10e9, fma=True, vector_bytes=32, busy=1.0)


class Net(nn.Module):
    """A sparse and a dense linear; `sort` goes through torch."""

    def __init__(self, torch_step: bool = False) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(128, 512), nn.Linear(512, 64)
        self.torch_step = torch_step
        with torch.no_grad():
            self.up.weight *= torch.rand(512, 128) < 0.1

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(torch.relu(self.up(x)))
        return y.sort(-1).values if self.torch_step else y


def profile(model: nn.Module, x: Tensor) -> tuple[Profile, sc.Compiled]:
    torch.manual_seed(0)
    with torch.no_grad():
        compiled = sc.compile(model.eval(), (x,), options={"force_native": True})
        expected = compiled(x)
        found = compiled.profile(x)
        assert torch.equal(compiled(x), expected)
    return found, compiled


@pytest.fixture(autouse=True)
def quick(cached_kernels, monkeypatch):
    """No probe of the machine: it takes seconds and is tested with the benchmarks."""
    monkeypatch.setattr("sparse_compiler.compiled.machine_roofs", lambda options, threads: ROOFS)


@pytest.fixture
def threads_restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.system
@pytest.mark.parametrize("samples", [1, 40, 700])
def test_useful_work_is_exact(samples):
    """Also where a call runs in several chunks, or threads have samples of their own."""
    model = Net()
    found, _ = profile(model, torch.randn(samples, 128))
    csr, dense = (row for row in found.rows if row.flops)
    kernels = ["decode_row"] * 2 if samples == 1 else ["linear_csr", "linear_dense"]
    assert [csr.kernel, dense.kernel] == kernels
    assert csr.flops == pytest.approx(2 * int(model.up.weight.count_nonzero()) * samples)
    assert dense.flops == pytest.approx(2 * 512 * 64 * samples)
    activations = 4 * samples * (512 + 64)
    assert dense.bytes >= activations + 4 * 512 * 64
    assert dense.bytes <= activations + 4 * 512 * 64 * 1.2 + 1024
    nnz = int(model.up.weight.count_nonzero())
    assert 4 * samples * 640 + 5 * nnz <= csr.bytes <= 4 * samples * 640 + 12 * nnz + 4096


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("torch_step", [False, True])
@pytest.mark.usefixtures("threads_restored")
def test_lines_add_up_to_the_call(threads, torch_step):
    torch.set_num_threads(threads)
    found, compiled = profile(Net(torch_step), torch.randn(256, 128))
    assert 0.95 <= found.explained <= 1.001
    assert all(row.ms >= 0 for row in found.rows)
    calls = [row for row in found.rows if not row.kernel.startswith("(")]
    native = sum(len(s.segment.calls) for s in compiled.pipeline.segments)
    assert sum(row.native for row in calls) == native
    torchs = [row.kernel for row in calls if not row.native]
    assert torchs == ["aten.sort.default", "getitem"] * torch_step


@pytest.mark.usefixtures("threads_restored")
def test_kernels_are_most_of_a_call_that_computes_much():
    """The brackets do not take what belongs to kernels."""
    torch.set_num_threads(1)
    found, _ = profile(Net(), torch.randn(4096, 128))
    kernels = sum(row.ms for row in found.rows if not row.kernel.startswith("("))
    assert kernels > 0.6 * found.total_ms


@pytest.mark.system
def test_a_profile_of_attention_and_of_convolutions():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 4, stride=4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x).flatten(2).transpose(1, 2).unflatten(-1, (2, 8)).transpose(1, 2)
            return nn.functional.scaled_dot_product_attention(y, y, y)

    found, _ = profile(Both(), torch.randn(2, 3, 32, 32))
    conv = next(row for row in found.rows if row.kernel.startswith("conv_"))
    attend = next(row for row in found.rows if row.kernel == "attend")
    assert conv.flops == 2 * 16 * 48 * 64 * 2
    assert attend.flops == 2 * 64 * 64 * 2 * (8 + 8) * 2


def test_the_table():
    rows = (
        ProfileRow("linear_csr", "fc", ms=2.0, flops=100e6, bytes=1e6),
        ProfileRow("linear_csr", "out", ms=1.0, flops=10e6, bytes=8e6),
        ProfileRow("aten.sort.default", "s", ms=0.5, native=False),
    )
    table = Profile(rows, total_ms=4.0, what="one call", roofs=ROOFS)
    lines = table.text().splitlines()
    assert lines[2].split() == ["linear_csr", "fc", "2.0000", "50.0%", "50.0", "0.5", "50%"]
    assert lines[3].split() == ["linear_csr", "out", "1.0000", "25.0%", "10.0", "8.0", "80%"]
    assert lines[4].split() == ["aten.sort.default", "s", "0.5000", "12.5%", "-", "-", "-"]
    assert "4.000 ms a call, 87.5% above; one call." in lines
    short = table.by_kernel()
    assert [(r.kernel, r.ms, r.flops) for r in short.rows] == [
        ("linear_csr", 3.0, 110e6),
        ("aten.sort.default", 0.5, 0.0),
    ]
    assert "roofline" not in Profile((), 0.0, "nothing ran").text().splitlines()[-1]


def test_peaks_are_those_of_the_wanted_instruction_set(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        profile_module, "measure_roofs", lambda *arguments: asked.append(arguments) or ROOFS
    )
    options = Options.from_env(isa="x86-64-v3", cache_dir=tmp_path)
    assert profile_module.machine_roofs(options, 2) is ROOFS
    assert asked == [(2, tmp_path, "x86-64-v3")]


def test_clocks_keep_sizes_apart():
    clock = SegmentClock(calls=2)
    counters = clock.counters()
    counters[:] = [1.0, 2.0, 3.0, 4.0, 5.0]
    for rows in (1, 7, 7):
        clock.add({"B": rows}, 2, counters, 20.0)
    one, seven = clock.spent.values()
    assert (one.runs, seven.runs) == (1, 2)
    assert (seven.work, seven.wait, seven.end, seven.total) == ([2.0, 4.0], [6.0, 8.0], 10.0, 40.0)
    steps = StepClock(("a", "b"))
    steps.start()
    steps.tick(1)
    assert steps.seconds[0] == 0 < steps.seconds[1]


PROGRAM = """
import torch, sparse_compiler as sc
model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 8))
x = torch.randn(32, 64)
with torch.no_grad():
    run = {run}
    for _ in range(3):
        run(x)
print("done")
"""


@pytest.mark.system
@pytest.mark.parametrize(
    "run",
    [
        "sc.compile(model.eval(), (x,))",
        "torch.compile(model.eval(), backend='sparse_compiler')",
    ],
)
def test_the_variable_prints_a_table_at_the_end(run, kernel_cache):
    variables = {
        "SPARSE_COMPILER_PROFILE": "1",
        "SPARSE_COMPILER_FORCE_NATIVE": "1",
        "SPARSE_COMPILER_CACHE": str(kernel_cache),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(run=run)],
        capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
    assert done.stderr.count("linear_") == 2, done.stderr
    assert "ms a call" in done.stderr and "GFLOP/s" in done.stderr
