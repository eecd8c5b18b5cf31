"""Figures from samples: medians, bootstrap intervals of paired ratios, relative error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 4000


@dataclass(frozen=True)
class Ratio:
    """A median of per-round ratios and its 95 % percentile-bootstrap interval."""

    median: float
    low: float
    high: float


def paired_ratio(baseline: Sequence[float], other: Sequence[float], seed: int = 0) -> Ratio:
    """baseline[i] / other[i] over the rounds both took part in: above 1, `other` is faster.

    Percentile bootstrap of the median (Efron & Tibshirani 1993, chapter 13), rounds resampled.
    """
    rounds = min(len(baseline), len(other))
    if rounds == 0:
        raise ValueError("no round in common")
    ratios = np.asarray(baseline[:rounds], float) / np.asarray(other[:rounds], float)
    picks = np.random.default_rng(seed).integers(0, rounds, size=(RESAMPLES, rounds))
    medians = np.median(ratios[picks], axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return Ratio(float(np.median(ratios)), float(low), float(high))


def relative_error(got: np.ndarray[Any, Any], want: np.ndarray[Any, Any]) -> float:
    """max|got − want| ÷ max|want|; infinite where shape or non-finite places disagree."""
    if got.shape != want.shape:
        return float("inf")
    a, b = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(finite, np.isfinite(a)):
        return float("inf")
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    difference = float(np.max(np.abs(a[finite] - b[finite])))
    scale = float(np.max(np.abs(b[finite])))
    if scale == 0:
        return 0.0 if difference == 0 else float("inf")
    return difference / scale
