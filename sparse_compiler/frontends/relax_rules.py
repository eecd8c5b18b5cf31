"""The table of rules for Relax operators, and what rules of every family share.

`@rule("nn.relu")` is for `relax.nn.relu`, `@extern("name")` for `call_pure_packed("name", ...)`. A
rule gets (importer, call) and gives a value's name, several, a `Number`, `Sizes`, or None: then TVM
runs the call. Families register themselves here; `relax.py` imports them all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import sympy

from ..errors import GraphSyntaxError, UnsupportedError, VerifyError
from ..ir.types import TensorType, torch_dtype
from ..ops import scalar
from ..ops.iota import Full
from ..ops.pointwise import Pointwise
from .relax_importer import Number, RelaxImporter, Rule, Value

RULES: dict[str, Rule] = {}
FLOATS = ("f32", "f64", "f16", "bf16")


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a function for these operators. Raises on one that has a rule already."""
    return _enter([f"relax.{name}" for name in names])


def extern(*names: str) -> Callable[[Rule], Rule]:
    """Registers a function for calls of these external functions without effects."""
    return _enter([f"extern.{name}" for name in names])


def _enter(keys: Sequence[str]) -> Callable[[Rule], Rule]:
    def enter(function: Rule) -> Rule:
        for key in keys:
            if RULES.setdefault(key, function) is not function:
                raise UnsupportedError(f"{key} has two importer rules")
        return function

    return enter


def operator(call: Any) -> str:
    """`nn.relu` of a call of `relax.nn.relu`."""
    return str(call.op.name).removeprefix("relax.")


def pointwise(imp: RelaxImporter, text: str, operands: Sequence[Any]) -> Value | None:
    """The expression `text` over operands x0, x1, ...: expressions of Relax, values or numbers.

    Numbers are written into the expression, and a result of numbers alone is one.
    """
    result = imp.result_type()
    if result is None or result.dtype not in scalar.CASTS:
        return None
    values = [o if isinstance(o, (str, Number)) else _value(imp, o) for o in operands]
    folded = _folded(text, values, result)
    if folded is not None:
        return folded
    inputs: list[str] = []
    for i, value in enumerate(values):
        if isinstance(value, Number) and _writable(value):
            part = repr(float(value.value))
        else:
            tensor = imp.tensor(value)
            if tensor is None or tensor[1].dtype not in scalar.CASTS:
                return None
            if tensor[0] not in inputs:
                inputs.append(tensor[0])
            part = f"@{inputs.index(tensor[0])}"
        text = re.sub(rf"\bx{i}\b", part, text)
    if not inputs:
        return imp.add(_filled(text, result), [])
    return _node(imp, text.replace("@", "x"), inputs, result)


def _value(imp: RelaxImporter, operand: Any) -> Value:
    number = imp.plain(operand)
    if number is None:
        return imp.value(operand)
    return Number(number, "f32" if isinstance(number, float) else "i64")


def _writable(number: Number) -> bool:
    """True where an expression, which holds floats, gives the number its meaning."""
    if isinstance(number.value, sympy.Expr):
        return False
    return number.dtype in FLOATS or abs(number.value) <= 2**53


def _folded(text: str, values: Sequence[Any], result: TensorType) -> Number | None:
    """The result of numbers alone."""
    known = [v for v in values if isinstance(v, Number) and not isinstance(v.value, sympy.Expr)]
    if len(known) != len(values) or result.shape:
        return None
    import torch

    tensors = tuple(torch.tensor(v.value, dtype=torch_dtype(v.dtype)) for v in known)
    found = scalar.evaluate(Pointwise(text).tree, tensors)
    return Number(found.to(torch_dtype(result.dtype)).item(), result.dtype)


def _filled(text: str, result: TensorType) -> Full:
    import torch

    found = scalar.evaluate(Pointwise(text).tree, ())
    value = torch.as_tensor(found).to(torch_dtype(result.dtype)).item()
    return Full(value, result.shape, result.dtype)


def _node(imp: RelaxImporter, text: str, inputs: Sequence[str], result: TensorType) -> Value | None:
    op = Pointwise(text)
    try:
        found = op.infer(tuple(imp.builder.types[name] for name in inputs))
    except (VerifyError, GraphSyntaxError):  # sizes that only TVM knows to be equal
        return None
    if found.shape != result.shape:
        return None
    return imp.add(op if found.dtype == result.dtype else Pointwise(text, result.dtype), inputs)


__all__ = ["FLOATS", "RULES", "extern", "operator", "pointwise", "rule"]
