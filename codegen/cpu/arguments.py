"""How the CPU target writes arguments of calls: pointers, sizes and geometries as C++."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import sympy

from sparse_compiler.codegen.cpu.expressions import c_type, float_literal
from sparse_compiler.codegen.operands import (
    Box,
    Columns,
    ConstantPlanes,
    Element,
    Elements,
    First,
    Foreign,
    Functor,
    Held,
    Own,
    Planes,
    Read,
    Samples,
    ScalarFunctor,
    Scratch,
    Strided,
    Struct,
    Vector,
    Weight,
    Word,
    Written,
    ld_of,
)
from sparse_compiler.codegen.program import Call, Segment
from sparse_compiler.errors import CodegenError
from sparse_compiler.ir.types import Dim, symbol

HEADER = 6  # numbers before those of spaces: samples, per, alone, scratch, local, threads
PER_SPACE = 4  # columns, part, ld, rest
PER_BUFFER = 2  # local, offset


def ld_of_constant(index: int) -> sympy.Symbol:
    """Floats between the planes of a constant."""
    return symbol(f"ld.w{index}")


def numbers_of(segment: Segment) -> tuple[sympy.Expr, ...]:
    """Every symbolic size in the calls, in the order in which the source refers to them."""
    found: dict[sympy.Expr, None] = {}
    for call in segment.calls:
        for expr in _expressions(call.args):
            found.setdefault(expr)
    return tuple(found)


def _expressions(arg: Any) -> Iterator[sympy.Expr]:
    match arg:
        case sympy.Expr():
            yield arg
        case tuple():
            for item in arg:
                yield from _expressions(item)
        case Planes(first=first, space=space):
            yield from _expressions((first, ld_of(space)))
        case Written(planes=planes) | Foreign(planes=planes):
            yield from _expressions(planes)
        case Elements(step=step, offset=offset):
            yield from _expressions((step, offset))
        case Own(place=place, factor=factor):
            yield from _expressions((place, factor))
        case Strided(place=place, strides=strides, offset=offset):
            yield from _expressions((place, strides, offset))
        case Box(sizes=sizes):
            yield from _expressions(sizes)
        case Samples(factor=factor):
            yield from _expressions(factor)
        case Struct(fields=fields) | Scratch(args=fields):
            yield from _expressions(fields)
        case Functor(operands=operands):
            yield from _expressions(operands)
        case Read(planes=planes, div=div, mod=mod):
            yield from _expressions((planes, div, mod))
        case ConstantPlanes(index=index, step=step):
            yield ld_of_constant(index)
            yield from _expressions(step)


class ArgumentPrinter:
    """Prints arguments for one segment; functors are entered through the two callbacks."""

    def __init__(
        self,
        segment: Segment,
        functor: Callable[[Functor, ArgumentPrinter, int | None], str],
        scalar: Callable[[ScalarFunctor], str],
    ) -> None:
        self.segment, self.functor, self.scalar = segment, functor, scalar
        first = HEADER + PER_SPACE * len(segment.spaces) + PER_BUFFER * len(segment.buffers)
        self.places = {expr: first + i for i, expr in enumerate(numbers_of(segment))}
        for i in range(len(segment.spaces)):
            self.places[ld_of(i)] = HEADER + PER_SPACE * i + 2

    def number(self, value: Dim) -> str:
        """A size: a literal, or the bound number of an expression."""
        return str(value) if isinstance(value, int) else f"d[{self.places[value]}]"

    def times(self, name: str, factor: Dim) -> str:
        """`name * factor`, without the factor 1."""
        return name if factor == 1 else f"{name} * {self.number(factor)}"

    def args(self, args: tuple[Any, ...], tokens: int | None) -> str:
        """Arguments after the team, separated by commas."""
        return ", ".join(self.arg(arg, tokens) for arg in args)

    def arg(self, arg: Any, tokens: int | None) -> str:
        """One argument; planes give two, a pointer and the floats between rows."""
        match arg:
            case bool():
                return "true" if arg else "false"
            case float():
                return float_literal(arg)
            case int() | sympy.Expr():
                return self.number(arg)
            case Planes():
                return f"{self.pointer(arg)}, {self.ld(arg)}"
            case Written(planes=planes):
                return f"{self.pointer(planes)}, {self.ld(planes)}"
            case Foreign(planes=planes):
                return f"{self.pointer(planes, 'f')}, {self.ld(planes)}"
            case Elements():
                return self.element_pointer(arg)
            case Own():
                return self.own(arg)
            case ConstantPlanes():
                return ", ".join(self.constant(arg, tokens))
            case Vector(weight=weight):
                return f"frame.constant<float>({weight})"
            case Strided():
                return self.strided(arg)
            case Box(sizes=sizes, samples=samples):
                texts = [self.number(size) for size in sizes]
                if samples:
                    texts[0] = self.times("here", sizes[0])
                return f"Box<{len(texts)}>{{{{{', '.join(texts)}}}}}"
            case Samples(factor=factor):
                return self.times("here", factor)
            case Columns(space=space):
                return self.columns(space)
            case First(space=space):
                return self.start(space)
            case Held(space=space):
                return f"queries{space}"
            case Weight(index=index):
                return f"weight[{index}]"
            case Word(text=text):
                return text
            case Struct(name="sum", fields=fields):
                return " + ".join(self.arg(field, tokens) for field in fields)
            case Struct(name="pair", fields=fields):
                return self.args(fields, tokens)
            case Struct(name=name, fields=fields, types=types):
                names = [c_type(t) if isinstance(t, str) else str(t) for t in types]
                made_for = f"<{', '.join(names)}>" if names else ""
                return f"{name}{made_for}{{{self.args(fields, tokens)}}}"
            case Element(value=value, dtype=dtype):
                number = float_literal(value) if dtype in ("f32", "f64") else str(int(value))
                return f"{c_type(dtype)}({number})"
            case Scratch():
                return "scratch"
            case Functor():
                return self.functor(arg, self, tokens)
            case ScalarFunctor():
                return self.scalar(arg)
        raise CodegenError(f"no way to print the argument {arg!r}")

    def columns(self, space: int) -> str:
        """Columns of a chunk that the call works on."""
        return f"n{space}"

    def start(self, space: int) -> str:
        """The first column of a sample that the call works on."""
        return f"start{space}"

    def ld(self, planes: Planes) -> str:
        """Floats between rows."""
        return f"ld{planes.space}"

    def pointer(self, planes: Planes, base: str = "b") -> str:
        """Pointer to the first of some planes."""
        start = f"{base}{planes.buffer}"
        if planes.first == 0:
            return start
        return f"{start} + {self.number(planes.first)} * {self.ld(planes)}"

    def constant(self, planes: ConstantPlanes, tokens: int | None) -> list[str]:
        """Pointer to a constant's columns of this chunk and thread, and floats between rows."""
        start = f"frame.constant<float>({planes.index})"
        if planes.step != 0:
            start += f" + {self.times('first', planes.step)}"
        if tokens is not None:
            start += f" + {self.start(planes.space)}"
        return [start, self.number(ld_of_constant(planes.index))]

    def element_pointer(self, place: Elements) -> str:
        """Pointer to row-major memory, that of the chunk's first sample."""
        if place.kind == "buffer":
            start = f"b{place.index}"
        else:
            access = {"in": "input", "out": "output", "weight": "constant"}[place.kind]
            start = f"frame.{access}<{c_type(place.dtype)}>({place.index})"
            if place.step != 0:
                start += f" + {self.times('first', place.step)}"
        return start if place.offset == 0 else f"{start} + {self.number(place.offset)}"

    def own(self, own: Own) -> str:
        """Memory from a thread's own columns on."""
        start = self.times(self.start(own.space), own.factor)
        if isinstance(own.place, Planes):
            return f"{self.pointer(own.place)} + {start}, {self.ld(own.place)}"
        return f"{self.element_pointer(own.place)} + {start}"

    def strided(self, strided: Strided) -> str:
        """A pointer, with strides if there are any."""
        place = strided.place
        if isinstance(place, Planes):
            pointer, dtype = self.pointer(place), "f32"
        elif isinstance(place, Elements):
            pointer, dtype = self.element_pointer(place), place.dtype
        else:
            raise CodegenError("constant planes are read by functors only")
        if strided.offset != 0:
            pointer += f" + {self.number(strided.offset)}"
        if not strided.strides:
            return pointer
        strides = ", ".join(map(self.number, strided.strides))
        const = "" if strided.written else "const "
        type_ = f"At<{const}{c_type(dtype)}, {len(strided.strides)}>"
        return f"{type_}{{{pointer}, {{{strides}}}}}"


class OwnPrinter(ArgumentPrinter):
    """Arguments of a call on a thread's own columns, without the rest behind them."""

    def columns(self, space: int) -> str:
        return f"own{space}"


class RestPrinter(ArgumentPrinter):
    """Arguments of a call on the rest behind a thread's own columns."""

    def columns(self, space: int) -> str:
        return f"span{space}.rest"

    def start(self, space: int) -> str:
        return f"rest{space}.start"

    def pointer(self, planes: Planes, base: str = "b") -> str:
        """As of the thread's own columns, behind which the rest lies."""
        own = super().pointer(planes, base)
        return f"{own} + part{planes.space}" if self.segment.spaces[planes.space].tokens else own


def in_whole_samples(call: Call) -> bool:
    """True where a call on a thread's own columns touches such of whole samples too."""
    return any(map(_counts_columns, call.args))


def _counts_columns(arg: Any) -> bool:
    match arg:
        case Own():
            return True
        case Functor(operands=operands):
            return any(map(_counts_columns, operands))
        case Read(planes=ConstantPlanes(), column=column):
            return column
        case Struct(fields=fields):
            return any(map(_counts_columns, fields))
    return False
