"""Programs for a GPU by triton's interpreter, which must be on: TRITON_INTERPRET=1.

The interpreter keeps bf16 as its bits, and its dot multiplies them as integers. Here it widens them
first, as matrix units do, so that the same kernels are right in bf16 too.
"""

from collections.abc import Iterator

import numpy as np
import torch
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from sparse_compiler.codegen.gpu.rules import kernel_name
from sparse_compiler.codegen.lower import lower
from sparse_compiler.codegen.program import Program
from sparse_compiler.ir.interpret import interpret
from sparse_compiler.passes.compare import mismatch
from sparse_compiler.runtime.constants import BoundConstants
from sparse_compiler.runtime.executor import Executor
from sparse_compiler.runtime.gpu import GpuSegment
from sparse_compiler.runtime.gpu_place import place_of
from sparse_compiler.runtime.pipeline import program_values
from tests.codegen.native_modes import Use

TOLERANCES = {"fp32": None, "fp16": 6e-3, "bf16": 5e-2}
"""Of the largest number; None: what the CPU's kernels are held to."""

_dot = InterpreterBuilder.create_dot


def _widened(self, a, b, d, precision, inexact):
    """The dot with operands of bf16 as fp32."""
    a, b = (_fp32(x) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
    return _dot(self, a, b, d, precision, inexact)


def _fp32(x: TensorHandle) -> TensorHandle:
    return TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


def mend() -> None:
    """Dots of bf16 as a GPU has them, from now on in this process."""
    InterpreterBuilder.create_dot = _widened


def executor_of(use: Use, dtype: str) -> Executor:
    """The program of a graph with its weights."""
    program = lower(use.graph)
    assert program.segments and len(program.steps) == len(program.segments), use
    values = program_values(program, use.graph, use.params)
    constants = BoundConstants(use.graph, program.bind, values.kept)
    place, segments = place_of("cuda", {}), []
    for segment in program.segments:
        segments.append(GpuSegment(segment, place, constants, dtype))
        segments[-1].load_weights(values)
    return Executor(use.graph, program, segments, values.kept)


def kernels_of(program: Program) -> set[str]:
    """The names of the kernels that a program calls."""
    return {kernel_name(call.kernel) for s in program.segments for call in s.calls}


def problems(use: Use, dtype: str) -> Iterator[str]:
    """What differs from the reference, in words."""
    executor = executor_of(use, dtype)
    expected = interpret(use.graph, use.inputs, use.params)
    for got, want in zip(executor(use.inputs), expected, strict=True):
        problem = differs(got, want, TOLERANCES[dtype])
        if problem:
            yield f"{dtype}: {problem}\n{use}\n{executor.program}"


def differs(got: torch.Tensor, want: torch.Tensor, tolerance: float | None) -> str | None:
    """What is wrong with a result; tolerance: of the largest number, None for exact arithmetic."""
    if tolerance is None or not want.is_floating_point():
        return mismatch(got, want)
    if got.shape != want.shape or not torch.equal(got.isnan(), want.isnan()):
        return f"another shape or other NaNs: {got}, not {want}"
    finite = want.isfinite() & got.isfinite()
    error = (got - want)[finite].abs().max() if finite.any() else torch.zeros(())
    scale = want[finite].abs().max().clamp_min(1.0) if finite.any() else 1.0
    return None if error <= tolerance * scale else f"an error of {error} beside {scale}"
