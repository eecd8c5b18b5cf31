"""Random graphs compiled and run: the machine code against the interpreter of the graph."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings

from sparse_compiler.ir.interpret import interpret
from sparse_compiler.options import Options
from sparse_compiler.passes.compare import mismatch
from sparse_compiler.runtime.pipeline import Pipeline
from sparse_compiler.runtime.weights import LiveWeights
from tests.codegen.random_graphs import RandomGraph, random_graphs
from tests.codegen.test_lower import laid_out

SETTINGS = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def check(case: RandomGraph, cache: Path) -> None:
    options = Options.from_dict({"force_native": True, "cache_dir": cache})
    pipeline = Pipeline(case.graph, LiveWeights(case.params), options, case.hints)
    for threads in (2, 1):
        torch.set_num_threads(threads)
        for inputs in case.inputs:
            expected = interpret(case.graph, inputs, case.params)
            for got, want in zip(pipeline.executor(inputs), expected, strict=True):
                problem = mismatch(got, want)
                assert problem is None, f"{problem}\n{pipeline.lowered.program}"


def has_segments(case: RandomGraph) -> bool:
    return any(type_.layout is not None for type_ in laid_out(case).types.values())


@settings(SETTINGS, max_examples=8)
@given(random_graphs(8))
def test_machine_code_agrees_with_the_interpreter(kernel_cache: Path, case: RandomGraph) -> None:
    assume(has_segments(case))
    check(case, kernel_cache)


@pytest.mark.slow
@settings(SETTINGS, max_examples=60)
@given(random_graphs(16))
def test_more_machine_code(kernel_cache: Path, case: RandomGraph) -> None:
    assume(has_segments(case))
    check(case, kernel_cache)
