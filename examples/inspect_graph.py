"""Look inside: the graph before and after the passes, the program, and the ledger.

The text of a graph parses back to the same graph; exits with 1 where it does not, where a layer
that should run sparse does not, or where the numbers differ from the model's.
"""

from __future__ import annotations

import json
import sys

import torch
from torch import nn

import sparse_compiler as sc
from sparse_compiler.ir.text import parse_graph


class Block(nn.Module):
    """The feed-forward half of a transformer layer: x + fc2(gelu(fc1(norm(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm(x))))


@torch.no_grad()
def main() -> int:
    """0 if everything holds, else 1."""
    torch.manual_seed(0)
    model = sc.sparsify(Block(256).eval(), sc.Magnitude(0.9))
    x = torch.randn(1, 128, 256)
    fast = sc.compile(model, (x,), options={"verify": 2})
    lowered = fast.pipeline.lowered

    print(f"--- the graph as imported\n{lowered.source}")
    print(f"--- the graph after the passes\n{lowered.graph}")
    print(f"--- the program\n{lowered.program}")
    report = sc.inspect(fast)
    print("--- what the passes did", *report.passes, sep="\n")
    print(f"\n--- the ledger\n{json.dumps(report.json(), indent=2)}")
    for segment in fast.pipeline.segments:
        print(f"\ngenerated source: {segment.library_path.with_suffix('.cpp')}")

    graphs = (lowered.source, lowered.graph)
    checks = {
        "the text of both graphs parses back": all(
            str(parse_graph(str(g))) == str(g) for g in graphs
        ),
        "both linears run sparse": all(
            entry.native and entry.format != "dense" for entry in report.layers
        ),
        "the result is the model's": torch.allclose(fast(x), model(x), rtol=1e-4, atol=1e-5),
    }
    for what, holds in checks.items():
        print(f"{'ok   ' if holds else 'WRONG'}  {what}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
