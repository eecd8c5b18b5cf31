// Written by sparse_compiler for the segment %r.rows.
// One call runs all of it, in chunks of whole samples; a wait only between dependent steps.
#include <omp.h>

#include "segment.h"
#include "epilogues.h"
#include "linear.h"
#include "relayout.h"
#include "segment.h"

namespace {

using namespace sc;

struct F0 {  // gelu(add(x0, x1))
  const float* p1;
  SC_INLINE V operator()(V x0, int64_t row, int64_t col) const {
    const V x1 = splat(p1[row]);
    (void)row, (void)col;
    return gelu((x0 + x1));
  }
};

struct F1 {  // x0
  static constexpr bool onto = true;
  SC_INLINE V operator()(V x0, int64_t row, int64_t col) const {
    (void)row, (void)col;
    return x0;
  }
};

// What thread `id` does. error: a place for each call that checks indices; clock: null, or where
// the first thread adds up its seconds: in each call, waiting before each, at the end of chunks.
static void work(const int id, Barrier& barrier, PacedCall& paced, const void* const* in,
                 void* const* out, const void* const* weight, const int64_t* const d,
                 float* const memory, int64_t* const error, double* const clock) {
  const Frame frame(id, in, out, weight, d, memory);
  Barrier lone;
  Team whole(id, int(d[5]), &barrier), single(0, 1, &lone);
  if (paced.used) whole.paced = &paced;
  Team& team = frame.alone ? single : whole;
  float* const scratch = frame.scratch;
  const int64_t part_stride = frame.part_stride;
  const Span span0(d + 6, id);
  const int64_t ld0 = span0.ld;
  (void)ld0;
  float* const b0 = frame.buffer<float>(d + 10);
  float* const f0 = b0;
  (void)b0, (void)f0;
  float* const b1 = frame.buffer<float>(d + 12);
  float* const f1 = b1;
  (void)b1, (void)f1;
  for (int64_t first = frame.begin; first < frame.samples;
       first += frame.step) {
    const int64_t here = min64(frame.per, frame.samples - first);
    const int64_t n0 = here * span0.queries;
    (void)n0;
    // %x.planes
    rows_to_planes(team, frame.input<float>(0) + first * 24, 24, n0, 24, b0, ld0);
    team.sync();
    // %a
    linear_dense(team, weight[1], b0, ld0, b1, ld0, n0, scratch, F0{frame.constant<float>(0)});
    team.sync();
    // %r
    linear_csr(team, weight[2], b1, ld0, b0, ld0, n0, scratch, F1{});
    team.sync();
    // %r.rows
    planes_to_rows(team, b0, ld0, n0, 24, frame.output<float>(0) + first * 24, 24);
    team.sync();
  }
  (void)scratch, (void)part_stride, (void)error, (void)clock, (void)whole;
}

}  // namespace

// Floats of scratch that each thread needs.
extern "C" int64_t sc_scratch_floats(const void* const* weight, const int64_t* d) {
  const int64_t here = d[1];
  int64_t most = 0;
  widen(most, linear_scratch_floats(weight[1]));
  widen(most, linear_scratch_floats(weight[2]));
  (void)weight, (void)here;
  return whole_lines(most);
}

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
