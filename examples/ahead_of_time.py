"""Prune, save, and load in another process: the file's size follows the non-zeros.

    python examples/ahead_of_time.py

Saves an encoder of random weights, as wide as MiniLM, at 90 % zeros, then starts a second Python
that knows nothing of the model, loads the file and compares its numbers with those of this process.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import sparse_compiler as sc

SPARSITY, TOKENS, WIDTH = 0.9, 128, 384

OTHER_PROCESS = """
import sys, time
import torch
import sparse_compiler as sc

file, numbers = sys.argv[1:]
x, wanted = torch.load(numbers)
sc.load  # the package is imported; what follows is the load itself
began = time.perf_counter()
fast = sc.load(file)
loaded = time.perf_counter()
found = fast(x)
print(f"loaded in {loaded - began:.2f} s, first call {1e3 * (time.perf_counter() - loaded):.1f} ms")
print(f"largest difference from the process that saved it: {(found - wanted).abs().max():g}")
print(fast.inspect().summary())
"""


class Layer(nn.Module):
    """Attention and a feed-forward part, as in BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = [f(x).unflatten(2, (12, -1)).transpose(1, 2) for f in self.attention()]
        mixed = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.out(mixed))
        return self.norm2(x + self.down(nn.functional.gelu(self.up(x))))

    def attention(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return self.query, self.key, self.value


def main() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(*(Layer() for _ in range(6)))
    model = sc.sparsify(encoder.eval(), sc.Magnitude(SPARSITY)).requires_grad_(False)
    x = torch.randn(1, TOKENS, WIDTH)

    with tempfile.TemporaryDirectory() as name:
        file, numbers = Path(name) / "encoder.scz", Path(name) / "numbers.pt"
        sc.export(model, (x,), file)
        dense = sum(p.numel() for p in encoder.parameters()) * 4
        size = file.stat().st_size
        print(f"{file.name}: {size / 1e6:.1f} MB, {size / dense:.3f} of {dense / 1e6:.1f} MB dense")

        fast = sc.load(file)  # also builds the kernels, once for this machine
        print(f"largest error against eager: {(fast(x) - model(x)).abs().max():.1e}")
        torch.save((x, fast(x)), numbers)
        command = [sys.executable, "-c", OTHER_PROCESS, str(file), str(numbers)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
