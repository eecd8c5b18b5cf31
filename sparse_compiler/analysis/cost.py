"""What entering and leaving the planes costs: the price that a native region must earn back."""

from __future__ import annotations

CALL_NS = 10_000.0  # into the native segment from torch, and back
RELAYOUT_BYTES_PER_NS = 10.0


def relayout_ns(elements: int) -> float:
    """Copying an fp32 tensor into planes or out of them, in nanoseconds."""
    return elements * 4 / RELAYOUT_BYTES_PER_NS
