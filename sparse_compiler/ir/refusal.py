"""A "no" as a value: a reason code for machines and a sentence for people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class No:
    """Why something was not done. code: snake_case, stable; why: one sentence with the numbers."""

    code: str
    why: str

    def __str__(self) -> str:
        return f"{self.code}: {self.why}"
