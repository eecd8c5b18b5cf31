"""Weights stored in half precision, where that was asked for or loses nothing; computed in fp32.

Half the bytes are half the time where memory decides. The rounding error goes into the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from sparse_compiler.formats.base import FORMATS, VALUE_TYPES
from sparse_compiler.formats.values import VALUES
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.interpret import run_node
from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.types import HALVES, TensorType
from sparse_compiler.ops.pack import Pack
from sparse_compiler.passes.base import Context, Pass

_TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16}
_NAMES = {"f16": "fp16", "bf16": "bf16"}
VALUE_CODES = frozenset(("not_finite", "out_of_range", "rounds"))
"""Why a weight stays in fp32."""


@dataclass(frozen=True)
class ChooseValues(Pass):
    """pack[format=csr](w)  =>  pack[format=csr_bf16](w)   as the options say, or as w is stored."""

    name: ClassVar[str] = "choose-values"
    exact: ClassVar[bool] = False

    def run(self, graph: Graph, context: Context) -> Graph:
        numbers = _Numbers(graph, context.numbers or {})
        nodes: list[Node] = []
        renamed: dict[str, str] = {}
        for node in graph.nodes:
            inputs = tuple(renamed.get(name, name) for name in node.inputs)
            if not isinstance(node.op, Pack):
                nodes.append(node if inputs == node.inputs else replace(node, inputs=inputs))
                continue
            values = self._values(graph, node, numbers, context)
            if values is None or not context.spend():
                nodes.append(node)
                continue
            format_ = replace(FORMATS[node.op.format], values=values)
            op = replace(node.op, format=format_.name)
            name = f"{node.name}_{values}"
            renamed[node.name] = name
            nodes.append(Node(op, node.inputs, op.infer((graph.types[node.inputs[0]],)), name))
        return graph.with_nodes(nodes)

    def _values(self, graph: Graph, node: Node, numbers: _Numbers, context: Context) -> str | None:
        """The half precision in which to store a packed weight; None for fp32."""
        op = node.op
        weight = node.inputs[0]
        if not isinstance(op, Pack) or FORMATS[op.format].values != VALUE_TYPES[0]:
            return None
        asked = context.weights if context.weights in _TORCH else None
        values = asked or _stored_as(graph, weight)
        value = numbers.of(weight) if values is not None else None
        if values is None or value is None:
            return None
        layers = [user.name for user in graph.users[node.name]]
        reason = _refusal(value, values)
        error = 0.0 if reason is not None else _error(value, values)
        if reason is None and asked is None and error:
            reason = No("rounds", f"made of {values} weights, but not exact in {values} any more")
        for layer in layers:
            if reason is not None:
                context.refuse(layer, reason)
            else:
                context.value_errors[layer] = error
        return values if reason is None else None


def _refusal(value: torch.Tensor, values: str) -> No | None:
    if not bool(torch.isfinite(value).all()):
        return No("not_finite", f"NaN or infinity among the values: stored in fp32, not {values}")
    largest = float(value.abs().max()) if value.numel() else 0.0
    if largest < VALUES[values].largest:
        return None
    return No("out_of_range", f"a value of {largest:.6g} is beyond {values}: stored in fp32")


def _error(value: torch.Tensor, values: str) -> float:
    """max |w - rounded w| / max |w|."""
    largest = float(value.abs().max()) if value.numel() else 0.0
    rounded = value.to(_TORCH[values]).to(torch.float32)
    return float((value - rounded).abs().max()) / largest if largest else 0.0


def _stored_as(graph: Graph, name: str) -> str | None:
    """The half precision of the parameters that a weight is made of."""
    found = set()
    waiting, seen = [name], set()
    while waiting:
        value = waiting.pop()
        type_ = graph.types[value]
        if value in seen:
            continue
        seen.add(value)
        if isinstance(type_, TensorType) and type_.dtype in HALVES:
            found.add(_NAMES[type_.dtype])
        producer = graph.producers.get(value)
        waiting += producer.inputs if producer is not None else ()
    return found.pop() if len(found) == 1 else None


class _Numbers:
    """Values that depend on parameters alone, computed when asked for."""

    def __init__(self, graph: Graph, params: Mapping[str, torch.Tensor]) -> None:
        self.graph, self.params = graph, params

    def of(self, name: str) -> torch.Tensor | None:
        """The value as fp32, or None where a parameter's numbers are not known."""
        with torch.no_grad():
            found = self._value(name)
        return found.to(torch.float32) if isinstance(found, torch.Tensor) else None

    def _value(self, name: str) -> Any:
        if name in self.params:
            return self.params[name].detach()
        node = self.graph.producers.get(name)
        if node is None:
            return None
        inputs = [self._value(value) for value in node.inputs]
        if any(value is None for value in inputs):
            return None
        return run_node(node, inputs, {}, self.graph.objects)
