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
            AttentionCall: self.attention,
        }
        wait = "      team.sync();\n" if index in self.segment.sync else ""
        return f"{wait}      // %{call.label}\n      {printers[type(call)](call)}\n"

    def load(self, call: Load) -> str:
        rows = call.to.rows
        source = f"static_cast<const float*>(in[{call.source}]) + first * unit * {rows}"
        return f"rows_to_planes(team, {source}, {rows}, n, {rows}, {self.planes(call.to)}, ld);"

    def store(self, call: Store) -> str:
        rows = call.planes.rows
        target = f"static_cast<float*>(out[{call.target}]) + first * unit * {rows}"
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
            f"layer_norm(team, {call.x.rows}, n, {float_literal(call.eps)}, nullptr, 0, "
            f"{self.planes(call.to)}, ld, {source}, {finish});"
        )

    def attention(self, call: AttentionCall) -> str:
        heads = f"{call.head_size}, {call.head_size}, {call.value_size}, {call.value_size}"
        mask = "nullptr, 0, 0, 0, 0"
        if call.mask is not None:
            mask = f"mask{call.mask}, {', '.join(_mask_strides(self.segment.masks[call.mask]))}"
        pointers = ", ".join(self.planes(p) for p in (call.q, call.k, call.v, call.to))
        return (
            f"attention(team, Attention{{{pointers}, ld, ld, ld, ld, {heads}, 1, 1, 1, 1, "
            f"samples_here, {call.heads}, {call.group}, unit, unit, {call.head_size}, "
            f"{call.value_size}, {float_literal(call.scale)}, "
            f"{'true' if call.causal else 'false'}, {mask}}}, scratch);"
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
            "s.total = (chunks.alone ? threads : 1) * (kRows * chunks.ld + s.mask);",
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
  return min64(samples, Chunks(samples, unit, threads).per) * unit;
}

// Floats of 64-byte aligned memory that sc_run needs for these sizes.
extern "C" int64_t sc_arena_floats(const void* const* weight, int64_t samples, int64_t unit,
                                   int threads) {
  return sizes(Chunks(samples, unit, threads), weight, unit, threads).total;
}

// in, out: row-major tensors; weight: packed weights and vectors; samples x unit columns.
extern "C" void sc_run(const void* const* in, void* const* out, const void* const* weight,
                       float* memory, int64_t samples, int64_t unit, int threads) {
  const Chunks chunks(samples, unit, threads);
  const Sizes s = sizes(chunks, weight, unit, threads);
  const int64_t ld = chunks.ld, chunk_floats = kRows * ld + s.mask;
  const auto vector = [&](int i) { return static_cast<const float*>(weight[i]); };
  Barrier shared;
#pragma omp parallel num_threads(threads)
  {
    const int id = omp_get_thread_num(), size = omp_get_num_threads();
    Barrier own;
    Team team = chunks.alone ? Team(0, 1, &own) : Team(id, size, &shared);
    float* const scratch = memory + id * s.scratch;
    float* const arena =
        memory + threads * s.scratch + (chunks.alone ? id * chunk_floats : 0);
@MASKS@    const int64_t step = chunks.alone ? size * chunks.per : chunks.per;
    for (int64_t first = chunks.alone ? id * chunks.per : 0; first < samples; first += step) {
      const int64_t samples_here = min64(chunks.per, samples - first);
      const int64_t n = samples_here * unit;
@LOADS@@BODY@      team.sync();
    }
    (void)scratch, (void)vector, (void)in, (void)out;
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
    rows = "unit" if mask.full[2] else "1"
    return f"{samples} * {mask.heads} * {rows} * lines(unit)"


def _mask_strides(mask: MaskInput) -> list[str]:
    """mask_b, mask_h, mask_k, mask_q of the kernel."""
    per_head = "unit * lines(unit)" if mask.full[2] else "lines(unit)"
    return [
        f"{mask.heads} * {per_head}" if mask.full[0] else "0",
        per_head if mask.full[1] else "0",
        "lines(unit)" if mask.full[2] else "1",
        "1" if mask.full[2] else "0",
    ]


def _mask_load(index: int, mask: MaskInput) -> str:
    """Converts the mask of a chunk to additive planes, keys down the rows."""
    kinds = {"bool": ("uint8_t", "ToAdditive"), "f32": ("float", "ToFloat")}
    if mask.dtype not in kinds:
        raise CodegenError(f"an attention mask of {mask.dtype}")
    ctype, convert = kinds[mask.dtype]
    samples = "samples_here" if mask.full[0] else "1"
    queries = "unit" if mask.full[2] else "1"
    head = f"{queries} * unit"
    start = f" + first * {mask.heads} * {head}" if mask.full[0] else ""
    if mask.full[2]:
        strided = f"{{{samples}, {mask.heads}, unit}}, {{{mask.heads} * {head}, {head}, 1}}, unit"
    else:
        strided = f"{{1, {samples}, {mask.heads}}}, {{0, {mask.heads} * {head}, {head}}}, 1"
    return (
        f"      strided_to_planes<{ctype}, {convert}>(team, static_cast<const {ctype}*>"
        f"(in[{mask.source}]){start},\n          Strided{{{strided}}}, unit, mask{index}, "
        f"lines(unit));\n"
    )
