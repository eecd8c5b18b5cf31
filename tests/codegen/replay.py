"""A Program run call by call on one torch tensor for the arena: what its text says, in Python.

Rows start as NaN, so reading a row that nobody wrote shows. All columns make one chunk. Used as a
second opinion between the graph's interpreter and the machine code.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from sparse_compiler.codegen.program import (
    AttentionCall,
    Call,
    LinearCall,
    Load,
    NormCall,
    Operand,
    Planes,
    PointwiseCall,
    Program,
    Segment,
    SoftmaxCall,
    Store,
)
from sparse_compiler.ir.graph import Graph
from sparse_compiler.ir.interpret import bind_inputs, run_node
from sparse_compiler.ir.types import evaluate
from sparse_compiler.ops import scalar


def replay(
    graph: Graph,
    program: Program,
    inputs: Sequence[torch.Tensor],
    params: Mapping[str, torch.Tensor],
) -> tuple[Any, ...]:
    """Outputs of `program`, the lowered form of `graph`."""
    symbols = bind_inputs(graph, inputs)
    values: dict[str, Any] = dict(params)
    values |= dict(zip((name for name, _ in program.inputs), inputs, strict=True))
    for node in program.setup:
        values[node.name] = run_node(node, [values[i] for i in node.inputs], symbols, {})
    for step in program.steps:
        if isinstance(step, Segment):
            values |= SegmentReplay(step, values, symbols).run()
        else:
            arguments = [values[i] for i in step.node.inputs]
            values[step.node.name] = run_node(step.node, arguments, symbols, {})
    return tuple(values[name] for name in program.outputs)


class SegmentReplay:
    """One segment on real tensors."""

    def __init__(
        self, segment: Segment, values: Mapping[str, Any], symbols: Mapping[str, int]
    ) -> None:
        self.segment, self.symbols = segment, symbols
        self.samples = evaluate(segment.samples, symbols)
        self.unit = evaluate(segment.unit, symbols)
        self.inputs = [values[name] for name, _ in segment.inputs]
        self.weights = [values[name] for name, _ in segment.weights]
        self.outputs: dict[int, torch.Tensor] = {}
        columns = self.samples * self.unit
        self.arena = torch.full((segment.rows, columns), torch.nan)

    def run(self) -> dict[str, torch.Tensor]:
        """Outputs by name."""
        for call in self.segment.calls:
            self.call(call)
        return {name: self.outputs[i] for i, (name, _) in enumerate(self.segment.outputs)}

    def rows(self, planes: Planes) -> torch.Tensor:
        """A view of some rows."""
        assert planes.first >= 0 and planes.first + planes.rows <= self.segment.rows
        return self.arena[planes.first : planes.first + planes.rows]

    def operand(self, operand: Operand) -> torch.Tensor:
        """What an expression reads for its whole result."""
        if isinstance(operand, Planes):
            return self.rows(operand)
        value = self.weights[operand.weight].reshape(-1)
        return value[:1] if operand.single else value[:, None]

    def call(self, call: Call) -> None:
        """One call, row by row where it works in place."""
        match call:
            case Load():
                source = self.inputs[call.source]
                self.rows(call.to).copy_(source.reshape(-1, call.to.rows).T)
            case Store():
                shape = [evaluate(d, self.symbols) for d in self._output_shape(call)]
                self.outputs[call.target] = self.rows(call.planes).T.reshape(shape).clone()
            case LinearCall():
                product = self.weights[call.weight] @ self.rows(call.x)
                self._write(call.to, scalar.evaluate(call.expr, self._operands(call, product)))
            case PointwiseCall():
                operands = tuple(map(self.operand, call.operands))
                self._write(call.to, scalar.evaluate(call.expr, operands))
            case NormCall():
                x = self.rows(call.x)
                norm = {"layer_norm": F.layer_norm, "rms_norm": F.rms_norm}[call.kernel]
                normal = norm(x.T, (call.x.rows,), eps=call.eps).T
                self._write(call.to, scalar.evaluate(call.expr, self._operands(call, normal)))
            case SoftmaxCall():
                softmax = F.log_softmax if call.log else F.softmax
                self._write(call.to, softmax(self.rows(call.x), 0))
            case AttentionCall():
                self._attention(call)

    def _output_shape(self, call: Store) -> tuple[Any, ...]:
        return self.segment.outputs[call.target][1].shape

    def _operands(self, call: LinearCall | NormCall, first: torch.Tensor) -> tuple[Any, ...]:
        return (first, *map(self.operand, call.operands))

    def _write(self, to: Planes, value: torch.Tensor) -> None:
        rows = self.rows(to)
        rows.copy_(value.expand(rows.shape).clone())

    def _attention(self, call: AttentionCall) -> None:
        groups = call.heads // call.group
        shape = (self.samples, self.unit)
        q = self.rows(call.q).reshape(call.heads, call.head_size, *shape)
        k = self.rows(call.k).reshape(groups, call.head_size, *shape)
        v = self.rows(call.v).reshape(groups, call.value_size, *shape)
        mask = None
        if call.mask is not None:
            mask = self.inputs[self.segment.masks[call.mask].source]
        result = F.scaled_dot_product_attention(
            *(t.permute(2, 0, 3, 1) for t in (q, k, v)),
            attn_mask=mask,
            is_causal=call.causal,
            scale=call.scale,
            enable_gqa=call.group > 1,
        )
        self._write(call.to, result.permute(1, 3, 0, 2).reshape(call.to.rows, -1))
