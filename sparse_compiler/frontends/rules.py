"""The table of importer rules, and what rules of every family share.

A rule turns one ATen overload into our ops; one that returns None leaves a torch_call. Each family
registers itself here (`aten.py`, `aten_vision.py`, `aten_sequence.py`); `aten.py` imports them all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import sympy
import torch
from torch import fx
from torch._prims_common import ELEMENTWISE_TYPE_PROMOTION_KIND

from ..errors import GraphSyntaxError, UnsupportedError, VerifyError
from ..ir.types import TensorType, dtype_name
from ..ops.iota import Full
from ..ops.pointwise import Pointwise
from ..ops.scalar import CASTS
from .importer import Importer, Result, Rule

FLOATS = ("f32", "f64", "f16", "bf16")
RULES: dict[str, Rule] = {}
_NUMERIC = (torch.Tensor, int, float, torch.SymInt, torch.SymFloat)


def rule(*targets: str) -> Callable[[Rule], Rule]:
    """Registers a function for these ATen overloads. Raises on one that has a rule already."""

    def enter(function: Rule) -> Rule:
        for target in targets:
            if RULES.setdefault(f"aten.{target}", function) is not function:
                raise UnsupportedError(f"aten.{target} has two importer rules")
        return function

    return enter


def all_float(*tensors: tuple[str, TensorType] | None) -> bool:
    """True where the tensors (name and type; None is skipped) share one floating dtype."""
    dtypes = {t[1].dtype for t in tensors if t is not None}
    return len(dtypes) == 1 and dtypes.pop() in FLOATS


def overload(node: fx.Node, *, full: bool = False) -> str:
    """`add`, or in full `add.Tensor`."""
    name = str(node.target).removeprefix("aten.")
    return name if full else name.split(".")[0]


def pointwise(
    imp: Importer,
    text: str,
    operands: list[Any],
    *,
    compute: str | None = None,
    plain: tuple[int, ...] = (),
) -> Result:
    """The expression `text` over operands x0, x1, ..., each converted to the dtype `compute`.

    compute: none: the dtype of the result; plain: operands that keep their own. An operand is an fx
    node, the name of a value, or a number, which is written into the expression; a size that is
    known only with the shapes becomes a tensor of its own.
    """
    result = imp.result_type()
    if result is None or not at_home(imp, imp.node):
        return None
    if any(_elsewhere(imp, operand) for operand in operands):
        return None
    compute = compute or result.dtype
    if compute not in CASTS or result.dtype not in CASTS:
        return None
    inputs: list[str] = []
    for i, operand in enumerate(operands):
        tensor = _operand(imp, operand, compute)
        if tensor is not None:
            name, type_ = tensor
            if type_.dtype not in CASTS:
                return None
            if name not in inputs:
                inputs.append(name)
            part = f"@{inputs.index(name)}"
            part = part if type_.dtype == compute or i in plain else f"{compute}({part})"
        else:
            number = imp.number(operand)
            if isinstance(number, sympy.Expr) or not _exact(number, compute):
                return None
            part = repr(float(number))
        text = re.sub(rf"\bx{i}\b", part, text)
    if not inputs:
        return None
    op = Pointwise(text.replace("@", "x"))
    types = tuple(imp.builder.types[name] for name in inputs)
    try:
        found = op.infer(types)
    except (VerifyError, GraphSyntaxError):  # sizes that only torch knows to be equal
        return None
    if found.shape != result.shape:
        return None
    return imp.add(op if found.dtype == result.dtype else Pointwise(op.expr, result.dtype), inputs)


def at_home(imp: Importer, node: fx.Node | None) -> bool:
    """True where the node's result, a single tensor, lies where the model does."""
    value = None if node is None else node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.device == imp.home


def _elsewhere(imp: Importer, operand: Any) -> bool:
    """True for a tensor, no constant of the model, that lies elsewhere: torch copies it."""
    if not isinstance(operand, fx.Node) or imp.values.get(operand) in imp.weight_time:
        return False
    return isinstance(operand.meta.get("val"), torch.Tensor) and not at_home(imp, operand)


def common_dtype(*operands: Any) -> str | None:
    """The dtype that torch computes in for these tensors (fx nodes) and numbers, by its rules."""
    values = [o.meta.get("val") if isinstance(o, fx.Node) else o for o in operands]
    if not values or not all(isinstance(v, _NUMERIC) for v in values):
        return None
    state = torch._prims_common.elementwise_dtypes(
        *values, type_promotion_kind=ELEMENTWISE_TYPE_PROMOTION_KIND.NO_OPMATH
    )
    return dtype_name(state[1])


def _operand(imp: Importer, operand: Any, dtype: str) -> tuple[str, TensorType] | None:
    """A tensor, or a symbolic size as a tensor of one number; None for what else there is."""
    if isinstance(operand, str):
        type_ = imp.builder.types[operand]
        return (operand, type_) if isinstance(type_, TensorType) else None
    number = imp.number(operand)
    if not isinstance(number, sympy.Expr) or not number.is_integer:
        return imp.tensor(operand)
    name = imp.add(Full(number, (), dtype), [])
    return name, TensorType(dtype, ())


def _exact(number: Any, dtype: str) -> bool:
    """True where the expression, which holds floats, gives the number its meaning in `dtype`."""
    if not isinstance(number, (int, float)):
        return False
    if dtype in FLOATS:
        return True
    return float(number).is_integer() and abs(number) <= 2**53
