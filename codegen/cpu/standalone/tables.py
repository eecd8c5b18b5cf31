"""A program as the tables of `tables.h`: what the library's functions read of this one model.

Numbers that depend on sizes become templates on the number's type, used once for estimates in
doubles and once for integers. Same program, same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import sympy

from sparse_compiler.codegen.cpu.arguments import ld_of_constant, numbers_of
from sparse_compiler.codegen.cpu.standalone.sizes import size_code
from sparse_compiler.codegen.operands import ld_of
from sparse_compiler.codegen.program import Buffer, Program, Segment
from sparse_compiler.errors import UnsupportedError
from sparse_compiler.ir.attrs import print_dim
from sparse_compiler.ir.graph import Range
from sparse_compiler.ir.types import Dim, TensorType, product, symbol, symbols_of, torch_dtype

_DTYPES = ("f32", "f64", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "bool")
_UNBOUNDED = 2**63 - 1


@dataclass(frozen=True)
class Constant:
    """A constant of a segment in the file. many, few: numbers of its blobs, -1 for none; strides:
    of one laid out in planes when sizes are set, by dimension, 0 where it is repeated."""

    many: int
    few: int = -1
    strides: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Model:
    """What is printed. inputs: names for callers of the program's first inputs, the others being
    in the file; outputs: names for callers; results: the value of each output.

    constants: per segment; fixed: blobs of row-major values that are handed over, by name.
    """

    program: Program
    target: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    results: tuple[str, ...]
    constants: tuple[tuple[Constant, ...], ...]
    fixed: Mapping[str, int]
    stored: int


def print_tables(model: Model, identity: int) -> str:
    """The unit that defines `kModel`. Raises `UnsupportedError` on sizes without a C++ form."""
    return _Printer(model).unit(identity)


def types_of(program: Program) -> dict[str, TensorType]:
    """Types of what callers and segments hand over."""
    found = dict(program.inputs)
    for segment in program.segments:
        found |= dict(segment.inputs) | dict(segment.outputs)
    return found


class _Printer:
    def __init__(self, model: Model) -> None:
        self.model, self.program = model, model.program
        self.types = types_of(self.program)
        self.given = [name for name, _ in self.program.inputs[: len(model.inputs)]]
        self.names = sorted(
            {s for _, type_ in self.program.inputs for s in symbols_of(type_.shape)}
        )
        self.symbols = {name: f"s[{i}]" for i, name in enumerate(self.names)}
        made = [name for s in self.program.segments for name, _ in s.outputs]
        self.between = [n for n in made if n not in model.results]

    def unit(self, identity: int) -> str:
        """The text."""
        segments = [self.segment(i, s) for i, s in enumerate(self.program.segments)]
        few = any(c.few >= 0 for constants in self.model.constants for c in constants)
        return "".join(
            (
                "// Written by sparse_compiler: the tables of one model.\n",
                '#include "tables.h"\n',
                'extern "C" void sc_decode_bind(void* packed);\n' * few,
                "\nnamespace sc::standalone {\nnamespace {\n",
                self.described("kInput_", self.model.inputs, self.input_types()),
                self.described("kOutput_", self.model.outputs, self.output_types()),
                *segments,
                self.shapes(),
                self.solve(),
                self.rest(),
                "\n}  // namespace\n",
                self.table(identity, few),
                "\n}  // namespace sc::standalone\n",
            )
        )

    def input_types(self) -> list[TensorType]:
        """Of the inputs, in order."""
        return [self.types[name] for name in self.given]

    def output_types(self) -> list[TensorType]:
        """Of the outputs, in order."""
        return [self.types[name] for name in self.model.results]

    # --- what callers read ------------------------------------------------------------------------

    def described(self, prefix: str, names: Sequence[str], types: Sequence[TensorType]) -> str:
        """Arrays of sc_tensor and of their dimensions."""
        text, entries = "", []
        for i, (name, type_) in enumerate(zip(names, types, strict=True)):
            text += _array("sc_dim", f"{prefix}{i}", [self.dim(d) for d in type_.shape])
            dtype = f"SC_{type_.dtype.upper()}"
            if type_.dtype not in _DTYPES:
                raise UnsupportedError(f"{name} is {type_.dtype}, which the library has not")
            entries.append(f"{{{_quoted(name)}, {dtype}, {type_.rank}, {prefix}{i}}}")
        return text + _array("sc_tensor", f"{prefix}all", entries)

    def dim(self, dim: Dim) -> str:
        """An sc_dim."""
        if isinstance(dim, int):
            return f"{{{dim}, {dim}, nullptr}}"
        low, high = bounds(dim, self.program.symbols)
        return f"{{{low}, {_UNBOUNDED if high is None else high}, {_quoted(print_dim(dim))}}}"

    # --- segments ---------------------------------------------------------------------------------

    def segment(self, index: int, segment: Segment) -> str:
        """The tables of one segment, and its functions."""
        n = str(index)
        sizes: list[Dim] = [segment.samples, *(space.columns for space in segment.spaces)]
        constants = []
        text = ""
        entries = zip(segment.weights, self.model.constants[index], strict=True)
        for i, (entry, constant) in enumerate(entries):
            if constant.strides is None:
                constants.append(
                    f"{{kStored, {constant.many}, {constant.few}, 0, 0, 0, nullptr, false}}"
                )
                continue
            layout = entry.type.layout
            planes, rank = (layout.planes, entry.type.rank) if layout else (0, 0)
            order = layout.order if layout else ()
            text += _array("int64_t", f"strides{n}_{i}", map(str, constant.strides))
            constants.append(
                f"{{kPlanes, {constant.many}, -1, {rank}, {planes}, {len(sizes)}, "
                f"strides{n}_{i}, {_bool(entry.carried)}}}"
            )
            sizes += [entry.type.shape[d] for d in order]
        uses = [
            f"{{{call.weight}, {call.space}}}"
            for call in segment.calls
            if call.weight is not None and call.space is not None
        ]
        text += self.function(f"sizes{n}", "const T* s", sizes, self.symbols)
        known = dict(self.symbols)
        known |= {ld_of(i).name: f"ld[{i}]" for i in range(len(segment.spaces))}
        known |= {ld_of_constant(i).name: f"ldw[{i}]" for i in range(len(segment.weights))}
        numbers = [*(buffer.size for buffer in segment.buffers), *numbers_of(segment)]
        text += self.function(f"bind{n}", "const T* s, const T* ld, const T* ldw", numbers, known)
        text += _array("bool", f"tokens{n}", (_bool(s.tokens) for s in segment.spaces))
        text += _array("BufferTable", f"buffers{n}", map(_buffer, segment.buffers))
        text += _array("WaitTable", f"waits{n}", _waits(segment))
        text += _array("UseTable", f"uses{n}", uses)
        text += _array("ConstantTable", f"constants{n}", constants)
        text += _array("PlaceTable", f"ins{n}", (self.place(name) for name, _ in segment.inputs))
        text += _array("PlaceTable", f"outs{n}", (self.place(name) for name, _ in segment.outputs))
        text += _array("char* const", f"checked{n}", map(_quoted, segment.checked))
        return text

    def segment_entry(self, index: int, segment: Segment) -> str:
        """The SegmentTable of a segment."""
        n = str(index)
        counts = (
            len(segment.spaces), len(segment.buffers), len(segment.waits),
            sum(c.weight is not None and c.space is not None for c in segment.calls),
            len(segment.weights), len(segment.inputs), len(segment.outputs), len(segment.checked),
            1 + len(segment.spaces) + sum(
                len(c.strides) for c in self.model.constants[index] if c.strides is not None
            ),
            len(numbers_of(segment)), len(segment.calls),
        )  # fmt: skip
        tables = ("tokens", "buffers", "waits", "uses", "constants", "ins", "outs", "checked")
        fields = [
            *map(str, counts),
            *(f"{table}{n}" for table in tables),
            f"sizes{n}<int64_t>, sizes{n}<double>, bind{n}<int64_t>, bind{n}<double>",
            f"sc_segment{n}_scratch, sc_segment{n}_run",
        ]
        return f"{{{', '.join(fields)}}}"

    def function(
        self, name: str, arguments: str, dims: Sequence[Dim], known: Mapping[str, str]
    ) -> str:
        """A template that computes sizes."""
        lines = "".join(f"  out[{i}] = {size_code(d, known)};\n" for i, d in enumerate(dims))
        used = "".join(f", (void){part.split()[-1]}" for part in arguments.split(","))
        return (
            f"template <class T>\nvoid {name}({arguments}, T* out) {{\n{lines}"
            f"  (void)out{used};\n}}\n"
        )

    def place(self, name: str) -> str:
        """Where a value lies that is handed over."""
        if name in self.given:
            return f"{{kInput, {self.given.index(name)}}}"
        if name in self.model.fixed:
            return f"{{kFixed, {self.model.fixed[name]}}}"
        if name in self.model.results:
            return f"{{kOutput, {self.model.results.index(name)}}}"
        return f"{{kBetween, {self.between.index(name)}}}"

    # --- the model --------------------------------------------------------------------------------

    def shapes(self) -> str:
        """All shapes that symbols decide."""
        dims = [dim for t in (*self.input_types(), *self.output_types()) for dim in t.shape]
        for name in self.between:
            type_ = self.types[name]
            dims.append(product([*type_.shape, torch_dtype(type_.dtype).itemsize]))
        self.shaped = len(dims)
        return self.function("shapes", "const T* s", dims, self.symbols)

    def solve(self) -> str:
        """The symbols from the inputs' dimensions."""
        dims = [dim for type_ in self.input_types() for dim in type_.shape]
        lines = []
        for i, name in enumerate(self.names):
            lines.append(f"  s[{i}] = {_solution(name, dims)};\n")
        body = "".join(lines)
        return (
            "void solve(const int64_t* dims, int64_t* s) {\n  using T = int64_t;\n"
            f"{body}  (void)dims, (void)s, (void)T();\n}}\n"
        )

    def rest(self) -> str:
        """Symbols, and results that no segment writes."""
        ranges: list[str] = []
        for name in self.names:
            limits = self.program.symbols.get(name, Range(0, None))
            ranges += [str(limits.low), str(_UNBOUNDED if limits.high is None else limits.high)]
        copies = [
            f"{{{place}, {i}}}"
            for i, place in enumerate(map(self.place, self.model.results))
            if place != f"{{kOutput, {i}}}"
        ]
        self.copies = len(copies)
        segments = [self.segment_entry(i, s) for i, s in enumerate(self.program.segments)]
        names = f"{_array('char* const', 'symbols', map(_quoted, self.names))}"
        return (
            f"{names}{_array('int64_t', 'ranges', ranges)}{_array('CopyTable', 'copies', copies)}"
            f"}}  // namespace\n{_entries(len(segments))}namespace {{\n"
            f"{_array('SegmentTable', 'segments', segments)}"
        )

    def table(self, identity: int, few: bool) -> str:
        """The definition of kModel."""
        counts = (
            len(self.model.inputs), len(self.model.outputs), len(self.program.segments),
            len(self.names), len(self.between), self.model.stored, self.copies, self.shaped,
        )  # fmt: skip
        fields = [
            _quoted(self.model.target),
            f"{identity:#x}ull",
            *map(str, counts),
            "kInput_all, kOutput_all, segments, symbols, ranges, copies, solve",
            "shapes<int64_t>, shapes<double>",
            "sc_decode_bind" if few else "nullptr",
        ]
        return f"const ModelTable kModel = {{{', '.join(fields)}}};\n"


def bounds(dim: Dim, ranges: Mapping[str, Range]) -> tuple[int, int | None]:
    """The least and the most that a dimension may be; sizes grow with their symbols."""
    if isinstance(dim, int):
        return dim, dim
    known = {s: ranges.get(s.name, Range(0, None)) for s in dim.free_symbols}
    low = dim.xreplace({s: sympy.Integer(r.low) for s, r in known.items()})
    if any(r.high is None for r in known.values()):
        return int(low), None
    high = dim.xreplace({s: sympy.Integer(r.high) for s, r in known.items()})
    return min(int(low), int(high)), max(int(low), int(high))


def _solution(name: str, dims: Sequence[Dim]) -> str:
    """A symbol from the first dimension that determines it; the library then checks all of them."""
    for i, dim in enumerate(dims):
        if dim == symbol(name):
            return f"dims[{i}]"
    x = sympy.Symbol("x", integer=True, nonnegative=True)
    for i, dim in enumerate(dims):
        if isinstance(dim, int) or symbols_of([dim]) != {name}:
            continue
        if dim.is_polynomial() and sympy.degree(dim, symbol(name)) == 1:
            (root,) = sympy.solve(dim - x, symbol(name))
            return size_code(sympy.floor(root), {"x": f"dims[{i}]"})
    raise UnsupportedError(
        f"the size {name} cannot be told from the shapes of the inputs",
        why="it is no dimension of an input, nor a sum or multiple in one",
        fix="make a dimension of an input exactly this symbol",
    )


def _buffer(buffer: Buffer) -> str:
    space = -1 if buffer.space is None else buffer.space
    flags = f"{_bool(buffer.shared)}, {_bool(buffer.foreign)}"
    bytes_ = torch_dtype(buffer.dtype).itemsize
    rows = buffer.size if buffer.space is not None and isinstance(buffer.size, int) else 0
    return f"{{{space}, {bytes_}, {rows}, {flags}, {buffer.first}, {buffer.last}}}"


def _waits(segment: Segment) -> Iterator[str]:
    for call, wait in sorted(segment.waits.items()):
        space = -1 if wait.space is None else wait.space
        yield f"{{{call}, {space}, {_bool(wait.given)}}}"


def _array(type_: str, name: str, entries: Iterable[str]) -> str:
    """A constant array; one entry at least, since C++ has no empty ones."""
    listed = list(entries) or ["{}"]
    return f"const {type_} {name}[] = {{{', '.join(listed)}}};\n"


def _entries(segments: int) -> str:
    """The functions of the segments' units."""
    return "".join(
        f'extern "C" int64_t sc_segment{i}_scratch(const void* const*, const int64_t*);\n'
        f'extern "C" int sc_segment{i}_run(const void* const*, void* const*, const void* const*,\n'
        "                                const int64_t*, float*, int64_t*, double*);\n"
        for i in range(segments)
    )


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _quoted(text: str) -> str:
    """A C string; JSON's escapes of what is not ASCII are C's too."""
    return json.dumps(text)
