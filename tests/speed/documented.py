"""The speed-ups over dense torch that the documentation states, and where each was measured.

One table for the documentation and the tests: a test asks for half of a figure, which any machine
should reach where the kernels are not broken, whatever else it runs at the moment.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """ratio: time of dense torch over ours, both on `threads` threads.

    where: machine and command that gave it.
    """

    ratio: float
    threads: int
    where: str


FIGURES = {
    "linear 3072x768, 128 tokens, 90 %": Figure(
        6.0, 2, "two AMD Zen 5 cores, AVX-512, against F.linear of MKL: make speed"
    ),
    "MiniLM-L6, 128 tokens, 90 %": Figure(
        5.5, 2, "two AMD Zen 5 cores, AVX-512, against eager: make demo"
    ),
}
