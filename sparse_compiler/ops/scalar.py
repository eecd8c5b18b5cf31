"""The scalar functions that elementwise ops and epilogues are made of, as one table.

A row gives the number of arguments and the torch reference. A target gives its own code per name.
References follow torch, in particular: NaN propagates through relu, clamp, maximum and minimum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import GraphSyntaxError
from ..ir.expr import Arg, Const, Expr, args_of, fold


@dataclass(frozen=True)
class ScalarFunction:
    """arity: number of arguments, constants included; reference: on tensors and floats."""

    arity: int
    reference: Callable[..., Any]


SCALAR_FUNCTIONS: dict[str, ScalarFunction] = {
    "add": ScalarFunction(2, lambda a, b: a + b),
    "sub": ScalarFunction(2, lambda a, b: a - b),
    "mul": ScalarFunction(2, lambda a, b: a * b),
    "div": ScalarFunction(2, lambda a, b: a / b),
    "maximum": ScalarFunction(2, lambda a, b: torch.maximum(*_both(a, b))),
    "minimum": ScalarFunction(2, lambda a, b: torch.minimum(*_both(a, b))),
    "pow": ScalarFunction(2, lambda a, b: torch.pow(a, b)),
    "neg": ScalarFunction(1, lambda a: -a),
    "abs": ScalarFunction(1, lambda a: torch.abs(a)),
    "relu": ScalarFunction(1, lambda a: F.relu(a)),
    "gelu": ScalarFunction(1, lambda a: F.gelu(a)),
    "gelu_tanh": ScalarFunction(1, lambda a: F.gelu(a, approximate="tanh")),
    "silu": ScalarFunction(1, lambda a: F.silu(a)),
    "sigmoid": ScalarFunction(1, lambda a: torch.sigmoid(a)),
    "tanh": ScalarFunction(1, lambda a: torch.tanh(a)),
    "exp": ScalarFunction(1, lambda a: torch.exp(a)),
    "log": ScalarFunction(1, lambda a: torch.log(a)),
    "erf": ScalarFunction(1, lambda a: torch.erf(a)),
    "sqrt": ScalarFunction(1, lambda a: torch.sqrt(a)),
    "rsqrt": ScalarFunction(1, lambda a: torch.rsqrt(a)),
    "reciprocal": ScalarFunction(1, lambda a: torch.reciprocal(a)),
    "clamp": ScalarFunction(3, lambda a, low, high: torch.clamp(a, low, high)),
    "leaky_relu": ScalarFunction(2, lambda a, slope: F.leaky_relu(a, slope)),
    "elu": ScalarFunction(2, lambda a, alpha: F.elu(a, alpha)),
    "hardswish": ScalarFunction(1, lambda a: F.hardswish(a)),
    "hardsigmoid": ScalarFunction(1, lambda a: F.hardsigmoid(a)),
    "mish": ScalarFunction(1, lambda a: F.mish(a)),
    "softplus": ScalarFunction(1, lambda a: F.softplus(a)),
}


def _both(a: Any, b: Any) -> tuple[Any, Any]:
    like = a if isinstance(a, torch.Tensor) else b
    return torch.as_tensor(a, dtype=like.dtype), torch.as_tensor(b, dtype=like.dtype)


def check(expr: Expr, inputs: int) -> None:
    """Raises `GraphSyntaxError` on an unknown function, a wrong number of arguments or input."""

    def call(fn: str, args: list[Any]) -> None:
        if fn not in SCALAR_FUNCTIONS:
            raise GraphSyntaxError(f"no scalar function is named {fn!r}")
        if SCALAR_FUNCTIONS[fn].arity != len(args):
            raise GraphSyntaxError(f"{fn} takes {SCALAR_FUNCTIONS[fn].arity} arguments")

    fold(expr, call, lambda leaf: None)
    beyond = [i for i in sorted(args_of(expr)) if i >= inputs]
    if beyond:
        raise GraphSyntaxError(f"{expr} reads x{beyond[0]} of {inputs} inputs")


def evaluate(expr: Expr, inputs: tuple[Any, ...]) -> Any:
    """The expression on torch tensors, broadcasting as torch does."""

    def leaf(item: Arg | Const) -> Any:
        return inputs[item.index] if isinstance(item, Arg) else item.value

    return fold(expr, lambda fn, args: SCALAR_FUNCTIONS[fn].reference(*args), leaf)
