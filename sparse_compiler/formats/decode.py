"""Costs of a linear on few columns: each number is read once, and expanded, picked or neither."""

from __future__ import annotations

from .cost import Cost, P, T, W, k, m, nnz

_SHARED = 1 + (P - 1) / 6
"""What is expanded once serves all columns."""

DECODE_DENSE = Cost(
    "decode_dense",
    (("numbers", m * k / (W * T) * _SHARED), ("rows", m / T), ("columns", k * P)),
    bytes=4 * m * k,
    guess=(0.45, 8.0, 0.05),
)
DECODE_BITMAP = Cost(
    "decode_bitmap",
    (("masks", m * k / (W * T) * _SHARED), ("rows", m / T), ("columns", k * P)),
    bytes=4 * nnz + m * k / 8,
    guess=(0.68, 8.0, 0.05),
)
DECODE_INDEX = Cost(
    "decode_index",
    (("non-zeros", nnz / T * _SHARED), ("rows", m / T), ("columns", k * P)),
    bytes=6 * nnz,
    guess=(0.19, 8.0, 0.05),
)
