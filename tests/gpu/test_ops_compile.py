"""What the interpreter lets pass, triton's compiler may refuse: every op's kernels, compiled."""

import re

import pytest
import torch

from sparse_compiler.codegen.gpu.expressions import code_of
from sparse_compiler.codegen.gpu.static import Kernel, compile_kernel
from sparse_compiler.codegen.lower import lower
from sparse_compiler.errors import CodegenError, GraphSyntaxError
from sparse_compiler.formats.gpu_arch import DEFAULT
from sparse_compiler.ir.expr import parse_expr
from sparse_compiler.ir.interpret import bind_inputs
from sparse_compiler.ops.scalar import SCALAR_FUNCTIONS
from sparse_compiler.runtime.constants import BoundConstants
from sparse_compiler.runtime.gpu import GpuSegment, load_kernels
from sparse_compiler.runtime.gpu_place import Place
from sparse_compiler.runtime.pipeline import program_values
from tests.codegen.native_modes import Use
from tests.gpu.gpu_uses import FAMILIES, gpu_uses

PLACE = Place(torch.device("cpu"), DEFAULT, runs=False)


def compiled_kernels(use: Use, dtype: str) -> int:
    """How many kernels of a use were compiled."""
    program = lower(use.graph)
    values = program_values(program, use.graph, use.params)
    constants = BoundConstants(use.graph, program.bind, values.kept)
    count = 0
    for segment in program.segments:
        made = GpuSegment(segment, PLACE, constants, dtype)
        made.load_weights(values)
        for _, kernel in made.offline(bind_inputs(use.graph, use.inputs)):
            assert compile_kernel(kernel, DEFAULT).facts.spill_bytes == 0, f"{use}\n{program}"
            count += 1
    return count


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_kernels_of_an_op_compile(name: str) -> None:
    counts = [
        compiled_kernels(use, dtype) for dtype in ("fp32", "fp16") for use in gpu_uses(name, 1)
    ]
    assert sum(counts)


def function_code(name: str, number: int, dtype: str) -> list[str]:
    """Lines that compute a function of x0, x1, x2 and store it; none where there is no such one."""
    constants = {"leaky_relu": "x0, 0.1", "elu": "x0, 0.5", "clamp": "x0, -1.0, 6.0"}
    args = constants.get(name, ", ".join(f"x{i}" for i in range(SCALAR_FUNCTIONS[name].arity)))
    try:
        lines = code_of(parse_expr(f"{name}({args})"), (dtype,) * 3)
    except (CodegenError, GraphSyntaxError):
        return []
    lines = [re.sub(r"\b(t\d+|value)\b", rf"\1_{number}", line) for line in lines]
    stored = f"(value_{number} + tl.zeros([512], tl.int8)).to(tl.float32)"
    return [*lines, f"tl.store(out + {number} * 512 + i, {stored})"]


@pytest.mark.system
@pytest.mark.parametrize("dtype", ["f32", "i64", "bool"])
def test_every_function_compiles(dtype: str) -> None:
    """All functions of a dtype in one kernel."""
    from triton.runtime.jit import JITFunction

    names = sorted(set(SCALAR_FUNCTIONS) - {"f64"})
    lines = [line for i, name in enumerate(names) for line in function_code(name, i, dtype)]
    assert len(lines) > len(names)
    reads = [f"x{i} = tl.load(p{i} + i){' != 0' * (dtype == 'bool')}" for i in range(3)]
    body = "\n    ".join(["i = tl.arange(0, 512)", *reads, *lines])
    text = f"import triton.language as tl\n\n\ndef every(p0, p1, p2, out):\n    {body}\n"
    pointer = {"f32": "*fp32", "i64": "*i64", "bool": "*i1"}[dtype]
    types = (*((f"p{i}", pointer) for i in range(3)), ("out", "*fp32"))
    made = Kernel(JITFunction(load_kernels(text)["every"]), types, (), (), 4, 3)
    assert compile_kernel(made, DEFAULT).facts.registers > 0
