"""Target "cuda": programs by triton's interpreter, in a process of its own, and its errors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import sparse_compiler as sc
from sparse_compiler.errors import OptionError

FILE = Path(__file__).with_name("interpreted_programs.py")
SAMPLE = (
    "fp32-csr or fp32-nm_2_4 or fp32-block_16x16 or fp32-block_4x1 or bf16-csr or few_columns "
    "or depthwise or norm or softmax or pool or bad_input or beyond_32"
)


def interpreted(*arguments: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--show-capture=no"]
    command += ["-p", "no:cacheprovider", "-n0", str(FILE), *arguments]
    env = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-4000:]


@pytest.mark.system
def test_some_kernels_by_the_interpreter() -> None:
    interpreted("-k", SAMPLE)


@pytest.mark.system
def test_bert_by_the_interpreter() -> None:
    interpreted("-k", "bert")


@pytest.mark.slow
def test_every_kernel_format_and_dtype_by_the_interpreter() -> None:
    interpreted()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_told() -> None:
    with pytest.raises(OptionError, match='option target is "cuda", and there is no GPU'):
        sc.compile(nn.Linear(4, 4).eval(), (torch.randn(2, 4),), target="cuda")


def test_without_triton_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(OptionError, match=r"needs triton.*\n.*\n.*\[gpu\]"):
        sc.compile(nn.Linear(4, 4).eval(), (torch.randn(2, 4),), target="cuda")
