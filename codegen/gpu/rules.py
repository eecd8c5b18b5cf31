"""The table of rules: how a call of a Program, by the name of its kernel, becomes launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparse_compiler.codegen.gpu.source import Printer
from sparse_compiler.codegen.operands import Own, Strided, Written
from sparse_compiler.codegen.program import Call
from sparse_compiler.errors import CodegenError

Rule = Callable[[Printer, Call], None]
RULES: dict[str, Rule] = {}
"""By the name of the kernel, template arguments apart; filled by the files of the families."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enters the rule for kernels of these names."""

    def enter(made: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise CodegenError(f"two rules print {name} for the GPU")
            RULES[name] = made
        return made

    return enter


def kernel_name(kernel: str) -> str:
    """A kernel's name without template arguments; of a weight's, without the format either."""
    name = kernel.partition("<")[0]
    first = name.partition("_")[0]
    return first if first in ("linear", "conv") else name


def place_of(arg: Any) -> Any:
    """What a thread's own columns are columns of: here, all of them."""
    return arg.place if isinstance(arg, Own | Strided) else arg


def planes_of(arg: Any) -> Any:
    """The planes that an argument reads or writes."""
    inner = place_of(arg)
    return inner.planes if isinstance(inner, Written) else inner


__all__ = ["RULES", "Rule", "kernel_name", "place_of", "planes_of", "rule"]
