// Written by sparse_compiler for the segment %y.rows.
// One call runs all of it, in chunks of whole samples; a wait only between dependent steps.
#include <omp.h>

#include "segment.h"
#include "conv.h"
#include "depthwise_direct.h"
#include "epilogues.h"
#include "linear.h"
#include "pool.h"
#include "reduce.h"
#include "relayout.h"
#include "segment.h"
#include "sweep.h"
#include "upsample.h"

namespace {

using namespace sc;

struct F0 {  // relu(add(x0, x1))
  const float* p1;
  SC_INLINE V operator()(V x0, int64_t row, int64_t col) const {
    const V x1 = splat(p1[row]);
    (void)row, (void)col;
    return relu((x0 + x1));
  }
};

struct F1 {  // x0
  SC_INLINE V operator()(V x0, int64_t row, int64_t col) const {
    (void)row, (void)col;
    return x0;
  }
};

struct F2 {  // x0
  const float* p0;
  int64_t ld0;
  SC_INLINE V operator()(int64_t row, int64_t col) const {
    const V x0 = load(p0 + row * ld0 + col);
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
  const Span span1(d + 10, id);
  const int64_t ld1 = span1.ld;
  (void)ld1;
  const Span span2(d + 14, id);
  const int64_t ld2 = span2.ld;
  (void)ld2;
  const Span span3(d + 18, id);
  const int64_t ld3 = span3.ld;
  (void)ld3;
  float* const b0 = frame.buffer<float>(d + 22);
  float* const f0 = b0;
  (void)b0, (void)f0;
  float* const b1 = frame.buffer<float>(d + 24);
  float* const f1 = b1;
  (void)b1, (void)f1;
  float* const b2 = frame.buffer<float>(d + 26);
  float* const f2 = b2;
  (void)b2, (void)f2;
  float* const b3 = frame.buffer<float>(d + 28);
  float* const f3 = b3;
  (void)b3, (void)f3;
  float* const b4 = frame.buffer<float>(d + 30);
  float* const f4 = b4;
  (void)b4, (void)f4;
  float* const b5 = frame.buffer<float>(d + 32);
  float* const f5 = b5;
  (void)b5, (void)f5;
  float* const b6 = frame.buffer<float>(d + 34);
  float* const f6 = b6;
  (void)b6, (void)f6;
  for (int64_t first = frame.begin; first < frame.samples;
       first += frame.step) {
    const int64_t here = min64(frame.per, frame.samples - first);
    const int64_t n0 = here * span0.queries;
    (void)n0;
    const int64_t n1 = here * span1.queries;
    (void)n1;
    const int64_t n2 = here * span2.queries;
    (void)n2;
    const int64_t n3 = here * span3.queries;
    (void)n3;
    // %x.planes
    copy(team, Box<4>{{here, 3, 10, 9}}, At<float, 4>{b0, {90, d[8], 9, 1}}, At<const float, 4>{frame.input<float>(0) + first * 270, {270, 90, 9, 1}});
    team.sync();
    // %r
    conv_dense(team, weight[1], Window{here, {1, 10, 9}, {1, 5, 5}, {1, 3, 3}, {1, 2, 2}, {1, 1, 1}, {0, 1, 1}, false}, b0, ld0, b1, ld1, scratch, F0{frame.constant<float>(0)});
    team.sync();
    // %d
    depthwise_direct<3, 1>(team, frame.constant<float>(2), 8, 1, Window{here, {1, 5, 5}, {1, 5, 5}, {1, 3, 3}, {1, 1, 1}, {1, 1, 1}, {0, 1, 1}, false}, b1, ld1, b2, ld1, scratch, F1{});
    team.sync();
    // %p
    conv_csr(team, weight[3], Window{here, {1, 5, 5}, {1, 5, 5}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, false}, b2, ld1, b3, ld1, scratch, F1{});
    // %m
    max_pool(team, 8, Window{here, {1, 5, 5}, {1, 2, 2}, {1, 3, 3}, {1, 2, 2}, {1, 1, 1}, {0, 0, 0}, false}, b1, ld1, b4, ld2, scratch, Same{});
    team.sync();
    // %u
    upsample_nearest(team, 8, Resample{here, {1, 2, 2}, {1, 5, 5}, {0.0f, 0.0f, 0.0f}}, false, b4, ld2, b3 + 12 * ld1, ld1, scratch, Same{});
    team.sync();
    // %g
    reduce_columns<PlaneSum>(team, 20, here, 25, b5, ld3, F2{b3, ld1}, Divided{25});
    team.sync();
    // %y
    linear_dense(team, weight[4], b5, ld3, b6, ld3, n3, scratch, F1{});
    team.sync();
    // %y.rows
    planes_to_rows(team, b6, ld3, n3, 5, frame.output<float>(0) + first * 5, 5);
    team.sync();
  }
  (void)scratch, (void)part_stride, (void)error, (void)clock, (void)whole;
}

}  // namespace

// Floats of scratch that each thread needs.
extern "C" int64_t sc_scratch_floats(const void* const* weight, const int64_t* d) {
  const int64_t here = d[1];
  int64_t most = 0;
  widen(most, conv_scratch_floats(weight[1], Window{here, {1, 10, 9}, {1, 5, 5}, {1, 3, 3}, {1, 2, 2}, {1, 1, 1}, {0, 1, 1}, false}));
  widen(most, depthwise_direct_scratch_floats(Window{here, {1, 5, 5}, {1, 5, 5}, {1, 3, 3}, {1, 1, 1}, {1, 1, 1}, {0, 1, 1}, false}));
  widen(most, conv_scratch_floats(weight[3], Window{here, {1, 5, 5}, {1, 5, 5}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, false}));
  widen(most, pool_scratch_floats(Window{here, {1, 5, 5}, {1, 2, 2}, {1, 3, 3}, {1, 2, 2}, {1, 1, 1}, {0, 0, 0}, false}));
  widen(most, nearest_scratch_floats(Resample{here, {1, 2, 2}, {1, 5, 5}, {0.0f, 0.0f, 0.0f}}));
  widen(most, linear_scratch_floats(weight[4]));
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
