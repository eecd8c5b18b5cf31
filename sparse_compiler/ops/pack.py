"""The stored form of a weight: an ordinary node, so that a changed weight reruns it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..errors import VerifyError
from ..ir.graph import Graph
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.types import TensorType, Type


def is_packed(graph: Graph, name: str) -> bool:
    """True where the value has been given its storage format."""
    node = graph.producers.get(name)
    return node is not None and isinstance(node.op, Pack)


@OPS.register("pack")
@dataclass(frozen=True)
class Pack(Op):
    """The weight in storage format `format`. Exact: packing and unpacking give the same numbers."""

    name: ClassVar[str] = "pack"
    format: str = "csr"

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        (weight,) = tensor_inputs(self, types, 1, 1)
        if not isinstance(self.format, str):
            raise VerifyError(f"a format is a quoted name, not {self.format!r}")
        return replace(weight, format=self.format)

    def reference(self, *inputs: Any) -> Any:
        return inputs[0]
