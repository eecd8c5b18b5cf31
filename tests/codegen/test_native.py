"""Random graphs compiled and run: the machine code against the interpreter of the graph."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sparse_compiler.ir.interpret import interpret
from sparse_compiler.options import Options
from sparse_compiler.passes.compare import mismatch
from sparse_compiler.runtime.executor import Executor
from sparse_compiler.runtime.native import NativeSegment
from sparse_compiler.runtime.pipeline import Pipeline, toolchain_for
from sparse_compiler.runtime.weights import LiveWeights
from tests.codegen.native_modes import SHARING, shared_out
from tests.codegen.random_graphs import RandomGraph, random_graphs
from tests.codegen.random_images import random_images
from tests.codegen.test_lower import laid_out

SETTINGS = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def fresh(pipeline: Pipeline) -> Executor:
    """The same program on the same weights, bound to no sizes yet."""
    segments = []
    for segment in pipeline.segments:
        toolchain = toolchain_for(pipeline.options)
        segments.append(NativeSegment(segment.segment, toolchain, segment.constants))
        segments[-1].share_weights(segment)
    return Executor(pipeline.graph, pipeline.lowered.program, segments, pipeline.executor.values)


def check(case: RandomGraph, cache: Path) -> None:
    options = Options.from_dict({"force_native": True, "cache_dir": cache})
    pipeline = Pipeline(case.graph, LiveWeights(case.params), options, case.hints)
    for way in SHARING:
        for inputs in case.inputs:
            expected = interpret(case.graph, inputs, case.params)
            for threads, results in shared_out(way, lambda: fresh(pipeline), inputs):
                for got, want in zip(results, expected, strict=True):
                    problem = mismatch(got, want)
                    assert problem is None, (
                        f"{threads}, {way}: {problem}\n{pipeline.lowered.program}"
                    )


def has_segments(case: RandomGraph) -> bool:
    return any(type_.layout is not None for type_ in laid_out(case).types.values())


@settings(SETTINGS, max_examples=3)
@given(random_graphs(8))
def test_machine_code_agrees_with_the_interpreter(kernel_cache: Path, case: RandomGraph) -> None:
    assume(has_segments(case))
    check(case, kernel_cache)


@settings(SETTINGS, max_examples=2)
@given(random_images(8))
def test_images_agree_with_the_interpreter(kernel_cache: Path, case: RandomGraph) -> None:
    assume(has_segments(case))
    check(case, kernel_cache)


@pytest.mark.slow
@settings(SETTINGS, max_examples=100)
@given(st.one_of(random_graphs(16), random_images(14)))
def test_more_machine_code(kernel_cache: Path, case: RandomGraph) -> None:
    assume(has_segments(case))
    check(case, kernel_cache)
