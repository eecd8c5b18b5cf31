"""Segment -> one Python module of Triton kernels, and the launches that run it in order.

A template's holes are filled with the functors of a call; calls of equal templates and functors
share a kernel, so a model of many equal layers compiles each once. Same segment, same bytes.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparse_compiler.codegen.gpu.expressions import code_of
from sparse_compiler.codegen.operands import (
    ConstantPlanes,
    Functor,
    Planes,
    Read,
    ScalarFunctor,
    Vector,
    Written,
    ld_of,
)
from sparse_compiler.codegen.program import Segment
from sparse_compiler.formats.gpu_arch import DEFAULT, Arch
from sparse_compiler.ir.expr import args_of
from sparse_compiler.ir.types import Dim, symbol
from sparse_compiler.ops.scalar import dtype_of

_HOLE = re.compile(r"^\$(\w+)$")


@dataclass(frozen=True)
class Part:
    """`name` of a packed weight's arrays: what a kernel reads of it beside its numbers."""

    weight: int
    name: str


@dataclass(frozen=True)
class Scratch:
    """Memory of fp32 between two launches: `factor` times `columns` numbers."""

    name: str
    factor: int
    columns: Any


@dataclass(frozen=True)
class Launch:
    """kernel[grid](**args): the printed kernel, arguments of the Program, programs to start.

    args: places, sizes, parts of weights or plain numbers; grid: (count, how many of them one
    program takes) for each axis. others: launches that compute the same, the best by the cost model
    first: tuning takes the fastest of them and of this one.
    """

    kernel: str
    args: Mapping[str, Any]
    grid: tuple[tuple[Any, int], ...]
    label: str
    warps: int = 4
    stages: int = 3
    others: tuple[Launch, ...] = ()


@dataclass(frozen=True)
class Host:
    """A call that torch runs, on views of the segment's memory: `runtime/gpu_host.py` has it."""

    function: str
    args: tuple[Any, ...]
    label: str


@dataclass(frozen=True)
class Module:
    """text: Python source of the kernels, plain functions; launches: in Program order; calls: of
    each launch, which of the segment's calls it is a part of."""

    text: str
    launches: tuple[Launch | Host, ...]
    calls: tuple[int, ...] = ()


def ld_of_constant(index: int) -> Dim:
    """Numbers between the planes of a constant."""
    return symbol(f"ld.w{index}")


class Printer:
    """Prints the kernels of one segment. dtype: how weights lie: fp32, tf32, fp16 or bf16; arch:
    the GPU whose limits hold."""

    def __init__(self, segment: Segment, dtype: str, arch: Arch = DEFAULT) -> None:
        self.segment, self.dtype, self.arch = segment, dtype, arch
        self.kernels: dict[str, str] = {}
        self.launches: list[Launch | Host] = []

    def launch(
        self,
        template: str,
        kind: str,
        args: Mapping[str, Any],
        grid: Sequence[tuple[Any, int]],
        label: str,
        *,
        holes: Mapping[str, str] | None = None,
        functors: Mapping[str, Functor] | None = None,
        warps: int = 4,
        stages: int = 3,
    ) -> None:
        """Fills a template, and enters a launch of it. functors: what holes compute; their
        operands become parameters."""
        given = dict(args)
        filled = {"params": "", **(holes or {})}
        for n, (hole, functor) in enumerate((functors or {}).items()):
            lines, params = self.functor(functor, "ab"[n])
            filled[hole] = "\n".join(lines)
            filled["params"] = " ".join([filled["params"], *(f"{p}," for p in params)])
            given |= params
        body = fill(template, filled)
        if body not in self.kernels:
            self.kernels[body] = f"{kind}_{len(self.kernels)}"
        name = self.kernels[body]
        self.launches.append(Launch(name, given, tuple(grid), label, warps, stages))

    def functor(self, functor: Functor, prefix: str) -> tuple[list[str], dict[str, Any]]:
        """Lines that compute `value` at (row, at) where `mask`, and the parameters they read."""
        first = 1 if functor.accumulator else 0
        lines: list[str] = []
        params: dict[str, Any] = {}
        for i in sorted(args_of(functor.expr)):
            if i >= first:
                lines += self.read(functor.operands[i - first], f"{prefix}{i}", params)
                lines[-1] = f"x{i} = {lines[-1]}"
        inputs = ("f32",) * (max(args_of(functor.expr), default=-1) + 1)
        lines += code_of(functor.expr, inputs)
        if dtype_of(functor.expr, inputs) == "bool":
            lines.append("value = value.to(tl.float32)")
        return lines, params

    def read(self, operand: Read | Vector, name: str, params: dict[str, Any]) -> list[str]:
        """Code that loads an operand; its pointer and step enter `params`."""
        params[f"p{name}"] = operand if isinstance(operand, Vector) else operand.planes
        if isinstance(operand, Vector):
            at = "" if operand.single else " + row"
            rows = "" if operand.single else ", mask=mask, other=0.0"
            return [f"tl.load(p{name}{at}{rows}).to(tl.float32)"]
        planes = operand.planes
        if isinstance(planes, ConstantPlanes):
            params[f"ld{name}"] = ld_of_constant(planes.index)
        else:
            params[f"ld{name}"] = ld_of(planes.space)
        row = _row_code(operand)
        column = " + at" if operand.column else ""
        if operand.of_samples is not None:
            params[f"each{name}"] = self.segment.spaces[operand.of_samples].columns
            column = f" + at // each{name}"
        place = f"p{name} + {row} * ld{name}{column}"
        return [f"tl.load({place}, mask=mask, other=0.0).to(tl.float32)"]

    def text(self) -> str:
        """The module's source."""
        head = f'"""Written by sparse_compiler for the segment %{self.segment.name}."""\n\n'
        bodies = (body.replace("$name", name) for body, name in self.kernels.items())
        return head + "import triton.language as tl\n\n\n" + "\n\n".join(bodies)


def _row_code(operand: Read) -> str:
    row = "row"
    if operand.div != 1:
        row = f"({row} // {int(operand.div)})"
    if operand.mod != 0:
        row = f"({row} % {int(operand.mod)})"
    return row


def fill(template: str, holes: Mapping[str, str]) -> str:
    """A template with its holes filled: a line that is a hole takes the indentation of its place,
    that of the statement before it, or one level more behind a colon."""
    done: list[str] = []
    for line in template.splitlines():
        found = _HOLE.match(line)
        if found is None:
            for name, text in holes.items():
                if f"${name}" in line:
                    line = line.replace(f"${name}", text.strip())
            done.append(line)
            continue
        text = textwrap.dedent(holes.get(found[1], ""))
        done += [_indent(done) + part for part in text.splitlines()] if text else []
    return "\n".join(done) + "\n"


def _indent(lines: Sequence[str]) -> str:
    last = next(line for line in reversed(lines) if line.strip())
    depth = len(last) - len(last.lstrip())
    return " " * (depth + 4 * last.endswith(":"))


def planes_args(written: Written | Planes) -> dict[str, Any]:
    """Where a kernel writes planes."""
    planes = written.planes if isinstance(written, Written) else written
    return {"out": planes, "ldo": ld_of(planes.space)}


def source_args(planes: Planes) -> dict[str, Any]:
    """Where a kernel reads planes."""
    return {"x": planes, "ldx": ld_of(planes.space)}


def row_reads(functor: ScalarFunctor, reads: Sequence[Any]) -> tuple[list[str], dict[str, Any]]:
    """Lines that compute `value` of x0 and of a number to each `row`, or one for all; what they
    read."""
    lines: list[str] = []
    args: dict[str, Any] = {}
    for i, read in enumerate(reads, 1):
        args |= dict(zip((f"s{i}", f"step{i}"), read.fields, strict=True))
        lines.append(f"x{i} = tl.load(s{i} + row * step{i}, mask=mask, other=0.0).to(tl.float32)")
    return lines + code_of(functor.expr, functor.dtypes), args


def each_element(rows: Dim, columns: Any) -> tuple[dict[str, Any], Sequence[tuple[Any, int]]]:
    """Sizes, tile and grid of a kernel that computes each element of planes once, in order."""
    high, wide = 4, 256
    sizes = {"P": columns, "M": rows, "HIGH": high, "WIDE": wide}
    return sizes, ((rows, high), (columns, wide))
