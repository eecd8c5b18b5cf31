// Written by sparse_compiler for the segment %n.rows.
// One call runs all of it, in chunks of whole samples; a wait only between dependent steps.
#include <omp.h>

#include "attention.h"
#include "chunks.h"
#include "linear.h"
#include "norm.h"
#include "pointwise.h"
#include "relayout.h"
#include "softmax.h"

namespace {

using namespace sc;

constexpr int64_t kRows = 64;  // planes of a chunk

struct F0 {  // x0
  int64_t ld;
  SC_INLINE V operator()(V x0, int64_t row, int64_t col) const {
    (void)row, (void)col;
    return x0;
  }
};

struct F1 {  // x0
  const float* p0;
  int64_t ld;
  SC_INLINE V operator()(int64_t row, int64_t col) const {
    const V x0 = load(p0 + row * ld + col);
    (void)row, (void)col;
    return x0;
  }
};

struct F2 {  // add(mul(x0, x1), x2)
  const float* p1;
  const float* p2;
  int64_t ld;
  SC_INLINE V operator()(V x0, int64_t row, int64_t col) const {
    const V x1 = splat(p1[row]);
    const V x2 = splat(p2[row]);
    (void)row, (void)col;
    return ((x0 * x1) + x2);
  }
};

struct Sizes {
  int64_t scratch;  // floats of each thread
  int64_t mask;     // floats of the masks of a chunk
  int64_t total;    // floats of memory: planes and masks of each chunk in flight, then scratch
};

Sizes sizes(const Chunks& chunks, const void* const* weight, int64_t unit, int threads) {
  Sizes s{};
  const auto widen = [](int64_t& a, int64_t b) { a = a > b ? a : b; };
  widen(s.scratch, linear_scratch_floats(weight[0]));
  widen(s.scratch, linear_scratch_floats(weight[1]));
  widen(s.scratch, linear_scratch_floats(weight[2]));
  { Attention a{}; a.d = 8; a.dv = 8; widen(s.scratch, attention_scratch_floats(a)); }
  s.scratch = lines(s.scratch);
  s.mask += chunks.per * 1 * lines(unit);
  const bool apart = chunks.sharing != Sharing::together;
  s.total = (apart ? threads : 1) * (kRows * chunks.ld + s.mask);
  s.total += threads * s.scratch;
  return s;
}

}  // namespace

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
    float* mask0 = arena + kRows * ld;
    for (int64_t first = alone ? id * chunks.per : 0; first < samples;
         first += alone ? size * chunks.per : chunks.per) {
      const int64_t here = min64(chunks.per, samples - first);
      const int64_t n = here * queries, begin = first * unit + start;
      strided_to_planes<uint8_t, ToAdditive>(team, static_cast<const uint8_t*>(in[1]) + first * 1 * unit,
          Strided{{1, here, 1}, {0, 1 * unit, unit}, 1}, unit, mask0, lines(unit));
      // %x.planes
      rows_to_planes(team, static_cast<const float*>(in[0]) + begin * 16, 16, n, 16, arena, ld);
      team.sync();
      // %q
      linear_csr(team, weight[0], arena, ld, arena + 16 * ld, ld, n, scratch, F0{ld});
      // %k
      linear_csr(team, weight[1], arena, ld, arena + 32 * ld, ld, n, scratch, F0{ld});
      // %v
      linear_dense(team, weight[2], arena, ld, arena + 48 * ld, ld, n, scratch, F0{ld});
      team.sync();
      // %a
      all.sync();
      attention(team, Attention{arena + 16 * ld, keys + 32 * ld, keys + 48 * ld, arena, ld, ld, ld, ld, 8, 8, 8, 8, 1, 1, 1, 1, here, 2, 1, queries, unit, 8, 8, 0.3535533845424652f, false, mask0, 1 * lines(unit), 0, 1, 0, start, split ? chunks.queries : 0, chunk_floats}, scratch);
      all.sync();
      team.sync();
      // %n
      layer_norm(team, 16, n, 9.999999747378752e-06f, nullptr, 0, arena, ld, F1{arena, ld}, F2{vector(3), vector(4), ld});
      team.sync();
      // %n.rows
      planes_to_rows(team, arena, ld, n, 16, static_cast<float*>(out[0]) + begin * 16, 16);
      team.sync();
    }
    (void)scratch, (void)vector, (void)in, (void)out, (void)all, (void)keys;
  }
}
