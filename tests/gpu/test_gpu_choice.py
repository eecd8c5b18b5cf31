"""The ledger of a model lowered for a GPU: dense where zeros do not pay, 2:4's limits by name."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sparse_compiler.codegen.gpu.calls import print_segment
from sparse_compiler.codegen.gpu.source import Launch
from sparse_compiler.formats.cost import LinearShape
from sparse_compiler.formats.gpu_cost import GpuMachine, gpu_machine
from sparse_compiler.formats.gpu_kernels import Stored, ranked
from sparse_compiler.frontends.export import export_module
from sparse_compiler.inspector.report import Report, report_of
from sparse_compiler.options import Options
from sparse_compiler.runtime.pipeline import lower_graph
from sparse_compiler.runtime.weights import LiveWeights
from tests.gpu.test_semi_structured import two_of_four

pytestmark = pytest.mark.system
H100 = gpu_machine("cuda:90", "fp16")


def ledger(weight: torch.Tensor, columns: int, machine: GpuMachine) -> Report:
    """Of one linear layer with this weight [rows, depth], on an input of so many columns."""
    linear = nn.Linear(*reversed(weight.shape), bias=False).eval().requires_grad_(False)
    linear.weight.data = weight
    exported = export_module(linear, (torch.zeros(columns, weight.shape[1]),), None, None)
    live = LiveWeights(exported.imported.params, linear)
    options = Options.from_env(calibrate=False, force_native=True)
    return report_of(lower_graph(exported.imported.graph, live, options, {}, machine=machine))


def scattered(sparsity: float) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(1024, 2048) * (torch.rand(1024, 2048) >= sparsity)


def test_scattered_zeros_stay_dense_where_arithmetic_is_the_bound() -> None:
    (layer,) = ledger(scattered(0.9), 8192, H100).layers
    assert layer.format == "dense"
    csr = next(c for c in layer.candidates if c.format == "csr")
    dense = next(c for c in layer.candidates if c.format == "dense")
    assert csr.reason is not None and csr.reason.startswith("below_break_even")
    assert csr.predicted_ms > dense.predicted_ms


def test_they_are_taken_where_memory_is() -> None:
    (layer,) = ledger(scattered(0.9), 1, H100).layers
    assert layer.format in ("csr", "bitmap") and layer.crossover is None


@pytest.mark.parametrize(
    ("rows", "machine", "limit"),
    [
        (1024, H100, None),
        (1032, H100, "cuSPARSELt on sm_90 takes multiples of 16 rows, not 1032"),
        (1024, replace(H100, dtype="tf32"), "torch's 2:4 kernels take fp16 and bf16, not tf32"),
        (1024, gpu_machine("gfx942", "fp16"), "torch has no 2:4 kernel for gfx942"),
    ],
    ids=["fits", "rows", "dtype", "arch"],
)
def test_an_exact_2_of_4_weight_and_the_limit_that_failed(rows, machine, limit) -> None:
    (layer,) = ledger(two_of_four(rows, 2048, torch.float32, 0, kept=1.0), 8192, machine).layers
    assert layer.pattern == "2:4"
    assert (layer.format == "nm_2_4") == (limit is None)
    said = next(c for c in layer.candidates if c.format == "nm_2_4").reason
    assert said is None if limit is None else f"semi_structured: {limit}" in f"{said}"


def test_a_launch_has_its_other_tiles_beside_it_in_the_order_of_the_model() -> None:
    linear = nn.Linear(2048, 1024, bias=False).eval().requires_grad_(False)
    linear.weight.data = scattered(0.9)
    exported = export_module(linear, (torch.zeros(4096, 2048),), None, None)
    live = LiveWeights(exported.imported.params, linear)
    options = Options.from_env(calibrate=False, force_native=True, format="csr")
    lowered = lower_graph(exported.imported.graph, live, options, {}, machine=H100)
    (segment,) = lowered.program.segments
    found = [x for x in print_segment(segment, "fp16").launches if getattr(x, "others", ())]
    (first,) = [launch for launch in found if isinstance(launch, Launch)]
    shape = LinearShape(1024, 2048, round(1024 * 2048 * 0.1), 4096)
    ranking = ranked(Stored("csr"), shape, "fp16", H100.arch)
    tiles = [(c.tile.rows, c.tile.columns, c.tile.warps) for c in ranking[:4]]
    printed = [(x.args["HIGH"], x.args["WIDE"], x.warps) for x in (first, *first.others)]
    assert printed == tiles and len(set(tiles)) == 4
