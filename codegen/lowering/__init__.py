"""How each op becomes kernel calls: one file for a family of ops, found by the registry below."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, TypeAlias

from sparse_compiler.errors import CodegenError
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.op import Op

if TYPE_CHECKING:
    from sparse_compiler.codegen.lowering.context import Lowering

Emit: TypeAlias = Callable[["Lowering", Node], None]
Predicate: TypeAlias = Callable[[Graph, Node], bool]


@dataclass(frozen=True)
class Rule:
    """emit: appends the calls; columnwise: whether each column of the planes is on its own."""

    emit: Emit
    columnwise: Predicate


_RULES: dict[type[Op], Rule] = {}


def _never(graph: Graph, node: Node) -> bool:
    return False


def always(graph: Graph, node: Node) -> bool:
    """For ops whose every result column follows from the same column of the inputs."""
    return True


def lowers(*ops: type[Op], columnwise: Predicate = _never) -> Callable[[Emit], Emit]:
    """Registers the rule that emits the calls of these ops."""

    def enter(emit: Emit) -> Emit:
        for op in ops:
            if op in _RULES:
                raise CodegenError(f"two rules lower {op.__name__}")
            _RULES[op] = Rule(emit, columnwise)
        return emit

    return enter


def rule_of(op: Op) -> Rule | None:
    """The rule for an op, or None where no kernel exists."""
    if not _RULES:
        for module in iter_modules(__path__):
            import_module(f"{__name__}.{module.name}")
    return _RULES.get(type(op))
