"""The roads to a GPU by triton's interpreter: torch.compile, halves, torch's 2:4 product.

`test_gpu_roads.py` runs it in a process of its own: `TRITON_INTERPRET` is for a whole process.
"""

import gc

import pytest
import torch
import torch._dynamo
from torch import nn

import sparse_compiler as sc
from sparse_compiler.backend import last_reports
from sparse_compiler.codegen.gpu import semi_structured
from sparse_compiler.runtime import gpu_packing
from tests.gpu.test_semi_structured import two_of_four


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    last_reports.clear()


def sparse(rows: int, columns: int) -> nn.Linear:
    torch.manual_seed(0)
    made = nn.Linear(columns, rows).eval().requires_grad_(False)
    made.weight.data *= torch.rand(rows, columns) < 0.1
    return made


class Mixed(nn.Module):
    """Sparse layers around what no segment takes: sorting."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = sparse(48, 32), sparse(24, 48)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)).sort(0).values)


def hosted(model: nn.Module, **options):
    chosen = {"target": "cuda:90", "force_native": True, "format": "csr", **options}
    return torch.compile(model, backend="sparse_compiler", options=chosen)


def test_segments_hosted_by_inductor_follow_their_weights() -> None:
    model, x = Mixed().eval(), torch.randn(5, 32)
    fast = hosted(model)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), atol=1e-4, rtol=1e-4)
        (report,) = last_reports
        assert report.reason is None and report.segments == 2
        assert {layer.format for layer in report.report.layers} == {"csr"}
        model.first.weight *= 2.0
        model.second.weight[0] += 1.0
        torch.testing.assert_close(fast(x), model(x), atol=1e-4, rtol=1e-4)
        assert len(last_reports) == 1, "it was compiled again"


def test_a_profile_of_hosted_segments(capsys) -> None:
    model, x = Mixed().eval(), torch.randn(5, 32)
    fast = hosted(model, profile=True)
    with torch.no_grad():
        fast(x)
    del fast
    torch._dynamo.reset()
    gc.collect()
    printed = capsys.readouterr().err
    assert "linear" in printed and "native parts alone" in printed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_of_halves_is_computed_in_halves(dtype) -> None:
    model = nn.Sequential(sparse(48, 32), nn.GELU()).to(dtype).eval()
    x = torch.randn(5, 32, dtype=dtype)
    fast = sc.compile(
        model, (x,), target="cuda:90", options={"force_native": True, "format": "csr"}
    )
    (segment,) = fast.pipeline.segments
    assert segment.dtype == dtype
    with torch.no_grad():
        got, want = fast(x), model(x)
    assert got.dtype == dtype
    assert (got - want).abs().max() <= (5e-3 if dtype == torch.float16 else 4e-2)


def two_four(target: str, dtype=torch.float16, rows=64):
    """A model with an exact 2:4 weight, compiled for torch's kernels on that GPU."""
    model = nn.Sequential(nn.Linear(64, rows), nn.GELU()).eval().requires_grad_(False).to(dtype)
    model[0].weight.data = two_of_four(rows, 64, dtype, 0, kept=1.0)
    x = torch.randn(21, 64, dtype=dtype)
    options = {"force_native": True, "format": "nm_2_4"}
    return model, x, sc.compile(model, (x,), target=target, options=options)


def close(fast, model, x) -> None:
    with torch.no_grad():
        want, got = model(x), fast(x)
    assert (got - want).abs().max() <= 5e-3 * want.abs().max()


def kernels(fast) -> set[str]:
    (segment,) = fast.pipeline.segments
    return {getattr(one, "kernel", one.label).rpartition("_")[0] for one in segment.module.launches}


@pytest.mark.parametrize("target", ["cuda:80", "cuda:90"])
def test_a_2_of_4_weight_is_torchs_product_with_our_epilogue(target: str) -> None:
    model, x, fast = two_four(target)
    assert "sparse_dot" in kernels(fast) and "nm_linear" not in kernels(fast)
    close(fast, model, x)


def test_what_torchs_kernels_refuse_is_ours_and_the_ledger_has_the_limit() -> None:
    model, x, fast = two_four("cuda:80", rows=40)
    assert "nm_linear" in kernels(fast) and "sparse_dot" not in kernels(fast)
    (layer,) = fast.inspect().layers
    said = [c.reason for c in layer.candidates if c.format == "nm_2_4"]
    assert "CUTLASS on sm_80 takes multiples of 32 rows, not 40" in f"{said} {layer.reason}"
    close(fast, model, x)


def test_the_call_of_torchs_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the operator itself replaced: what it is given is the weight, packed, and all of x."""
    given = []

    def operator(values, meta, x):
        given.append((values.shape, meta.dtype, tuple(x.shape)))
        dense = semi_structured.sparse_semi_structured_to_dense_cutlass(values, meta)
        return dense @ x

    monkeypatch.setattr(torch, "_sparse_semi_structured_mm", operator)
    on = semi_structured.Packed24.on
    monkeypatch.setattr(semi_structured.Packed24, "to_dense", lambda packed: on(packed, "cpu"))
    model, x, fast = two_four("cuda:80")
    close(fast, model, x)
    assert given == [((64, 32), torch.int16, (64, 32))], "21 columns, in planes of 32 numbers"
    assert gpu_packing.semi_structured is semi_structured


def test_cusparselt_packs_and_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    """With both of cuSPARSELt's operators replaced."""
    packed = []

    def compress(weight):
        packed.append(weight)
        return weight.flatten()

    def operator(values, x, bias=None, transpose_result=False, alg_id=0):
        assert bias is None and not transpose_result
        return values.view(64, 64) @ x

    monkeypatch.setattr(torch, "_cslt_compress", compress)
    monkeypatch.setattr(torch, "_cslt_sparse_mm", operator)

    def on(self, device):
        made = torch.sparse.SparseSemiStructuredTensorCUSPARSELT
        packed = torch._cslt_compress(self.values)
        return made(torch.Size(self.shape), packed, None, None, None, None)

    monkeypatch.setattr(semi_structured.Packed24, "to_dense", lambda packed: on(packed, "cpu"))
    model, x, fast = two_four("cuda:90")
    close(fast, model, x)
    assert len(packed) == 1 and torch.equal(packed[0], model[0].weight)
