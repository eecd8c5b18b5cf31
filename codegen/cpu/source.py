"""Segment -> one thin C++ unit: straight-line calls of the kernels in this folder's headers.

Elementwise work becomes functor structs, one for each distinct expression, so that a model of many
equal layers instantiates each kernel once. Same segment, same bytes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sparse_compiler.codegen.cpu.arguments import (
    HEADER,
    PER_BUFFER,
    PER_SPACE,
    ArgumentPrinter,
    OwnPrinter,
    RestPrinter,
    in_whole_samples,
)
from sparse_compiler.codegen.cpu.expressions import c_type, scalar_code, vector_code
from sparse_compiler.codegen.operands import Functor, Planes, Read, ScalarFunctor, Scratch, Vector
from sparse_compiler.codegen.program import Call, Segment
from sparse_compiler.ir.expr import args_of, without_addend

_HEAD = """\
// Written by sparse_compiler for the segment %{name}.
// One call runs all of it, in chunks of whole samples; a wait only between dependent steps.
#include <omp.h>

#include "segment.h"
{includes}
namespace {{

using namespace sc;
"""

_SCRATCH = """
// Floats of scratch that each thread needs.
extern "C" int64_t sc_scratch_floats(const void* const* weight, const int64_t* d) {{
  const int64_t here = d[1];
  int64_t most = 0;
{needs}  (void)weight, (void)here;
  return whole_lines(most);
}}
"""

_WORK = """
// What thread `id` does. error: a place for each call that checks indices; clock: null, or where
// the first thread adds up its seconds: in each call, waiting before each, at the end of chunks.
static void work(const int id, Barrier& barrier, PacedCall& paced, const void* const* in,
                 void* const* out, const void* const* weight, const int64_t* const d,
                 float* const memory, int64_t* const error, double* const clock) {{
  const Frame frame(id, in, out, weight, d, memory);
  Barrier lone;
  Team whole(id, int(d[5]), &barrier), single(0, 1, &lone);
  if (paced.used) whole.paced = &paced;
  Team& team = frame.alone ? single : whole;
  float* const scratch = frame.scratch;
  const int64_t part_stride = frame.part_stride;
{declarations}{once}  for (int64_t first = frame.begin; first < frame.samples;
       first += frame.step) {{
    const int64_t here = min64(frame.per, frame.samples - first);
{columns}{body}    team.sync();
{end}  }}
  (void)scratch, (void)part_stride, (void)error, (void)clock, (void)whole;
}}

}}  // namespace
"""

_WATCH = """
// Adds what passed since the last stop to a place of the clock.
struct Watch {
  double* const clock;
  double last = omp_get_wtime();

  void stop(int place) {
    if (!clock) return;
    const double now = omp_get_wtime();
    clock[place] += now - last;
    last = now;
  }
};
"""

_RUN = """
// in, out: row-major tensors; weight: constants; d: bound numbers, d[5] of them the threads.
// Gives the number of threads that there were: 0 done, else call again with that many.
extern "C" int sc_run(const void* const* in, void* const* out, const void* const* weight,
                      const int64_t* d, float* memory, int64_t* error, double* clock) {
  static Pace pace;
  Barrier barrier;
  PacedCall paced(pace, int(d[5]));
  int fewer = 0;
#pragma omp parallel num_threads(int(d[5]))
  {
    const int id = omp_get_thread_num(), size = omp_get_num_threads();
    if (size == d[5])
      work(id, barrier, paced, in, out, weight, d, memory, error, id ? nullptr : clock);
    else if (id == 0) fewer = size;
  }
  paced.learn();
  return fewer;
}
"""


def print_segment(segment: Segment, *, profile: bool = False) -> str:
    """The whole C++ unit of one segment; profile: with a clock around each call.

    Place i of the clock is of call i, n + i of the wait before it, 2 n of waits at chunks' ends.
    """
    printer = _Printer(segment, profile)
    once, body = printer.calls(once=True), printer.calls(once=False)
    headers = sorted({call.header for call in segment.calls} | {"epilogues.h", "segment.h"})
    includes = "".join(f'#include "{header}"\n' for header in headers)
    return "".join(
        (
            _HEAD.format(name=segment.name, includes=includes),
            *printer.functors.values(),
            _WATCH if profile else "",
            _WORK.format(
                declarations=printer.declarations() + "  Watch watch{clock};\n" * profile,
                once=once and f"  {{\n{printer.columns(once=True)}{once}  }}\n  whole.sync();\n",
                columns=printer.columns(once=False),
                body=body,
                end=f"    watch.stop({2 * len(segment.calls)});\n" * profile,
            ),
            _SCRATCH.format(needs=printer.needs()),
            _RUN,
        )
    )


class _Printer:
    def __init__(self, segment: Segment, profile: bool) -> None:
        self.segment, self.profile = segment, profile
        self.functors: dict[tuple[Any, ...], str] = {}
        self.arguments = ArgumentPrinter(segment, self.functor, self.scalar)
        self.own = OwnPrinter(segment, self.functor, self.scalar)
        self.rest = RestPrinter(segment, self.functor, self.scalar)

    # --- functors -------------------------------------------------------------------------------

    def functor(self, functor: Functor, printer: ArgumentPrinter, tokens: int | None) -> str:
        """An instance of the struct for an expression on vectors."""
        first = 1 if functor.accumulator else 0
        if functor.onto is not None:
            functor = replace(functor, expr=without_addend(functor.expr, functor.onto))
        used = sorted(i for i in args_of(functor.expr) if i >= first)
        operands = [functor.operands[i - first] for i in used]
        reads = tuple(_read_code(i, o) for i, o in zip(used, operands, strict=True))
        onto = functor.onto is not None
        key = ("vector", str(functor.expr), tuple(used), reads, functor.accumulator, onto)
        if key not in self.functors:
            name = f"F{len(self.functors)}"
            self.functors[key] = _functor_text(name, functor, used, operands, reads)
        name = f"F{list(self.functors).index(key)}"
        values = [text for o in operands for text in self.operand(o, printer, tokens)]
        return f"{name}{{{', '.join(values)}}}"

    def operand(
        self, operand: Read | Vector, printer: ArgumentPrinter, tokens: int | None
    ) -> list[str]:
        """The members from which an operand is read: a pointer, and the floats between rows."""
        if isinstance(operand, Vector):
            return [f"frame.constant<float>({operand.weight})"]
        if isinstance(operand.planes, Planes):
            planes = operand.planes
            values = [printer.pointer(planes), printer.ld(planes)]
            if operand.of_samples is not None:
                values.append(f"here > 1 ? span{operand.of_samples}.queries : 0")
            return values
        return printer.constant(operand.planes, tokens if operand.column else None)

    def scalar(self, functor: ScalarFunctor) -> str:
        """An instance of the struct for an expression on elements of any dtype."""
        key = ("scalar", str(functor.expr), functor.dtypes, functor.dtype)
        if key not in self.functors:
            name = f"F{len(self.functors)}"
            self.functors[key] = scalar_functor(name, functor)
        return f"F{list(self.functors).index(key)}{{}}"

    # --- calls ----------------------------------------------------------------------------------

    def calls(self, *, once: bool) -> str:
        """The calls before the chunks, or those of a chunk."""
        lines: list[str] = []
        for i, call in enumerate(self.segment.calls):
            if call.once is once:
                lines += [f"    {line}\n" for line in self.call(i, call)]
        return "".join(lines)

    def call(self, index: int, call: Call) -> list[str]:
        """One call, with a wait before it where it depends on what other threads did."""
        wait = self.segment.waits.get(index)
        team = "whole" if call.once else "team"
        lines = []
        if wait is not None:
            meeting = "meeting" if wait.given else "team"
            lines.append(f"{team if wait.space is None else f'{meeting}{wait.space}'}.sync();")
            if self.profile:
                lines.append(f"watch.stop({len(self.segment.calls) + index});")
        lines.append(f"// %{call.label}")
        tokens = call.tokens
        if tokens is None or not in_whole_samples(call):
            own = team if tokens is None else f"team{tokens}"
            lines.append(f"{call.kernel}({own}, {self.arguments.args(call.args, tokens)});")
        else:
            own, rest = (p.args(call.args, tokens) for p in (self.own, self.rest))
            lines.append(f"{call.kernel}(team{tokens}, {own});")
            lines.append(f"if (rest{tokens}.columns) {call.kernel}(single, {rest});")
        if self.profile:
            lines.append(f"watch.stop({index});")
        return lines

    # --- frame ----------------------------------------------------------------------------------

    def declarations(self) -> str:
        """Spans of the spaces and pointers to the buffers."""
        lines = []
        for i, space in enumerate(self.segment.spaces):
            at = HEADER + PER_SPACE * i
            lines.append(f"const Span span{i}(d + {at}, id);")
            lines.append(f"const int64_t ld{i} = span{i}.ld;")
            if space.tokens:
                lines.append(
                    f"const int64_t start{i} = span{i}.start, queries{i} = span{i}.queries, "
                    f"part{i} = span{i}.part;"
                )
                lines += [
                    f"const Rest rest{i} = span{i}.rest_of(id, int(d[5]), part_stride);",
                    f"Team split{i}(0, 1, &lone, rest{i});",
                    f"Team& team{i} = part{i} ? split{i} : team;",
                    f"Team& meeting{i} = {self.any_rest()} ? team : team{i};",
                    f"(void)start{i}, (void)queries{i}, (void)meeting{i};",
                ]
            lines.append(f"(void)ld{i};")
        first = HEADER + PER_SPACE * len(self.segment.spaces)
        for i, buffer in enumerate(self.segment.buffers):
            at, type_ = first + PER_BUFFER * i, c_type(buffer.dtype)
            lines.append(f"{type_}* const b{i} = frame.buffer<{type_}>(d + {at});")
            if buffer.space is not None and self.segment.spaces[buffer.space].tokens:
                lines.append(
                    f"{type_}* const f{i} = "
                    f"frame.first_buffer<{type_}>(d + {at}, part{buffer.space});"
                )
            else:
                lines.append(f"{type_}* const f{i} = b{i};")
            lines.append(f"(void)b{i}, (void)f{i};")
        return "".join(f"  {line}\n" for line in lines)

    def any_rest(self) -> str:
        """True where threads share a rest in some space."""
        spaces = enumerate(self.segment.spaces)
        return " || ".join(f"d[{HEADER + PER_SPACE * i + 3}]" for i, s in spaces if s.tokens)

    def columns(self, *, once: bool) -> str:
        """The columns of each space in a chunk, or of what all samples share."""
        lines = []
        for i, space in enumerate(self.segment.spaces):
            own = f"span{i}.columns" if once else f"here * span{i}.queries"
            if space.tokens and not once:
                lines += [f"const int64_t own{i} = {own};", f"(void)own{i};"]
                own = f"own{i} + span{i}.rest"
            lines += [f"const int64_t n{i} = {own};", f"(void)n{i};"]
        return "".join(f"    {line}\n" for line in lines)

    def needs(self) -> str:
        """What the kernels need of scratch."""
        texts = dict.fromkeys(
            f"  widen(most, {arg.need}({self.arguments.args(arg.args, None)}));\n"
            for call in self.segment.calls
            for arg in call.args
            if isinstance(arg, Scratch)
        )
        return "".join(texts)


def _read_code(index: int, operand: Read | Vector) -> str:
    """How operand number `index` is read at (row, col)."""
    if isinstance(operand, Vector):
        return f"splat(p{index}[{'0' if operand.single else 'row'}])"
    if operand.column:
        return f"load({_address(index, operand)})"
    row = f"{_row_code(operand)} * ld{index}"
    if operand.of_samples is None:
        return f"splat(p{index}[{row}])"
    return f"of_samples(p{index} + {row}, col, each{index})"


def _address(index: int, operand: Read) -> str:
    return f"p{index} + {_row_code(operand)} * ld{index} + col"


def _row_code(operand: Read) -> str:
    """The operand's row that belongs to `row`."""
    row = "row"
    if operand.div != 1:
        row = f"row / {int(operand.div)}"
    if operand.mod != 0:
        row = f"{row} % {int(operand.mod)}"
    return row if row == "row" else f"({row})"


def _functor_text(
    name: str,
    functor: Functor,
    used: list[int],
    operands: list[Read | Vector],
    reads: tuple[str, ...],
) -> str:
    members, values, fetches = "", "", ""
    for i, operand, read in zip(used, operands, reads, strict=True):
        members += f"  const float* p{i};\n"
        members += f"  int64_t ld{i};\n" if isinstance(operand, Read) else ""
        if isinstance(operand, Read) and operand.of_samples is not None:
            members += f"  int64_t each{i};\n"
        values += f"    const V x{i} = {read};\n"
        if functor.accumulator and isinstance(operand, Read) and operand.column:
            fetches += f"    __builtin_prefetch({_address(i, operand)});\n"
    if fetches:  # of what an epilogue adds; see fetch_output in tiles.h
        fetches = f"  SC_INLINE void fetch(int64_t row, int64_t col) const {{\n{fetches}  }}\n"
    first = "V x0, " if functor.accumulator else ""
    onto = "  static constexpr bool onto = true;\n" if functor.onto is not None else ""
    return (
        f"\nstruct {name} {{  // {functor.expr}\n"
        f"{members}{onto}"
        f"  SC_INLINE V operator()({first}int64_t row, int64_t col) const {{\n{values}"
        f"    (void)row, (void)col;\n"
        f"    return {vector_code(functor.expr, lambda i: f'x{i}')};\n  }}\n{fetches}}};\n"
    )


def scalar_functor(name: str, functor: ScalarFunctor) -> str:
    """A struct that maps elements of the operands' dtypes to one of the result's."""
    for dtype in (*functor.dtypes, functor.dtype):
        c_type(dtype)
    return scalar_code(name, functor.expr, functor.dtypes, functor.dtype)
