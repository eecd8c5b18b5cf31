"""A pruned model that comes from TVM or ONNX, and sparse layers inside TVM's own machine.

    python examples/from_tvm.py          # needs pip install 'sparse-compiler[tvm]'

One small encoder block with 90 % of its weights zero takes three ways: as a Relax module and as an
ONNX file into `sc.compile`, and back into TVM, whose virtual machine then calls our kernels.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sparse_compiler as sc

TOKENS, WIDTH, HEADS = 64, 256, 8


class Block(nn.Module):
    """Attention and a feed-forward part."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layers = (self.query, self.key, self.value)
        q, k, v = (f(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for f in layers)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.norm(x + self.out(mixed))
        return x + self.down(nn.functional.gelu(self.up(x)))


def pruned() -> nn.Module:
    """The block in eval mode, with the zeros in its weights themselves."""
    torch.manual_seed(0)
    block = Block().eval().requires_grad_(False)
    for layer in block.modules():
        if isinstance(layer, nn.Linear):
            smallest = layer.weight.abs().flatten().kthvalue(int(0.9 * layer.weight.numel()))
            layer.weight.mul_(layer.weight.abs() > smallest.values)
    return block


def show(title: str, found: torch.Tensor, wanted: torch.Tensor, ledger: Any) -> None:
    error = float((found - wanted).abs().max())
    print(f"== {title}: largest difference from eager {error:.1e}\n{ledger}\n")
    if error > 1e-4:
        sys.exit(f"{title} differs from eager")


def through_relax(module: Any, x: torch.Tensor, wanted: torch.Tensor) -> None:
    """A Relax module goes where a torch module goes."""
    compiled = sc.compile(module, (x,))
    show("Relax module, sc.compile", compiled(x), wanted, compiled.inspect().text())


def through_onnx(model: nn.Module, x: torch.Tensor, wanted: torch.Tensor) -> None:
    """So does the path of an ONNX file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "block.onnx"
        torch.onnx.export(model, (x,), path, dynamo=True, verbose=False)
        compiled = sc.compile(path, (x,))
        show("ONNX file, sc.compile", compiled(x), wanted, compiled.inspect().summary())


def inside_tvm(module: Any, x: torch.Tensor, wanted: torch.Tensor) -> None:
    """The pass puts calls of our kernels into the module; TVM builds and runs the result."""
    import tvm

    sparse = sc.tvm.SparseLinear()
    built = tvm.relax.build(sparse(module), "llvm")
    machine = tvm.relax.VirtualMachine(built, tvm.cpu())
    result = machine["main"](tvm.runtime.from_dlpack(x))[0]
    show("TVM's virtual machine", torch.from_dlpack(result), wanted, sparse.report)


def main() -> None:
    if importlib.util.find_spec("tvm") is None:
        sys.exit("TVM is missing: pip install 'sparse-compiler[tvm]'")
    from tvm.relax.frontend.torch import from_exported_program

    warnings.simplefilter("ignore")
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    model, x = pruned(), torch.randn(1, TOKENS, WIDTH)
    wanted = model(x)
    module = from_exported_program(torch.export.export(model, (x,)))
    through_relax(module, x, wanted)
    inside_tvm(module, x, wanted)
    if importlib.util.find_spec("onnxscript") is None:
        print("== ONNX file: left out, torch.onnx.export needs onnxscript")
        return
    through_onnx(model, x, wanted)


if __name__ == "__main__":
    main()
