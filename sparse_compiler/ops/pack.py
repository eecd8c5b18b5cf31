"""The stored form of a weight: an ordinary node, so that a changed weight reruns it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..errors import VerifyError
from ..ir.graph import Graph, Node
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.types import TensorType, Type
from .conv import Conv


def is_packed(graph: Graph, name: str) -> bool:
    """True where the value has been given its storage format."""
    node = graph.producers.get(name)
    return node is not None and isinstance(node.op, Pack)


def packs_weight(graph: Graph, node: Node) -> bool:
    """True for a layer whose kernel reads a packed weight; that of a depthwise convolution, where
    every output reads one input of many, reads the weight as it is."""
    op = node.op
    if op.weight_input is None:
        return False
    depthwise = isinstance(op, Conv) and op.groups > 1
    return not depthwise or graph.tensor(node.inputs[op.weight_input]).shape[1] != 1


@OPS.register("pack")
@dataclass(frozen=True)
class Pack(Op):
    """The weight in storage format `format`. Exact: packing and unpacking give the same numbers.

    A weight of more than two dimensions is the matrix [dim 0, the rest]. groups: of a convolution;
    its rows stand in so many equal ranges that read different inputs, and no block may span two.
    """

    name: ClassVar[str] = "pack"
    format: str = "csr"
    groups: int = 1

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        (weight,) = tensor_inputs(self, types, 1, 1)
        if not isinstance(self.format, str):
            raise VerifyError(f"a format is a quoted name, not {self.format!r}")
        if self.groups < 1 or weight.rank < 2 or weight.shape[0] % self.groups != 0:
            raise VerifyError(f"a weight of {weight.shape} packed in {self.groups} groups")
        return replace(weight, format=self.format)

    def reference(self, *inputs: Any) -> Any:
        return inputs[0]
