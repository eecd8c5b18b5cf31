"""Which bindings of a Relax function make one layer: a product with constants, bias, activation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tvm.relax.dpl import is_const, is_op, wildcard

PREFIX = "sparse_compiler."
_ACTIVATIONS = ("nn.relu", "nn.gelu", "nn.gelu_tanh", "nn.silu", "sigmoid", "tanh")

_ENDS: tuple[tuple[str | None, bool], ...] = (
    *((activation, reshaped) for reshaped in (True, False) for activation in _ACTIVATIONS),
    (None, False),
)
"""An activation, and whether a reshape stands before it, as torch.export leaves one."""

Pattern = tuple[str, Any, dict[str, Any]]
"""Name, pattern, and the parts of it that have names."""


def linears() -> list[Pattern]:
    """x @ w, or x @ w.T, of a constant w."""
    return [*_layers("linear", "matmul", _turned), *_layers("linear", "matmul", _plain)]


def convolutions() -> list[Pattern]:
    """conv2d(x, w) of a constant w."""
    return list(_layers("conv2d", "nn.conv2d", _plain))


def _plain() -> tuple[Any, Any]:
    weight = is_const()
    return weight, weight


def _turned() -> tuple[Any, Any]:
    weight = is_const()
    return weight, is_op("relax.permute_dims")(weight)


def _layers(name: str, op: str, operand: Any) -> Iterator[Pattern]:
    """The longest first, as TVM takes the first that fits."""
    for activation, reshaped in _ENDS:
        for bias in ("right", "left", None):
            weight, second = operand()
            result = is_op(f"relax.{op}")(wildcard(), second)
            if bias is not None:
                pair = (result, is_const()) if bias == "right" else (is_const(), result)
                result = is_op("relax.add")(*pair)
            if reshaped:
                result = is_op("relax.reshape")(result, wildcard())
            if activation is not None:
                result = is_op(f"relax.{activation}")(result)
            yield PREFIX + name, result, {"weight": weight}
