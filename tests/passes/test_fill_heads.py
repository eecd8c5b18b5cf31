"""Heads that are left with different numbers of features: the layer computes those alone."""

import pytest
import torch

from sparse_compiler.errors import VerifyError
from sparse_compiler.ir.interpret import interpret
from sparse_compiler.ir.text import parse_graph
from sparse_compiler.ir.types import Layout, TensorType
from sparse_compiler.ops.take import Spread
from sparse_compiler.options import Options
from sparse_compiler.passes.base import Context
from sparse_compiler.passes.eliminate_dead_channels import EliminateDeadChannels
from sparse_compiler.runtime.pipeline import Pipeline
from sparse_compiler.runtime.weights import LiveWeights

HEADS = """
    input %x: f32[1, 5, 16]
    param %q: f32[16, 16]
    param %k: f32[16, 16]
    param %v: f32[16, 16]
    param %b: f32[16]
    param %o: f32[16, 16]
    %ql: f32[1, 5, 16] = linear[bias=true](%x, %q, %b)
    %kl: f32[1, 5, 16] = linear(%x, %k)
    %vl: f32[1, 5, 16] = linear[bias=true](%x, %v, %b)
    %qs: f32[1, 5, 2, 8] = reshape[shape=(1, 5, 2, 8)](%ql)
    %ks: f32[1, 5, 2, 8] = reshape[shape=(1, 5, 2, 8)](%kl)
    %vs: f32[1, 5, 2, 8] = reshape[shape=(1, 5, 2, 8)](%vl)
    %qt: f32[1, 2, 5, 8] = permute[dims=(0, 2, 1, 3)](%qs)
    %kt: f32[1, 2, 5, 8] = permute[dims=(0, 2, 1, 3)](%ks)
    %vt: f32[1, 2, 5, 8] = permute[dims=(0, 2, 1, 3)](%vs)
    %a: f32[1, 2, 5, 8] = attention[mask=false](%qt, %kt, %vt)
    %at: f32[1, 5, 2, 8] = permute[dims=(0, 2, 1, 3)](%a)
    %m: f32[1, 5, 16] = reshape[shape=(1, 5, 16)](%at)
    %y: f32[1, 5, 16] = linear(%m, %o)
    return %y
"""
UNEVEN = [0, 1, 2, 3, 9, 12]  # 4 of the first head's features are left, 6 of the second's


def weights(dead):
    generator = torch.Generator().manual_seed(0)
    found = {name: torch.randn(16, 16, generator=generator) for name in "qkvo"}
    for name in "qkv":
        found[name][dead] = 0.0
    return found | {"b": torch.randn(16, generator=generator)}


def eliminated(dead):
    graph, params = parse_graph(HEADS), weights(dead)
    result = EliminateDeadChannels().run(graph, Context(params=params))
    x = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(1))
    (before,), (after,) = interpret(graph, [x], params), interpret(result, [x], params)
    assert torch.allclose(after, before, atol=1e-5)
    return result


def test_heads_of_different_sizes_are_filled_up_behind_their_layer() -> None:
    result = eliminated(UNEVEN)
    assert [result.tensor(name).shape[-1] for name in ("ql", "kl", "vl")] == [10, 10, 10]
    assert result.tensor("a").shape == (1, 2, 5, 6)
    assert sum(node.op.name == "spread" for node in result.nodes) == 3


def test_heads_of_one_size_need_no_filling() -> None:
    result = eliminated([0, 1, 2, 9, 12, 13])
    assert result.tensor("ql").shape[-1] == 10
    assert not any(node.op.name == "spread" for node in result.nodes)


def test_one_constant_of_many_is_not_worth_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparse_compiler.analysis.channels.rules.views.FILL_PER_ROWS", 2)
    result = eliminated(UNEVEN)
    assert result.tensor("ql").shape[-1] == 12
    assert not any(node.op.name == "spread" for node in result.nodes)


@pytest.mark.system
@pytest.mark.usefixtures("cached_kernels")
def test_filled_heads_run_natively() -> None:
    options = Options.from_dict({"force_native": True, "verify": 2})
    graph, params = parse_graph(HEADS), weights(UNEVEN)
    pipeline = Pipeline(graph, LiveWeights(params), options)
    assert "spread" in str(pipeline.lowered.program)
    x = torch.randn(1, 5, 16)
    (got,), (expected,) = pipeline.executor([x]), interpret(graph, [x], params)
    assert torch.allclose(got, expected, atol=1e-5)


def test_spread_refuses_what_does_not_fit() -> None:
    x, base = TensorType("f32", (2, 3)), TensorType("f32", (5,))
    assert Spread(((0, 1), (3, 5))).infer((x, base)).shape == (2, 5)
    for ranges in (((0, 2),), ((0, 3), (2, 3)), ((3, 6),)):
        with pytest.raises(VerifyError, match="spread"):
            Spread(ranges).infer((x, base))
    tokens = TensorType("f32", (2, 3), Layout((1, 0), 1))
    refused = Spread(((0, 3),)).planar((tokens, base), (False, False))
    assert getattr(refused, "code", "") in ("weight_is_computed", "layout")
