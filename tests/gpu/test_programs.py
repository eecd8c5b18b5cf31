"""Target "cuda": ops and programs by triton's interpreter, in processes of their own, its errors.

Random uses of every op, format and dtype; whole models; and a rule that nothing tests fails here.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import sparse_compiler as sc
from sparse_compiler.codegen.gpu.calls import RULES
from sparse_compiler.codegen.gpu.rules import kernel_name
from sparse_compiler.codegen.lower import lower
from sparse_compiler.errors import OptionError
from tests.gpu.gpu_uses import all_uses

HERE = Path(__file__).parent
CASES = 6
"""Random cases of each strategy in the complete set."""
OPS_SAMPLE = (
    "(fp32 and not linear and not block and not sorted) or fp32-block_4x1 or bf16-block_16x16 "
    "or fp16-csr or function or power or told"
)
MODELS_SAMPLE = "two_layers_of_bert or kernel or told or asked or 32_bits"


def interpreted(name: str, *arguments: str, cases: int = CASES) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--show-capture=no", "--tb=native"]
    command += ["-p", "no:cacheprovider", "-n0", "-W", "ignore", str(HERE / name), *arguments]
    env = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "GPU_CASES": f"{cases}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-4000:]


@pytest.mark.system
def test_ops_formats_and_functions_by_the_interpreter() -> None:
    interpreted("interpreted_ops.py", "-k", OPS_SAMPLE, cases=1)


@pytest.mark.system
def test_models_by_the_interpreter() -> None:
    interpreted("interpreted_models.py", "-k", MODELS_SAMPLE)


DTYPES = ("fp32", "fp16", "bf16")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("which", [*DTYPES, f"not ({' or '.join(DTYPES)})"])
def test_every_op_format_and_dtype_by_the_interpreter(which: str) -> None:
    interpreted("interpreted_ops.py", "-k", which)


@pytest.mark.slow
def test_every_model_by_the_interpreter() -> None:
    interpreted("interpreted_models.py")


@pytest.mark.system
def test_every_rule_is_tested() -> None:
    """By some use of the complete set; a new rule needs a case in `wide_cases.py`."""
    programs = [lower(use.graph) for use in all_uses(CASES)]
    calls = {call.kernel for p in programs for s in p.segments for call in s.calls}
    assert {kernel_name(kernel) for kernel in calls} == set(RULES)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_told() -> None:
    with pytest.raises(OptionError, match='option target is "cuda", and there is no GPU'):
        sc.compile(nn.Linear(4, 4).eval(), (torch.randn(2, 4),), target="cuda")


def test_without_triton_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(OptionError, match=r"needs triton.*\n.*\n.*\[gpu\]"):
        sc.compile(nn.Linear(4, 4).eval(), (torch.randn(2, 4),), target="cuda")
