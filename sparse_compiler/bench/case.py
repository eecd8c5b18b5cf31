"""A case: one model at one sparsity, pattern, batch, length, dtype and thread count.

What the user typed is checked here, all of it before anything is measured.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from sparse_compiler.errors import OptionError
from sparse_compiler.pruning.patterns import parse_pattern

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Case:
    """What is measured. tokens: sequence length, for models that read tokens (else None)."""

    model: str
    sparsity: float = 0.0
    pattern: str = "unstructured"
    batch: int = 1
    tokens: int | None = None
    dtype: str = "float32"
    threads: int = 1
    seed: int = 0

    @property
    def key(self) -> str:
        """A file name: unique among cases, the same for the same case."""
        pattern = self.pattern.replace(":", "of")
        parts = [self.model, pattern, f"{self.sparsity:g}", f"b{self.batch}"]
        parts += [f"t{self.tokens}"] if self.tokens else []
        return "-".join([*parts, self.dtype, f"n{self.threads}"]).replace("/", "_")

    @property
    def setting(self) -> str:
        """The case without its sparsity, for titles."""
        length = f", {self.tokens} tokens" if self.tokens else ""
        alone = ", one thread" if self.threads == 1 else ""
        return f"{self.model}, {self.pattern}, batch {self.batch}{length}, {self.dtype}{alone}"

    def to_json(self) -> dict[str, Any]:
        """The fields, as they stand in a results file."""
        return asdict(self)


def check_sparsity(value: float, pattern: str) -> float:
    """`value` if that pattern can have it (any can have 0); OptionError otherwise."""
    fixed = parse_pattern(pattern).fixed_sparsity
    if not 0 <= value < 1:
        raise OptionError(
            f"sparsity {value:g} lies outside [0, 1)",
            why="it is the share of weights that are zero",
            fix="0.9 means that nine of ten weights are zero",
        )
    if value and fixed is not None and not math.isclose(value, fixed, abs_tol=1e-6):
        raise OptionError(
            f"pattern {pattern} has sparsity {fixed:g}, not {value:g}",
            fix=f"leave --sparsity out, or give 0,{fixed:g}",
        )
    return value


def numbers(text: str, kind: type[int] | type[float], option: str) -> list[Any]:
    """A list like '0,0.5,0.9' as numbers; OptionError naming the option otherwise."""
    try:
        found = [kind(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise OptionError(f"{option} {text!r}: not a list of numbers", why=str(error)) from None
    if not found:
        raise OptionError(f"{option} is empty")
    if kind is int and min(found) < 1:
        raise OptionError(f"{option} {text!r}: each must be at least 1")
    return found
