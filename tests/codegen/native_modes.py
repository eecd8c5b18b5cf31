"""One op run natively in a graph of its own: every mode that it has, and many cases in one unit.

A mode says which inputs are constants and how each lies; it is asked of the op itself, as the
layout pass does, but tries every order of planes whether or not a model would meet it.
"""

import ctypes
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sparse_compiler.codegen import plan
from sparse_compiler.codegen.cpu.build import Toolchain, build, load_library, native_width
from sparse_compiler.codegen.cpu.source import print_segment
from sparse_compiler.codegen.lower import lower
from sparse_compiler.codegen.program import Segment
from sparse_compiler.errors import InputError, VerifyError
from sparse_compiler.formats.base import FORMATS
from sparse_compiler.ir.graph import Builder, Graph, Range
from sparse_compiler.ir.interpret import bind_inputs, interpret
from sparse_compiler.ir.op import Op
from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.types import Layout, TensorType, evaluate, symbol
from sparse_compiler.ir.verify import verify
from sparse_compiler.ops.pack import Pack, packs_weight
from sparse_compiler.ops.shape import Relayout
from sparse_compiler.options import find_compiler
from sparse_compiler.passes.compare import mismatch
from sparse_compiler.runtime import native
from sparse_compiler.runtime.constants import BoundConstants
from sparse_compiler.runtime.executor import Executor
from sparse_compiler.runtime.native import NativeSegment
from sparse_compiler.runtime.pipeline import program_values
from tests.formats.suited import divides, thinned
from tests.ops.cases import Case

BATCH = "B"


@dataclass(frozen=True)
class Sharing:
    """Limits of `codegen.plan`: small ones make of small cases chunks, and of chunks turns."""

    chunk: int = plan.CHUNK_COLUMNS
    alone: int = plan.ALONE_COLUMNS
    split: int = plan.SPLIT_COLUMNS

    def limits(self) -> dict[str, int]:
        """By the name of the constant."""
        return {
            "CHUNK_COLUMNS": self.chunk,
            "ALONE_COLUMNS": self.alone,
            "SPLIT_COLUMNS": self.split,
        }


SHARING = (Sharing(), Sharing(chunk=1, alone=1 << 30, split=1), Sharing(chunk=12, alone=1))


@dataclass(frozen=True)
class Mode:
    """layouts: per input, None for a constant that is read as it is; format: of a weight."""

    constant: tuple[bool, ...]
    layouts: tuple[Layout | None, ...]
    format: str = ""

    def __str__(self) -> str:
        parts = [
            f"{'constant ' * c}{{{lo}}}" for c, lo in zip(self.constant, self.layouts, strict=True)
        ]
        return ", ".join([*parts, self.format]) if self.format else ", ".join(parts)


@dataclass(frozen=True)
class Use:
    """A case in one mode as a laid-out graph; symbolic: its first dimension is a symbol."""

    graph: Graph
    inputs: tuple[torch.Tensor, ...]
    params: dict[str, torch.Tensor]
    mode: Mode
    symbolic: bool

    def __str__(self) -> str:
        return f"{self.graph}\nmode: {self.mode}"


# --- modes ----------------------------------------------------------------------------------------


def modes(case: Case) -> list[Mode]:
    """Every way in which the op says it can run natively, without repeats."""
    types = case.input_types()
    if isinstance(case.op, Relayout):
        return _relayouts(case.op, types[0])
    found: dict[Mode, None] = {}
    for constant in _constants(case.op, len(types)):
        for guess in guesses(types):
            laid = tuple(
                t.laid_out(guess)
                if t.rank == len(guess.order) and t.dtype == "f32" and not fixed
                else t
                for t, fixed in zip(types, constant, strict=True)
            )
            layouts = case.op.planar(laid, constant)
            if not isinstance(layouts, No):
                found |= dict.fromkeys(_accepted(case.op, types, constant, layouts))
        weight = case.op.weight_input
        if (weight is None or constant[weight]) and case.op.row_major(types) is None:
            rows = tuple(
                None if c else Layout.rows(t.rank) for t, c in zip(types, constant, strict=True)
            )
            found |= dict.fromkeys(_accepted(case.op, types, constant, rows))
    return list(found)


def _relayouts(op: Relayout, x: TensorType) -> list[Mode]:
    """From a torch tensor and from every native order."""
    if op.planes and x.dtype != "f32":
        return []
    layouts = [None, Layout.rows(x.rank), *(guesses((x,)) if x.dtype == "f32" else ())]
    if op.order and op.planes == 0 and op.order != Layout.rows(x.rank).order:
        return []  # not a native order
    return [Mode((False,), (layout,)) for layout in dict.fromkeys(layouts)]


def _constants(op: Op, count: int) -> Iterator[tuple[bool, ...]]:
    """Which inputs may be constants: up to four of them in all ways, else a few."""
    if count <= 4:
        yield from (c for c in itertools.product((False, True), repeat=count) if not all(c))
        return
    first = getattr(op, "operands", 1)
    yield (False,) * count
    yield (False, *(True,) * (count - 1))
    yield (False, *(True,) * (first - 1), *(False,) * (count - first))
    yield (False, *(True,) * (first - 1), *(i % 2 == 0 for i in range(count - first)))


def guesses(types: Sequence[TensorType]) -> Iterator[Layout]:
    """Each dimension as the planes, pairs of them, all but the first; in either order inside."""
    for rank in sorted({t.rank for t in types}):
        dims = range(rank)
        outers = [(d,) for d in dims]
        outers += [(1, 3), (1, 2), (2, 3)] if rank == 4 else [(1, 2)] if rank == 3 else []
        outers += [tuple(dims[1:])] if rank > 2 else []
        for outer in dict.fromkeys(outers):
            inner = tuple(d for d in dims if d not in outer)
            yield Layout((*outer, *inner), len(outer))
        if rank > 2:
            yield Layout((rank - 1, *reversed(dims[: rank - 1])), 1)


def _accepted(
    op: Op,
    types: Sequence[TensorType],
    constant: tuple[bool, ...],
    layouts: tuple[Layout | None, ...],
) -> Iterator[Mode]:
    """The mode, once for each format, if it has tensors that vary and a native result."""
    layouts = tuple(
        Layout.rows(t.rank) if layout is None and not fixed else layout
        for t, layout, fixed in zip(types, layouts, constant, strict=True)
    )
    laid = tuple(t.laid_out(layout) for t, layout in zip(types, layouts, strict=True))
    result = op.infer(laid)
    if not isinstance(result, TensorType) or result.layout is None:
        return
    if result.layout.planes == 0 and result.layout != Layout.rows(result.rank):
        return
    for format_ in FORMATS if op.weight_input is not None else ("",):
        yield Mode(constant, layouts, format_)


# --- graphs ---------------------------------------------------------------------------------------


def use(case: Case, mode: Mode, *, symbolic: bool) -> Use | None:
    """The graph of a case in a mode; None where the format cannot store a weight of that width.

    symbolic: the size of the batch is a symbol, where the op runs so.
    """
    return (_use(case, mode, symbolic=True) if symbolic else None) or _use(
        case, mode, symbolic=False
    )


def _use(case: Case, mode: Mode, *, symbolic: bool) -> Use | None:
    suited = _storable(case, mode)
    if suited is None:
        return None
    case, types = suited, suited.input_types()
    varying = [t for t, fixed in zip(types, mode.constant, strict=True) if not fixed]
    size = varying[0].shape[0] if varying[0].rank else 0
    if symbolic and not size:
        return None
    builder, params = Builder(), {}
    names = []
    for i, (tensor, type_) in enumerate(zip(case.inputs, types, strict=True)):
        if mode.constant[i]:
            names.append(builder.param(f"p{i}", type_))
            params[f"p{i}"] = tensor
            continue
        if symbolic and type_.rank and type_.shape[0] == size:
            type_ = TensorType(type_.dtype, (symbol(BATCH), *type_.shape[1:]))
        names.append(builder.input(f"x{i}", type_))
    inputs = tuple(t for t, fixed in zip(case.inputs, mode.constant, strict=True) if not fixed)
    try:
        graph = _graph(builder, case, mode, names, {BATCH: Range(1, 64)} if symbolic else {})
        if graph is None or (symbolic and not _runs_so(graph, case, inputs)):
            return None
    except (VerifyError, InputError):
        if symbolic:
            return None
        raise
    return Use(graph, inputs, params, mode, symbolic)


def _storable(case: Case, mode: Mode) -> Case | None:
    """The case with a weight that the mode's format can store."""
    at = case.op.weight_input
    if not mode.format or at is None:
        return case
    format_, weight = FORMATS[mode.format], case.inputs[at]
    matrix = weight.flatten(1)
    if not divides(format_, matrix.shape[1]):
        return None
    stored = thinned(format_, matrix).reshape(weight.shape)
    return replace(case, inputs=(*case.inputs[:at], stored, *case.inputs[at + 1 :]))


def _graph(
    builder: Builder, case: Case, mode: Mode, names: list[str], symbols: dict[str, Range]
) -> Graph | None:
    op, reads = case.op, []
    for i, (name, layout) in enumerate(zip(names, mode.layouts, strict=True)):
        if layout is not None:
            name = builder.add(Relayout(layout.order, layout.planes), [name], f"{name}.planes")
        if i == op.weight_input and _packed(case, i):
            groups = getattr(op, "groups", 1)
            name = builder.add(Pack(mode.format, groups), [name], f"{name}.packed")
        reads.append(name)
    result = builder.types[builder.add(op, reads, "y")]
    if not isinstance(result, TensorType) or result.layout is None:
        return None
    builder.add(Relayout(), ["y"], "y.rows")
    graph = builder.build(["y.rows"], (), symbols)
    verify(graph)
    return graph


def _packed(case: Case, weight: int) -> bool:
    builder = Builder()
    for i, type_ in enumerate(case.input_types()):
        builder.input(f"x{i}", type_)
    builder.add(case.op, [f"x{i}" for i in range(len(case.inputs))], "y")
    graph = builder.build(["y"])
    return packs_weight(graph, graph.producers["y"])


def _fits(graph: Graph, case: Case, inputs: Sequence[torch.Tensor]) -> bool:
    """True where the type of the result, its symbols bound, is what the case gives."""
    symbols = bind_inputs(graph, inputs)
    shape = tuple(evaluate(d, symbols) for d in graph.tensor("y").shape)
    try:
        return shape == tuple(case.op.bind(symbols, {}).reference(*case.inputs).shape)
    except RuntimeError:
        return False


def _runs_so(graph: Graph, case: Case, inputs: Sequence[torch.Tensor]) -> bool:
    """True where the op may have a symbol for the number of samples, in planes or on rows."""
    if not _fits(graph, case, inputs):
        return False
    node = graph.producers["y"]
    layout = graph.tensor("y").layout
    in_planes = layout is not None and layout.planes > 0
    return in_planes or node.op.row_major(tuple(graph.types[i] for i in node.inputs)) is None


# --- running --------------------------------------------------------------------------------------


class Uses:
    """Many uses compiled as one unit, each with its own segments."""

    def __init__(self, uses: Sequence[Use], cache: Path) -> None:
        compiler = find_compiler()
        assert compiler is not None
        self.toolchain = Toolchain((compiler,), cache, native_width())
        self.uses = list(uses)
        self.programs = [lower(use.graph) for use in uses]
        self.segments = [s for program in self.programs for s in program.segments]
        for use_, program in zip(self.uses, self.programs, strict=True):
            assert program.segments and len(program.steps) == len(program.segments), use_
        self.numbers = {print_segment(s): i for i, s in enumerate(self.segments)}
        self.library = load_library(build(self._source(), self.toolchain)) if self.uses else None

    def _source(self) -> str:
        """All units in one, each in a namespace and with numbered entries."""
        includes: dict[str, None] = {}
        bodies = []
        for text, i in self.numbers.items():
            lines = text.splitlines()
            includes |= dict.fromkeys(line for line in lines if line.startswith("#include"))
            body = "\n".join(line for line in lines if not line.startswith("#include"))
            body = re.sub(r"\bsc_(run|scratch_floats)\b", rf"sc_\1_{i}", body)
            bodies.append(f"namespace case{i} {{\n{body}\n}}  // namespace case{i}\n")
        return "\n".join([*includes, *bodies])

    def _native(self, segment: Segment, constants: BoundConstants) -> NativeSegment:
        """The segment with its entries in the common library."""
        number = self.numbers[print_segment(segment)]
        library = self.library

        class Entries:
            def __init__(self) -> None:
                self.sc_run = _function(library, f"sc_run_{number}")
                self.sc_scratch_floats = _function(library, f"sc_scratch_floats_{number}")

        saved = native.build, native.load_library
        native.build, native.load_library = lambda *_: Path(), lambda _: Entries()
        try:
            return NativeSegment(segment, self.toolchain, constants)
        finally:
            native.build, native.load_library = saved

    def executor(self, number: int) -> Executor:
        """The program of one use, with its weights."""
        use_, program = self.uses[number], self.programs[number]
        values = program_values(program, use_.graph, use_.params)
        constants = BoundConstants(use_.graph, program.bind, values.kept)
        segments = [self._native(s, constants) for s in program.segments]
        hints = bind_inputs(use_.graph, use_.inputs)
        for segment in segments:
            segment.load_weights(values, hints)
        return Executor(use_.graph, program, segments, values.kept)

    def problems(self) -> Iterator[str]:
        """What differs from the interpreter, in words, however threads share the samples."""
        for i, (use_, program) in enumerate(zip(self.uses, self.programs, strict=True)):
            expected = interpret(use_.graph, use_.inputs, use_.params)
            for way in SHARING:
                for count, results in shared_out(way, lambda: self.executor(i), use_.inputs):  # noqa: B023
                    for got, want in zip(results, expected, strict=True):
                        problem = mismatch(got, want)
                        if problem is not None:
                            yield f"{count} threads, {way}: {problem}\n{use_}\n{program}"


def _function(library: ctypes.CDLL | None, name: str) -> object:
    assert library is not None
    return library[name]


def shared_out(
    way: Sharing, make: Callable[[], Executor], inputs: Sequence[torch.Tensor]
) -> Iterator[tuple[int, tuple[torch.Tensor, ...]]]:
    """(threads, results) with 1, 2 and 3 threads and these limits of sharing."""
    before = torch.get_num_threads()
    limits = {name: getattr(plan, name) for name in way.limits()}
    try:
        for name, value in way.limits().items():
            setattr(plan, name, value)
        run = make()
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            yield count, run(inputs)
    finally:
        torch.set_num_threads(before)
        for name, value in limits.items():
            setattr(plan, name, value)
