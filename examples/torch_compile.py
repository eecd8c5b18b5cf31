"""One line: torch.compile(model, backend="sparse_compiler"), and what happens when weights change.

The backend is found by its name, so nothing of ours is imported here until the report at the end.
Every result is compared with the model's own; exits with 1 where one differs.
"""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch.nn.utils import prune

LIMIT = 1e-4  # max|a - b| / max|b|


def pruned_mlp() -> nn.Module:
    """Two linear layers with 90 % zeros, pruned by torch's own means."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(768, 3072), nn.GELU(), nn.Linear(3072, 768)).eval()
    for layer in (model[0], model[2]):
        prune.l1_unstructured(layer, "weight", amount=0.9)
        prune.remove(layer, "weight")
    return model


def check(what: str, model: nn.Module, fast: nn.Module, x: torch.Tensor) -> bool:
    """Prints the relative error of `fast`; False where it is too large."""
    expected, got = model(x), fast(x)
    error = float((got - expected).abs().max() / expected.abs().max())
    ok = got.shape == expected.shape and error <= LIMIT
    print(f"{what:<42} relative error {error:.1e}  {'ok' if ok else 'WRONG'}")
    return ok


@torch.no_grad()
def main() -> int:
    """0 if all results are right and the layers ran sparse, else 1."""
    model = pruned_mlp()
    fast = torch.compile(model, backend="sparse_compiler")
    x = torch.randn(128, 768)
    ok = check("first call, compiles", model, fast, x)

    first = model[0]
    first.weight.mul_(2)
    ok &= check("a weight multiplied in place", model, fast, x)
    first.weight[:, :100] = 0
    ok &= check("a weight zeroed in places: a new pattern", model, fast, x)
    first.weight = nn.Parameter(first.weight * 0.5)
    ok &= check("a weight replaced by a new Parameter", model, fast, x)
    model.load_state_dict({name: t * 0.9 for name, t in model.state_dict().items()})
    ok &= check("weights loaded by load_state_dict", model, fast, x)
    for rows in (1, 7, 3):
        ok &= check(f"{rows} rows instead of 128", model, fast, torch.randn(rows, 768))

    from sparse_compiler.backend import last_reports

    native = [report for report in last_reports if report.segments]
    for report in native:
        print(f"\n{report.report.text()}")
    if not native:
        print("\nno part of any graph ran natively")
    return 0 if ok and native else 1


if __name__ == "__main__":
    sys.exit(main())
