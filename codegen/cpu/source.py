"""Segment -> one thin C++ unit: straight-line calls of the kernels in this folder's headers.

Elementwise work becomes functor structs, one for each distinct expression, so that a model of many
equal layers instantiates each kernel once. Same segment, same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparse_compiler.codegen.cpu.expressions import float_literal, vector_code
from sparse_compiler.codegen.program import (
    AttentionCall,
    Call,
    LinearCall,
    Load,
    MaskInput,
    NormCall,
    Operand,
    Planes,
    PointwiseCall,
    Segment,
    SoftmaxCall,
    Store,
)
from sparse_compiler.errors import CodegenError
from sparse_compiler.ir.expr import Arg, Expr, args_of

_HEAD = """\
// Written by sparse_compiler for the segment %{name}.
// One call runs all of it, in chunks of whole samples; a wait only between dependent steps.
#include <omp.h>

#include "attention.h"
#include "chunks.h"
#include "linear.h"
#include "norm.h"
#include "pointwise.h"
#include "relayout.h"
#include "softmax.h"

namespace {{

using namespace sc;

constexpr int64_t kRows = {rows};  // planes of a chunk
"""

_SIZES = """
struct Sizes {
  int64_t scratch;  // floats of each thread
  int64_t mask;     // floats of the masks of a chunk
  int64_t total;    // floats of memory: planes and masks of each chunk in flight, then scratch
};

Sizes sizes(const Chunks& chunks, const void* const* weight, int64_t unit, int threads) {
  Sizes s{};
"""


def print_segment(segment: Segment) -> str:
    """The whole C++ unit of one segment."""
    printer = _Printer(segment)
    body = "".join(printer.call(i, call) for i, call in enumerate(segment.calls))
    return "".join(
        (
            _HEAD.format(name=segment.name, rows=segment.rows),
            *printer.functors.values(),
            _SIZES,
            printer.scratch(),
            printer.run_function(body),
        )
    )


class _Printer:
    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.functors: dict[tuple[Any, ...], str] = {}

    # --- functors -------------------------------------------------------------------------------

    def functor(self, expr: Expr, operands: tuple[Operand, ...], accumulator: bool) -> str:
        """An instance of the functor for `expr`; x0 is the accumulator if there is one."""
        first = 1 if accumulator else 0
        used = sorted(i for i in args_of(expr) if i >= first)
        kinds = tuple(_kind(operands[i - first]) for i in used)
        key = (str(expr), tuple(used), kinds, accumulator)
        if key not in self.functors:
            self.functors[key] = _functor_text(
                f"F{len(self.functors)}", expr, used, kinds, accumulator
            )
        name = f"F{list(self.functors).index(key)}"
        values = [self.operand(operands[i - first]) for i in used]
        return f"{name}{{{', '.join([*values, 'ld'])}}}"

    def operand(self, operand: Operand) -> str:
        """The pointer from which an operand is read."""
        return self.planes(operand) if isinstance(operand, Planes) else f"vector({operand.weight})"

    def planes(self, planes: Planes) -> str:
        """Pointer to the first of some planes."""
        return f"arena + {planes.first} * ld" if planes.first else "arena"

    # --- calls ----------------------------------------------------------------------------------

    def call(self, index: int, call: Call) -> str:
        """One call, with a wait before it where it depends on what other threads did."""
        printers: dict[type, Callable[[Any], str]] = {
            Load: self.load,
            Store: self.store,
            LinearCall: self.linear,
            PointwiseCall: self.pointwise,
            NormCall: self.norm,
            SoftmaxCall: self.softmax,
            AttentionCall: self.attention,
        }
        wait = "      team.sync();\n" if index in self.segment.sync else ""
        return f"{wait}      // %{call.label}\n      {printers[type(call)](call)}\n"

    def load(self, call: Load) -> str:
        rows = call.to.rows
        source = f"static_cast<const float*>(in[{call.source}]) + begin * {rows}"
        return f"rows_to_planes(team, {source}, {rows}, n, {rows}, {self.planes(call.to)}, ld);"

    def store(self, call: Store) -> str:
        rows = call.planes.rows
        target = f"static_cast<float*>(out[{call.target}]) + begin * {rows}"
        return f"planes_to_rows(team, {self.planes(call.planes)}, ld, n, {rows}, {target}, {rows});"

    def linear(self, call: LinearCall) -> str:
        functor = self.functor(call.expr, call.operands, accumulator=True)
        return (
            f"linear_{call.format}(team, weight[{call.weight}], {self.planes(call.x)}, ld, "
            f"{self.planes(call.to)}, ld, n, scratch, {functor});"
        )

    def pointwise(self, call: PointwiseCall) -> str:
        functor = self.functor(call.expr, call.operands, accumulator=False)
        return f"pointwise(team, {call.to.rows}, n, {self.planes(call.to)}, ld, {functor});"

    def norm(self, call: NormCall) -> str:
        source = self.functor(Arg(0), (call.x,), accumulator=False)
        finish = self.functor(call.expr, call.operands, accumulator=True)
        return (
            f"{call.kernel}(team, {call.x.rows}, n, {float_literal(call.eps)}, nullptr, 0, "
            f"{self.planes(call.to)}, ld, {source}, {finish});"
        )

    def softmax(self, call: SoftmaxCall) -> str:
        source = self.functor(Arg(0), (call.x,), accumulator=False)
        name = "log_softmax" if call.log else "softmax"
        return f"{name}(team, {call.x.rows}, n, {self.planes(call.to)}, ld, {source});"

    def attention(self, call: AttentionCall) -> str:
        heads = f"{call.head_size}, {call.head_size}, {call.value_size}, {call.value_size}"
        mask = "nullptr, 0, 0, 0, 0"
        if call.mask is not None:
            mask = f"mask{call.mask}, {', '.join(_mask_strides(self.segment.masks[call.mask]))}"
        q, to = self.planes(call.q), self.planes(call.to)
        k, v = (f"keys + {p.first} * ld" for p in (call.k, call.v))
        return (
            "all.sync();\n"
            f"      attention(team, Attention{{{q}, {k}, {v}, {to}, ld, ld, ld, ld, {heads}, "
            f"1, 1, 1, 1, here, {call.heads}, {call.group}, queries, unit, {call.head_size}, "
            f"{call.value_size}, {float_literal(call.scale)}, "
            f"{'true' if call.causal else 'false'}, {mask}, "
            "start, split ? chunks.queries : 0, chunk_floats}, scratch);\n"
            "      all.sync();"
        )

    # --- frame ----------------------------------------------------------------------------------

    def scratch(self) -> str:
        """The rest of `sizes`: what the kernels need beside the planes."""
        lines = []
        weights = dict.fromkeys(c.weight for c in self.segment.calls if isinstance(c, LinearCall))
        for weight in weights:
            lines.append(f"widen(s.scratch, linear_scratch_floats(weight[{weight}]));")
        shapes = dict.fromkeys(
            (c.head_size, c.value_size) for c in self.segment.calls if isinstance(c, AttentionCall)
        )
        for size, value in shapes:
            lines.append(
                f"{{ Attention a{{}}; a.d = {size}; a.dv = {value}; "
                "widen(s.scratch, attention_scratch_floats(a)); }"
            )
        lines += [
            "s.scratch = lines(s.scratch);",
            *(f"s.mask += {_mask_floats(mask)};" for mask in self.segment.masks),
            "const bool apart = chunks.sharing != Sharing::together;",
            "s.total = (apart ? threads : 1) * (kRows * chunks.ld + s.mask);",
            "s.total += threads * s.scratch;",
        ]
        text = "".join(f"  {line}\n" for line in lines)
        if shapes or weights:
            text = "  const auto widen = [](int64_t& a, int64_t b) { a = a > b ? a : b; };\n" + text
        return f"{text}  return s;\n}}\n\n}}  // namespace\n"

    def run_function(self, body: str) -> str:
        """The two exported functions."""
        masks, place = "", "arena + kRows * ld"
        for i, mask in enumerate(self.segment.masks):
            masks += f"    float* mask{i} = {place};\n"
            place = f"mask{i} + {_mask_floats(mask)}"
        loads = "".join(_mask_load(i, mask) for i, mask in enumerate(self.segment.masks))
        return _RUN.replace("@MASKS@", masks).replace("@LOADS@", loads).replace("@BODY@", body)


_RUN = """
// Columns of a chunk, for the choice of tiles when weights are packed.
extern "C" int64_t sc_chunk_columns(int64_t samples, int64_t unit, int threads) {
  const Chunks chunks(samples, unit, threads);
  return min64(samples, chunks.per) * chunks.queries;
}

// Floats of 64-byte aligned memory that sc_run needs for these sizes, also where OpenMP gives it
// fewer threads than it asks for.
extern "C" int64_t sc_arena_floats(const void* const* weight, int64_t samples, int64_t unit,
                                   int threads) {
  int64_t most = 0;
  for (int size = 1; size <= threads; size++) {
    const int64_t total = sizes(Chunks(samples, unit, size), weight, unit, size).total;
    most = total > most ? total : most;
  }
  return most;
}

// in, out: row-major tensors; weight: packed weights and vectors; samples x unit columns.
extern "C" void sc_run(const void* const* in, void* const* out, const void* const* weight,
                       float* memory, int64_t samples, int64_t unit, int threads) {
  const auto vector = [&](int i) { return static_cast<const float*>(weight[i]); };
  Barrier shared;
#pragma omp parallel num_threads(threads)
  {
    const int id = omp_get_thread_num(), size = omp_get_num_threads();
    const Chunks chunks(samples, unit, size);
    const bool alone = chunks.sharing == Sharing::alone, split = chunks.sharing == Sharing::split;
    const Sizes s = sizes(chunks, weight, unit, size);
    Barrier own;
    Team team = alone || split ? Team(0, 1, &own) : Team(id, size, &shared);
    Team all = split ? Team(id, size, &shared) : Team(0, 1, &own);  // meets around attention
    const int64_t ld = chunks.ld, chunk_floats = kRows * ld + s.mask;
    float* const scratch = memory + id * s.scratch;
    float* const planes = memory + size * s.scratch;
    float* const arena = planes + (alone || split ? id * chunk_floats : 0);
    const float* const keys = split ? planes : arena;
    const int64_t start = split ? id * chunks.queries : 0;  // in the columns of a sample
    const int64_t queries = split ? min64(chunks.queries, unit - start) : unit;
@MASKS@    for (int64_t first = alone ? id * chunks.per : 0; first < samples;
         first += alone ? size * chunks.per : chunks.per) {
      const int64_t here = min64(chunks.per, samples - first);
      const int64_t n = here * queries, begin = first * unit + start;
@LOADS@@BODY@      team.sync();
    }
    (void)scratch, (void)vector, (void)in, (void)out, (void)all, (void)keys;
  }
}
"""


def _kind(operand: Operand) -> str:
    if isinstance(operand, Planes):
        return "planes"
    return "single" if operand.single else "vector"


def _functor_text(
    name: str, expr: Expr, used: list[int], kinds: tuple[str, ...], accumulator: bool
) -> str:
    reads = {
        "planes": "load(p{i} + row * ld + col)",
        "vector": "splat(p{i}[row])",
        "single": "splat(p{i}[0])",
    }
    code = {i: reads[kind].format(i=i) for i, kind in zip(used, kinds, strict=True)}
    if accumulator:
        code[0] = "x0"
    members = "".join(f"  const float* p{i};\n" for i in used)
    values = "".join(f"    const V x{i} = {text};\n" for i, text in code.items() if text != "x0")
    first = "V x0, " if accumulator else ""
    return (
        f"\nstruct {name} {{  // {expr}\n"
        f"{members}  int64_t ld;\n"
        f"  SC_INLINE V operator()({first}int64_t row, int64_t col) const {{\n{values}"
        f"    (void)row, (void)col;\n"
        f"    return {vector_code(expr, lambda i: f'x{i}')};\n  }}\n}};\n"
    )


def _mask_floats(mask: MaskInput) -> str:
    samples = "chunks.per" if mask.full[0] else "1"
    return f"{samples} * {mask.heads} * {_head_floats(mask)}"


def _head_floats(mask: MaskInput) -> str:
    """Keys down the rows, this thread's queries in them; or one row of keys for all queries."""
    return "unit * lines(chunks.queries)" if mask.full[2] else "lines(unit)"


def _mask_strides(mask: MaskInput) -> list[str]:
    """mask_b, mask_h, mask_k, mask_q of the kernel."""
    return [
        f"{mask.heads} * {_head_floats(mask)}" if mask.full[0] else "0",
        _head_floats(mask) if mask.full[1] else "0",
        "lines(chunks.queries)" if mask.full[2] else "1",
        "1" if mask.full[2] else "0",
    ]


def _mask_load(index: int, mask: MaskInput) -> str:
    """Converts the mask of a chunk to additive planes, keys down the rows."""
    kinds = {"bool": ("uint8_t", "ToAdditive"), "f32": ("float", "ToFloat")}
    if mask.dtype not in kinds:
        raise CodegenError(f"an attention mask of {mask.dtype}")
    ctype, convert = kinds[mask.dtype]
    samples = "here" if mask.full[0] else "1"
    head = "unit * unit" if mask.full[2] else "unit"
    source = f"static_cast<const {ctype}*>(in[{mask.source}])"
    source += f" + first * {mask.heads} * {head}" if mask.full[0] else ""
    if mask.full[2]:
        source += " + start * unit"
        strided = f"{{{samples}, {mask.heads}, unit}}, {{{mask.heads} * {head}, {head}, 1}}, unit"
        columns, ld = "queries", "lines(chunks.queries)"
    else:
        strided = f"{{1, {samples}, {mask.heads}}}, {{0, {mask.heads} * {head}, {head}}}, 1"
        columns, ld = "unit", "lines(unit)"
    return (
        f"      strided_to_planes<{ctype}, {convert}>(team, {source},\n"
        f"          Strided{{{strided}}}, {columns}, mask{index}, {ld});\n"
    )
