// Written by sparse_compiler for the segment %n.rows.
// One call runs all of it, in chunks of whole samples; a wait only between dependent steps.
#include <omp.h>

#include "segment.h"
#include "attend.h"
#include "epilogues.h"
#include "linear.h"
#include "norm.h"
#include "relayout.h"
#include "segment.h"

namespace {

using namespace sc;

struct F0 {  // x0
  SC_INLINE V operator()(V x0, int64_t row, int64_t col) const {
    (void)row, (void)col;
    return x0;
  }
};

struct F1 {  // x0
  const float* p0;
  int64_t ld0;
  SC_INLINE V operator()(int64_t row, int64_t col) const {
    const V x0 = load(p0 + row * ld0 + col);
    (void)row, (void)col;
    return x0;
  }
};

struct F2 {  // add(mul(x0, x1), x2)
  const float* p1;
  const float* p2;
  SC_INLINE V operator()(V x0, int64_t row, int64_t col) const {
    const V x1 = splat(p1[row]);
    const V x2 = splat(p2[row]);
    (void)row, (void)col;
    return ((x0 * x1) + x2);
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
  const int64_t start0 = span0.start, queries0 = span0.queries, part0 = span0.part;
  const Rest rest0 = span0.rest_of(id, int(d[5]), part_stride);
  Team split0(0, 1, &lone, rest0);
  Team& team0 = part0 ? split0 : team;
  Team& meeting0 = d[9] ? team : team0;
  (void)start0, (void)queries0, (void)meeting0;
  (void)ld0;
  float* const b0 = frame.buffer<float>(d + 10);
  float* const f0 = frame.first_buffer<float>(d + 10, part0);
  (void)b0, (void)f0;
  float* const b1 = frame.buffer<float>(d + 12);
  float* const f1 = frame.first_buffer<float>(d + 12, part0);
  (void)b1, (void)f1;
  float* const b2 = frame.buffer<float>(d + 14);
  float* const f2 = frame.first_buffer<float>(d + 14, part0);
  (void)b2, (void)f2;
  float* const b3 = frame.buffer<float>(d + 16);
  float* const f3 = frame.first_buffer<float>(d + 16, part0);
  (void)b3, (void)f3;
  float* const b4 = frame.buffer<float>(d + 18);
  float* const f4 = b4;
  (void)b4, (void)f4;
  float* const b5 = frame.buffer<float>(d + 20);
  float* const f5 = frame.first_buffer<float>(d + 20, part0);
  (void)b5, (void)f5;
  for (int64_t first = frame.begin; first < frame.samples;
       first += frame.step) {
    const int64_t here = min64(frame.per, frame.samples - first);
    const int64_t own0 = here * span0.queries;
    (void)own0;
    const int64_t n0 = own0 + span0.rest;
    (void)n0;
    // %x.planes
    rows_to_planes(team0, frame.input<float>(0) + first * 112 + start0 * 16, 16, own0, 16, b0, ld0);
    if (rest0.columns) rows_to_planes(single, frame.input<float>(0) + first * 112 + rest0.start * 16, 16, span0.rest, 16, b0 + part0, ld0);
    team0.sync();
    // %q
    linear_csr(team0, weight[0], b0, ld0, b1, ld0, n0, scratch, F0{});
    // %k
    linear_csr(team0, weight[1], b0, ld0, b2, ld0, n0, scratch, F0{});
    // %v
    linear_dense(team0, weight[2], b0, ld0, b3, ld0, n0, scratch, F0{});
    // %mask.flat
    mask_to_planes(team, frame.input<bool>(1) + first * 7, Strided{{1, here, 1}, {0, 7, 7}, 1}, 7, b4, 16);
    team.sync();
    // %a
    attend(team0, b1, ld0, f2, ld0, f3, ld0, b5, ld0, here, 2, 1, queries0, 7, 8, 8, 0.3535533845424652f, false, false, b4, 16, 0, 1, 0, start0, part0, part_stride, scratch);
    meeting0.sync();
    // %n
    layer_norm(team0, 16, n0, 9.999999747378752e-06f, nullptr, 0, b5, ld0, F1{b5, ld0}, F2{frame.constant<float>(3), frame.constant<float>(4)});
    team0.sync();
    // %n.rows
    planes_to_rows(team0, b5, ld0, own0, 16, frame.output<float>(0) + first * 112 + start0 * 16, 16);
    if (rest0.columns) planes_to_rows(single, b5 + part0, ld0, span0.rest, 16, frame.output<float>(0) + first * 112 + rest0.start * 16, 16);
    team.sync();
  }
  (void)scratch, (void)part_stride, (void)error, (void)clock, (void)whole;
}

}  // namespace

// Floats of scratch that each thread needs.
extern "C" int64_t sc_scratch_floats(const void* const* weight, const int64_t* d) {
  const int64_t here = d[1];
  int64_t most = 0;
  widen(most, linear_scratch_floats(weight[0]));
  widen(most, linear_scratch_floats(weight[1]));
  widen(most, linear_scratch_floats(weight[2]));
  widen(most, attend_scratch_floats(8, 8));
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
