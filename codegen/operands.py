"""What the arguments of kernel calls are: places in memory, sizes, geometries and functors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import sympy

from sparse_compiler.ir.attrs import print_dim
from sparse_compiler.ir.expr import Expr
from sparse_compiler.ir.types import Dim, as_dim, symbol


def ld_of(space: int) -> sympy.Symbol:
    """Floats between the planes of a space, a number once shapes and threads are bound."""
    return symbol(f"ld.{space}")


@dataclass(frozen=True)
class Planes:
    """`rows` rows of a buffer of planes, from row `first` on."""

    buffer: int
    first: Dim
    rows: Dim
    space: int

    def __str__(self) -> str:
        end = as_dim(self.first + self.rows)
        return f"b{self.buffer}[{print_dim(self.first)}:{print_dim(end)}]"


@dataclass(frozen=True)
class Elements:
    """Row-major memory: kind is "buffer", "in", "out" or "weight"; offset in elements.

    step: elements from one sample to the next, 0 where all samples share it.
    """

    kind: str
    index: int
    dtype: str
    step: Dim = 0
    offset: Dim = 0

    def __str__(self) -> str:
        name = f"b{self.index}" if self.kind == "buffer" else f"{self.kind}[{self.index}]"
        return name if self.offset == 0 else f"{name}+{print_dim(self.offset)}"


@dataclass(frozen=True)
class ConstantPlanes:
    """Planes that depend on no input, laid out when shapes are bound; `rows` of `weight[index]`.

    step: columns from one sample to the next, 0 where all samples share them.
    """

    index: int
    space: int
    step: Dim = 0

    def __str__(self) -> str:
        return f"weight[{self.index}][row, col]"


@dataclass(frozen=True)
class Vector:
    """A weight-time tensor read by row number, or a single number where `single`."""

    weight: int
    single: bool = False

    def __str__(self) -> str:
        return f"weight[{self.weight}]{'' if self.single else '[row]'}"


@dataclass(frozen=True)
class Read:
    """Planes as a kernel's epilogue reads them: row `(row / div) % mod` (mod 0: no bound), at the
    same column, or at one number for all columns where `column` is false. of_samples: the space of
    the columns, where that number is one for each sample."""

    planes: Planes | ConstantPlanes
    div: Dim = 1
    mod: Dim = 0
    column: bool = True
    of_samples: int | None = None

    def __str__(self) -> str:
        row = "row" if self.div == 1 else f"row/{print_dim(self.div)}"
        row = row if self.mod == 0 else f"{row}%{print_dim(self.mod)}"
        column = "col" if self.column else "0" if self.of_samples is None else "sample"
        place = f"[{row}, {column}]"
        return str(self.planes) + ("" if place == "[row, col]" else place)


Operand: TypeAlias = Read | Vector


@dataclass(frozen=True)
class Functor:
    """An expression at (row, column) of planes. accumulator: x0 is what the kernel computed.

    onto: an input that is added to x0, and lies where the kernel writes: its sums may begin there.
    """

    expr: Expr
    operands: tuple[Operand, ...]
    accumulator: bool
    onto: int | None = None

    def __str__(self) -> str:
        first = 1 if self.accumulator else 0
        reads = "".join(f", x{i} = {o}" for i, o in enumerate(self.operands, first))
        return f"{self.expr}{reads}"


@dataclass(frozen=True)
class ScalarFunctor:
    """An expression over single elements x0, x1, ... of these dtypes, giving `dtype`."""

    expr: Expr
    dtypes: tuple[str, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.expr} -> {self.dtype}"


@dataclass(frozen=True)
class Strided:
    """Memory with a stride in elements for each dimension of a box."""

    place: Planes | Elements | ConstantPlanes
    strides: tuple[Dim, ...]
    offset: Dim = 0
    written: bool = False

    def __str__(self) -> str:
        strides = ", ".join(map(print_dim, self.strides))
        offset = "" if self.offset == 0 else f"+{print_dim(self.offset)}"
        return f"{self.place}{offset} by ({strides})"


@dataclass(frozen=True)
class Box:
    """Sizes of a loop nest; the first counts once for each sample where `samples`."""

    sizes: tuple[Dim, ...]
    samples: bool

    def __str__(self) -> str:
        sizes = ", ".join(map(print_dim, self.sizes))
        return f"({'samples x ' * self.samples}{sizes})"


@dataclass(frozen=True)
class Samples:
    """`factor` for each sample of the chunk."""

    factor: Dim = 1

    def __str__(self) -> str:
        return f"samples x {print_dim(self.factor)}"


@dataclass(frozen=True)
class Columns:
    """The columns of a space in this chunk: this thread's where threads hold columns each."""

    space: int

    def __str__(self) -> str:
        return f"n{self.space}"


@dataclass(frozen=True)
class First:
    """The first column of one sample that a thread works on, of a space that threads may split."""

    space: int

    def __str__(self) -> str:
        return f"start{self.space}"


@dataclass(frozen=True)
class Held:
    """How many columns of one sample a thread works on."""

    space: int

    def __str__(self) -> str:
        return f"queries{self.space}"


@dataclass(frozen=True)
class Weight:
    """A packed weight."""

    index: int

    def __str__(self) -> str:
        return f"weight[{self.index}]"


@dataclass(frozen=True)
class Written:
    """Planes that the kernel writes."""

    planes: Planes

    def __str__(self) -> str:
        return str(self.planes)


@dataclass(frozen=True)
class Foreign:
    """Planes of which a thread reads also columns that another thread holds."""

    planes: Planes

    def __str__(self) -> str:
        return f"all of {self.planes}"


@dataclass(frozen=True)
class Own:
    """Where a thread's own columns of `space` begin in memory that all threads share.

    factor: elements for each column.
    """

    place: Planes | Elements
    factor: Dim
    space: int
    written: bool = False

    def __str__(self) -> str:
        return f"{self.place} from n{self.space}"


@dataclass(frozen=True)
class Struct:
    """An aggregate of arguments: a geometry. types: dtypes and sizes that it is made for."""

    name: str
    fields: tuple[Arg, ...]
    types: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}{{{', '.join(map(print_arg, self.fields))}}}"


@dataclass(frozen=True)
class Element:
    """One number of a dtype."""

    value: float
    dtype: str

    def __str__(self) -> str:
        return f"{self.value!r} {self.dtype}"


@dataclass(frozen=True)
class Word:
    """A name of the target language: a template argument, an enumerator."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Scratch:
    """Memory of the thread, `need` telling how much: a call of that function with arguments."""

    need: str
    args: tuple[Arg, ...] = ()

    def __str__(self) -> str:
        return "scratch"


Arg: TypeAlias = (
    Planes
    | Written
    | Foreign
    | Own
    | Elements
    | ConstantPlanes
    | Vector
    | Functor
    | ScalarFunctor
    | Strided
    | Box
    | Samples
    | Columns
    | First
    | Held
    | Weight
    | Struct
    | Element
    | Word
    | Scratch
    | Dim
    | float
    | bool
)


def print_arg(arg: Arg) -> str:
    """An argument as the program's text shows it."""
    if isinstance(arg, tuple):
        return f"{{{', '.join(map(print_arg, arg))}}}"
    if isinstance(arg, sympy.Expr):
        return print_dim(arg)
    return repr(arg).lower() if isinstance(arg, bool) else str(arg)


def places_in(arg: Any) -> Iterator[tuple[Planes | Elements, str]]:
    match arg:
        case Written(planes=planes):
            yield planes, "write"
        case Foreign(planes=planes):
            yield planes, "foreign"
        case Planes() | Elements():
            yield arg, "read"
        case Strided(place=place, written=written) | Own(place=place, written=written):
            if isinstance(place, Planes | Elements):
                yield place, "write" if written else "read"
        case Functor(operands=operands):
            for operand in operands:
                if isinstance(operand, Read) and isinstance(operand.planes, Planes):
                    yield operand.planes, "read"
        case Struct(fields=fields):
            for field in fields:
                yield from places_in(field)
        case tuple():
            for item in arg:
                yield from places_in(item)
