// Written by sparse_compiler for the segment %r.rows.
// One call runs all of it, in chunks of whole samples; a wait only between dependent steps.
#include <omp.h>

#include "attention.h"
#include "linear.h"
#include "norm.h"
#include "pointwise.h"
#include "relayout.h"

namespace {

using namespace sc;

constexpr int64_t kRows = 81;  // planes of the arena
constexpr int64_t kChunkColumns = 256;

struct F0 {  // gelu(add(x0, x1))
  const float* p1;
  int64_t ld;
  SC_INLINE V operator()(V x0, int64_t row, int64_t col) const {
    const V x1 = splat(p1[row]);
    (void)row, (void)col;
    return gelu((x0 + x1));
  }
};

struct F1 {  // add(x1, x0)
  const float* p1;
  int64_t ld;
  SC_INLINE V operator()(V x0, int64_t row, int64_t col) const {
    const V x1 = load(p1 + row * ld + col);
    (void)row, (void)col;
    return (x1 + x0);
  }
};

struct Sizes {
  int64_t per;      // samples of a chunk
  int64_t ld;       // floats between planes: an odd number of cache lines, no power of two
  int64_t scratch;  // floats of each thread
  int64_t mask;     // floats before the first mask
  int64_t total;    // floats of the arena
};

SC_INLINE int64_t lines(int64_t floats) { return (floats + 15) / 16 * 16; }

Sizes sizes(const void* const* weight, int64_t samples, int64_t unit, int threads) {
  Sizes s{};
  int64_t per = kChunkColumns / unit;
  if (per < 1) per = 1;
  const int64_t chunks = (samples + per - 1) / per;
  per = (samples + chunks - 1) / chunks;
  s.per = unit == 1 ? lines(per) : per;
  s.ld = (lines(s.per * unit) / 16 | 1) * 16;
  s.scratch = 0;
  const auto widen = [](int64_t& a, int64_t b) { a = a > b ? a : b; };
  widen(s.scratch, linear_scratch_floats(weight[1]));
  widen(s.scratch, linear_scratch_floats(weight[2]));
  s.scratch = lines(s.scratch);
  s.mask = kRows * s.ld + threads * s.scratch;
  s.total = s.mask;
  return s;
}

}  // namespace

// Floats of 64-byte aligned memory that sc_run needs for these sizes.
extern "C" int64_t sc_arena_floats(const void* const* weight, int64_t samples, int64_t unit,
                                   int threads) {
  return sizes(weight, samples, unit, threads).total;
}

// in, out: row-major tensors; weight: packed weights and vectors; samples x unit columns.
extern "C" void sc_run(const void* const* in, void* const* out, const void* const* weight,
                       float* memory, int64_t samples, int64_t unit, int threads) {
  const Sizes s = sizes(weight, samples, unit, threads);
  Barrier barrier;
#pragma omp parallel num_threads(threads)
  {
    Team team(omp_get_thread_num(), omp_get_num_threads(), &barrier);
    const int64_t ld = s.ld;
    float* const arena = memory;
    float* const scratch = memory + kRows * ld + team.id * s.scratch;
    const auto vector = [&](int i) { return static_cast<const float*>(weight[i]); };
    for (int64_t first = 0; first < samples; first += s.per) {
      const int64_t samples_here = min64(s.per, samples - first);
      const int64_t n = samples_here * unit;
      // %x.planes
      rows_to_planes(team, static_cast<const float*>(in[0]) + first * unit * 24, 24, n, 24, arena, ld);
      team.sync();
      // %a
      linear_dense(team, weight[1], arena, ld, arena + 24 * ld, ld, n, scratch, F0{vector(0), ld});
      team.sync();
      // %r
      linear_csr(team, weight[2], arena + 24 * ld, ld, arena + 57 * ld, ld, n, scratch, F1{arena, ld});
      team.sync();
      // %r.rows
      planes_to_rows(team, arena + 57 * ld, ld, n, 24, static_cast<float*>(out[0]) + first * unit * 24, 24);
      team.sync();
    }
    (void)scratch, (void)vector, (void)in, (void)out;
  }
}
