"""Precisions in which the numbers of a weight may be stored; all kernels compute in fp32.

A format's name ends with its precision, `csr_bf16`; without an ending it is fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Values:
    """bits: of a number; largest: what still rounds to a finite number lies below it; step: the
    greatest relative rounding error of a normal number."""

    bits: int
    largest: float
    step: float


VALUES: Mapping[str, Values] = {
    "fp32": Values(32, float("inf"), 0.0),
    "fp16": Values(16, 65520.0, 2.0**-11),
    "bf16": Values(16, float.fromhex("0x1.ffp127"), 2.0**-8),
}


def values_of(format_: str) -> tuple[str, str]:
    """`csr_bf16` -> ("csr", "bf16"); `csr` -> ("csr", "fp32")."""
    name, _, ending = format_.rpartition("_")
    return (name, ending) if ending in VALUES and name else (format_, "fp32")
