"""Batches of symmetric positive definite systems, by Cholesky factors.

Half the work of an LU factorisation; and torch's batched LU fails on a CPU for systems of several
hundred unknowns (torch 2.13 with MKL: "Parameter 6 was incorrect on entry to SLASWP").
"""

from __future__ import annotations

import torch

from sparse_compiler.errors import UnsupportedError


def solve(systems: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """x [batch, n] with systems [batch, n, n] @ x = right [batch, n]."""
    return torch.cholesky_solve(right[..., None], _factor(systems))[..., 0]


def inverse(matrices: torch.Tensor) -> torch.Tensor:
    """The inverses of [batch, n, n]."""
    return torch.cholesky_inverse(_factor(matrices))


def _factor(matrices: torch.Tensor) -> torch.Tensor:
    factor: torch.Tensor
    factor, failed = torch.linalg.cholesky_ex(matrices)
    if bool(failed.any()):
        raise UnsupportedError(
            "a second-order criterion met a matrix that is not positive definite",
            why="its calibration inputs hardly vary, or its damping is lost to rounding",
            fix="raise the recipe's damping, or give more calibration inputs",
        )
    return factor
