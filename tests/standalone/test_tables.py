"""What depends on sizes alone becomes something that inputs decide."""

from __future__ import annotations

import pytest
import torch

from sparse_compiler.errors import UnsupportedError
from sparse_compiler.ir.interpret import interpret
from sparse_compiler.ir.text import parse_graph
from sparse_compiler.options import Options
from sparse_compiler.runtime.pipeline import Pipeline
from sparse_compiler.runtime.tables import with_tables
from sparse_compiler.runtime.weights import LiveWeights

TEXT = """
symbol b in [1, 8]
symbol s in [2, {high}]
input %x: f32[b, s, 32]
param %table: f32[16, 32]
param %w: f32[32, 32]
%places: f32[s, 32] = slice[dim=0, stop=s](%table)
%counts: f32[s] = iota[length=s, dtype="f32"]()
%column: f32[s, 1] = reshape[shape=(s, 1)](%counts)
%moved: f32[s, 32] = pointwise[expr="add(x0, x1)"](%places, %column)
%all: f32[1, s, 32] = reshape[shape=(1, s, 32)](%moved)
%y: f32[b, s, 32] = pointwise[expr="add(x0, x1)"](%x, %all)
%z: f32[b, s, 32] = linear(%y, %w)
return %z
"""


def test_values_of_sizes_are_computed_from_tables_at_each_call() -> None:
    params = {"table": torch.randn(16, 32), "w": torch.randn(32, 32) * (torch.rand(32, 32) < 0.3)}
    graph = parse_graph(TEXT.format(high=16))
    assert graph.bind_time > graph.weight_time
    called, tables = with_tables(graph, params)
    assert called.bind_time == called.weight_time
    assert {name: tuple(t.shape) for name, t in tables.items()} == {
        "table.table": (16, 32),
        "counts.table": (16,),
    }
    for s in (2, 9, 16):
        x = torch.randn(3, s, 32)
        (want,) = interpret(graph, [x], params)
        (got,) = interpret(called, [x, *tables.values()], params)
        assert torch.equal(got, want)


def test_a_length_without_bound_is_refused() -> None:
    params = {"table": torch.randn(16, 32), "w": torch.randn(32, 32)}
    with pytest.raises(UnsupportedError, match="%counts counts up to s, which nothing bounds"):
        with_tables(parse_graph(TEXT.format(high="inf")), params)


@pytest.mark.system
def test_calls_before_the_chunks_stand_first_in_the_program(kernel_cache) -> None:
    """Waits and lifetimes follow the order of calls, which must be that in which they run."""
    graph = parse_graph(TEXT.format(high=16))
    params = {"table": torch.randn(16, 32), "w": torch.randn(32, 32) * (torch.rand(32, 32) < 0.3)}
    called, tables = with_tables(graph, params)
    options = Options.from_dict({"force_native": True, "cache_dir": kernel_cache})
    pipeline = Pipeline(called, LiveWeights(params), options)
    (segment,) = pipeline.lowered.program.segments
    once = [call.once for call in segment.calls]
    assert any(once) and once == sorted(once, reverse=True)
    x = torch.randn(3, 9, 32)
    (want,) = interpret(graph, [x], params)
    (got,) = pipeline.executor([x, *tables.values()])
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
