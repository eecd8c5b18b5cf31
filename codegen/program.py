"""The Program: kernel calls on buffers of planes, still target-neutral, printed as text.

A segment runs in one native call, over chunks of whole samples. Inside a chunk every value is rows
of `ld` floats in one arena, so a place is a row number; sizes depend on the chunk alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparse_compiler.ir.attrs import print_dim
from sparse_compiler.ir.expr import Expr
from sparse_compiler.ir.graph import Node, Range
from sparse_compiler.ir.text import print_node, print_type
from sparse_compiler.ir.types import Dim, TensorType


@dataclass(frozen=True)
class Planes:
    """Rows first .. first + rows - 1 of the arena, each the columns of one chunk."""

    first: int
    rows: int

    def __str__(self) -> str:
        return f"rows[{self.first}:{self.first + self.rows}]"


@dataclass(frozen=True)
class Vector:
    """A weight-time tensor read by row number, or a single number where `single`."""

    weight: int
    single: bool = False

    def __str__(self) -> str:
        return f"weight[{self.weight}]{'' if self.single else '[row]'}"


Operand = Planes | Vector


@dataclass(frozen=True)
class Load:
    """Rows of segment input number `source` -> planes, `columns` samples at a time."""

    source: int
    to: Planes
    label: str

    def __str__(self) -> str:
        return f"{self.to} = load in[{self.source}]"


@dataclass(frozen=True)
class Store:
    """Planes -> rows of segment output number `target`."""

    planes: Planes
    target: int
    label: str

    def __str__(self) -> str:
        return f"out[{self.target}] = store {self.planes}"


@dataclass(frozen=True)
class LinearCall:
    """to = epilogue(weight x), the expression's x0; operands are its x1, x2, ..."""

    format: str
    weight: int
    x: Planes
    to: Planes
    expr: Expr
    operands: tuple[Operand, ...]
    label: str

    def __str__(self) -> str:
        reads = "".join(f", x{i} = {o}" for i, o in enumerate(self.operands, 1))
        return f"{self.to} = linear_{self.format} weight[{self.weight}] {self.x} {self.expr}{reads}"


@dataclass(frozen=True)
class PointwiseCall:
    """to = expr(operands), element by element."""

    to: Planes
    expr: Expr
    operands: tuple[Operand, ...]
    label: str

    def __str__(self) -> str:
        reads = "".join(f", x{i} = {o}" for i, o in enumerate(self.operands))
        return f"{self.to} = pointwise {self.expr}{reads}"


@dataclass(frozen=True)
class NormCall:
    """to = expr(normalised x) down the rows of every column; kernel: layer_norm or rms_norm."""

    kernel: str
    x: Planes
    to: Planes
    eps: float
    expr: Expr
    operands: tuple[Operand, ...]
    label: str

    def __str__(self) -> str:
        reads = "".join(f", x{i} = {o}" for i, o in enumerate(self.operands, 1))
        return f"{self.to} = {self.kernel}[eps={self.eps!r}] {self.x} {self.expr}{reads}"


@dataclass(frozen=True)
class SoftmaxCall:
    """to = softmax of x down the rows of every column, or its logarithm."""

    x: Planes
    to: Planes
    log: bool
    label: str

    def __str__(self) -> str:
        return f"{self.to} = {'log_' * self.log}softmax {self.x}"


@dataclass(frozen=True)
class MaskInput:
    """An attention mask as it arrives: which dimensions are broadcast, and its dtype.

    full: for (sample, head, query), whether the dimension has its size or is 1; heads: its size.
    """

    source: int
    dtype: str
    heads: int
    full: tuple[bool, bool, bool]


@dataclass(frozen=True)
class AttentionCall:
    """to = softmax(scale q k^T + mask) v for every sample and head. sq, sk: tokens of a sample."""

    q: Planes
    k: Planes
    v: Planes
    to: Planes
    heads: int
    group: int
    head_size: int
    value_size: int
    sq: Dim
    sk: Dim
    scale: float
    causal: bool
    mask: int | None
    label: str

    def __str__(self) -> str:
        mask = "" if self.mask is None else f" mask[{self.mask}]"
        return (
            f"{self.to} = attention[heads={self.heads}, group={self.group}, scale={self.scale!r}"
            f"{', causal' if self.causal else ''}] {self.q} {self.k} {self.v}{mask}"
        )


Call = Load | Store | LinearCall | PointwiseCall | NormCall | SoftmaxCall | AttentionCall


@dataclass(frozen=True)
class Segment:
    """One native function.

    inputs, outputs: plain row-major values of the graph by name; weights: weight-time values;
    samples x unit: the columns, in pieces that must stay together; rows: arena rows needed.
    sync: indices of calls before which all threads wait. nodes: graph values computed inside.
    """

    name: str
    inputs: tuple[tuple[str, TensorType], ...]
    outputs: tuple[tuple[str, TensorType], ...]
    weights: tuple[tuple[str, TensorType], ...]
    calls: tuple[Call, ...]
    masks: tuple[MaskInput, ...]
    samples: Dim
    unit: Dim
    rows: int
    sync: frozenset[int]
    nodes: tuple[str, ...]

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the symbols that the function is given, in order."""
        types = [t for _, t in (*self.inputs, *self.outputs)]
        dims = [d for t in types for d in t.shape] + [self.samples, self.unit]
        return tuple(
            sorted({s.name for d in dims if not isinstance(d, int) for s in d.free_symbols})
        )

    def __str__(self) -> str:
        lines = [f"segment {self.name}"]
        lines += [f"  in[{i}] %{n}: {print_type(t)}" for i, (n, t) in enumerate(self.inputs)]
        lines += [f"  out[{i}] %{n}: {print_type(t)}" for i, (n, t) in enumerate(self.outputs)]
        lines += [f"  weight[{i}] %{n}: {print_type(t)}" for i, (n, t) in enumerate(self.weights)]
        lines += [
            f"  mask[{i}] in[{m.source}] {m.dtype} full={m.full}" for i, m in enumerate(self.masks)
        ]
        lines.append(
            f"  for chunks of {print_dim(self.samples)} samples x {print_dim(self.unit)} columns, "
            f"{self.rows} rows:"
        )
        for i, call in enumerate(self.calls):
            wait = "sync; " if i in self.sync else ""
            lines.append(f"    {wait}{call}   # {call.label}")
        return "\n".join(lines)


@dataclass(frozen=True)
class TorchStep:
    """A node run by its reference in torch. free: values that nobody reads afterwards."""

    node: Node


@dataclass(frozen=True)
class Program:
    """Steps in execution order, between the values of the graph that stay row-major.

    setup: weight-time nodes, run when weights change. outputs, updates, symbols: as the graph's.
    """

    inputs: tuple[tuple[str, TensorType], ...]
    setup: tuple[Node, ...]
    steps: tuple[Segment | TorchStep, ...]
    outputs: tuple[str, ...]
    updates: tuple[tuple[str, str], ...]
    symbols: Mapping[str, Range]

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The native steps."""
        return tuple(s for s in self.steps if isinstance(s, Segment))

    def __str__(self) -> str:
        lines = [f"setup {print_node(node)}" for node in self.setup]
        for step in self.steps:
            lines.append(
                f"torch {print_node(step.node)}" if isinstance(step, TorchStep) else str(step)
            )
        lines.append(f"return {', '.join(f'%{o}' for o in self.outputs)}")
        lines += [f"update %{target} = %{value}" for value, target in self.updates]
        return "\n".join(lines) + "\n"
