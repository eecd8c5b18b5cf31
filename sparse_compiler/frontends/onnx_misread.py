"""Operators that TVM 0.27 imports without a word and gets wrong: found with ONNX's own node tests.

Each is refused by name instead; `OP: (whether this node is such a case, what is wrong with it)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_Case = tuple[Callable[[Any], bool], str]


def misread(node: Any) -> str:
    """What TVM would get wrong in a node; empty where it is right."""
    case = _CASES.get(node.op_type)
    return case[1] if case is not None and case[0](node) else ""


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _one_sign(node: Any) -> bool:
    return not (_attribute(node, "detect_positive", 1) and _attribute(node, "detect_negative", 1))


_CASES: Mapping[str, _Case] = {
    "BatchNormalization": (
        lambda node: bool(_attribute(node, "training_mode", 0)),
        "normalises by the statistics of the batch: export the model in evaluation mode",
    ),
    "IsInf": (_one_sign, "finds infinities of one sign only"),
    "LayerNormalization": (
        lambda node: any(node.output[1:]),
        "gives its mean and deviation as well as its result",
    ),
    "NonMaxSuppression": (
        lambda node: True,
        "gives as many boxes as the data say: cut the model before it, and run it on the results",
    ),
}
