"""The Program: kernel calls on buffers, still target-neutral, printed as text.

A segment is one native function. It runs over chunks of whole samples; a buffer is rows of planes
in one of the segment's spaces, or row-major elements. Sizes are expressions over the graph's
symbols and over the `ld` of the spaces: numbers once shapes are bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sparse_compiler.codegen.operands import (
    Arg,
    Elements,
    Foreign,
    Planes,
    Weight,
    Written,
    places_in,
    print_arg,
)
from sparse_compiler.ir.attrs import print_dim
from sparse_compiler.ir.graph import Node, Range
from sparse_compiler.ir.text import print_node, print_type
from sparse_compiler.ir.types import Dim, TensorType


@dataclass(frozen=True)
class Space:
    """The columns that planes have: `columns` for each sample.

    tokens: every call on these planes keeps to columns of its own, attention's keys apart, so
    threads may hold columns of one sample each.
    """

    columns: Dim
    tokens: bool


@dataclass(frozen=True)
class Buffer:
    """Memory of the arena, in use from call `first` to call `last`.

    space: of planes, with `size` rows; None: row-major, `size` elements of `dtype`, for each sample
    unless `shared` by all of them. foreign: threads read columns of one another.
    """

    size: Dim
    space: int | None
    dtype: str = "f32"
    shared: bool = False
    foreign: bool = False
    first: int = 0
    last: int = 0


@dataclass(frozen=True)
class Call:
    """kernel(team, args...). header: where the target finds the kernel.

    label: the graph value it computes. tokens: the space of whose columns a thread touches only its
    own, or None. once: before the chunks, for values that all samples share. flops, bytes: per
    sample, for profiles.
    """

    kernel: str
    header: str
    args: tuple[Arg, ...]
    label: str
    tokens: int | None = None
    once: bool = False
    flops: Dim = 0

    def __str__(self) -> str:
        text = f"{self.kernel}({', '.join(map(print_arg, self.args))})"
        return f"once {text}" if self.once else text

    @property
    def weight(self) -> int | None:
        """The packed weight, where the call has one."""
        return next((arg.index for arg in self.args if isinstance(arg, Weight)), None)

    @property
    def gives(self) -> bool:
        """Whether threads share the work on the rest behind their columns, and give the results."""
        return any(isinstance(arg, Weight | Foreign) for arg in self.args)

    @property
    def space(self) -> int | None:
        """The space of the planes that the call writes first."""
        return next((arg.planes.space for arg in self.args if isinstance(arg, Written)), None)

    @property
    def places(self) -> Iterator[tuple[Planes | Elements, str]]:
        """Buffers touched, each with "read", "write" or "foreign"."""
        for arg in self.args:
            yield from places_in(arg)


@dataclass(frozen=True)
class Wait:
    """All threads meet before a call; unless, where there is a `space`, they hold columns of it
    each. given: then too, if they give one another results on a rest."""

    space: int | None = None
    given: bool = False

    def stands(self, *, split: bool, rest: bool) -> bool:
        """Whether threads meet where they share the segment so."""
        return self.space is None or not split or (rest and self.given)

    def __str__(self) -> str:
        if self.space is None:
            return "sync; "
        return f"sync n{self.space}{' or rest' * self.given}; "


@dataclass(frozen=True)
class WeightEntry:
    """A constant of a segment, by graph value.

    kind: "packed" (in its storage format), "winograd" (so, transformed by `lowering/dense_conv.py`;
    `type` is the result's), "raw" (row-major), "mask" (an attention mask made additive, keys
    outside), or "planes" in the layout of `type`. groups, taps, image: of a packed convolution,
    `Conv.plain_image`; no taps for a linear. per_shape: depends on the bound sizes too. carried:
    holds a part for each sample.
    """

    name: str
    type: TensorType
    kind: str
    groups: int = 1
    taps: int = 0
    per_shape: bool = False
    carried: bool = False
    image: tuple[Dim, ...] = ()


@dataclass(frozen=True)
class Segment:
    """One native function.

    inputs, outputs: row-major tensors of the graph by name, and whether their first dimension
    counts samples; weights: constants; samples: how many independent samples. waits: before
    calls. nodes: graph values computed inside. checked: those whose kernels may
    find an index out of range.
    """

    name: str
    inputs: tuple[tuple[str, TensorType], ...]
    outputs: tuple[tuple[str, TensorType], ...]
    carried: tuple[frozenset[str], ...]
    weights: tuple[WeightEntry, ...]
    spaces: tuple[Space, ...]
    buffers: tuple[Buffer, ...]
    calls: tuple[Call, ...]
    samples: Dim
    waits: Mapping[int, Wait]
    nodes: tuple[str, ...]
    checked: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"segment {self.name}"]
        lines += [f"  in[{i}] %{n}: {print_type(t)}" for i, (n, t) in enumerate(self.inputs)]
        lines += [f"  out[{i}] %{n}: {print_type(t)}" for i, (n, t) in enumerate(self.outputs)]
        lines += [
            f"  weight[{i}] %{w.name}: {print_type(w.type)} {w.kind}"
            for i, w in enumerate(self.weights)
        ]
        lines += [
            f"  space {i}: {print_dim(s.columns)} columns{', split' * s.tokens}"
            for i, s in enumerate(self.spaces)
        ]
        lines += [f"  b{i}: {_buffer_text(b)}" for i, b in enumerate(self.buffers)]
        lines.append(f"  for chunks of {print_dim(self.samples)} samples:")
        for i, call in enumerate(self.calls):
            lines.append(f"    {self.waits.get(i, '')}{call}   # {call.label}")
        return "\n".join(lines)


def _buffer_text(buffer: Buffer) -> str:
    size = print_dim(buffer.size)
    kind = f"{size} elements of {buffer.dtype}"
    if buffer.space is not None:
        kind = f"{size} rows of n{buffer.space}"
    return f"{kind}{', shared' * buffer.shared}, calls {buffer.first} to {buffer.last}"


@dataclass(frozen=True)
class TorchStep:
    """A node run by its reference in torch."""

    node: Node


@dataclass(frozen=True)
class Program:
    """Steps in execution order, between the values of the graph that live in torch tensors.

    setup: weight-time nodes, run when weights change; bind: those that depend on sizes too, run
    once per set of sizes. outputs, updates, symbols: as the graph's.
    """

    inputs: tuple[tuple[str, TensorType], ...]
    setup: tuple[Node, ...]
    bind: tuple[Node, ...]
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
        lines += [f"bind {print_node(node)}" for node in self.bind]
        for step in self.steps:
            lines.append(
                f"torch {print_node(step.node)}" if isinstance(step, TorchStep) else str(step)
            )
        lines.append(f"return {', '.join(f'%{o}' for o in self.outputs)}")
        lines += [f"update %{target} = %{value}" for value, target in self.updates]
        return "\n".join(lines) + "\n"
