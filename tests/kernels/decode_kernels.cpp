// What the tests of the decode kernels call.
#include <omp.h>

#include "decode.h"
#include "one_column.h"
#include "pack_decode.cpp"

namespace {

struct Plus {  // one more than the sum, so that a lost epilogue shows
  V operator()(V sum, int64_t, int64_t) const { return sum + splat(1.f); }
  V operator()(V sum, V bias) const { return sum + bias; }
  float operator()(float sum, float bias) const { return sum + bias; }
};

template <class Work>
void in_team(int threads, int64_t floats, const Work& work) {
  Barrier barrier;
  float* memory = static_cast<float*>(aligned_alloc(64, (threads * floats * 4 + 63) / 64 * 64));
#pragma omp parallel num_threads(threads)
  {
    Team team(omp_get_thread_num(), threads, &barrier);
    work(team, memory + team.id * floats);
  }
  free(memory);
}

}  // namespace

extern "C" {

void decode_on_planes(int threads, const void* blob, const float* x, int64_t ldx, float* y,
                      int64_t ldy, int64_t n) {
  in_team(threads, (decode_scratch_floats(blob) + 15) / 16 * 16, [&](Team& team, float* scratch) {
    decode_planes(team, blob, x, ldx, y, ldy, n, scratch, Plus{});
  });
}

void decode_on_row(int threads, const void* blob, const float* x, const float* bias, float* y) {
  in_team(threads, (decode_scratch_floats(blob, 1) + 15) / 16 * 16,
          [&](Team& team, float* scratch) {
    decode_row(team, blob, x, y, scratch, Plus{}, RowRead{bias, 1});
  });
}

void attend_one(int threads, int64_t heads, int64_t groups, int64_t keys, int64_t d, int64_t dv,
                const float* q, const float* k, const float* v, const bool* mask, float* y) {
  in_team(threads, (attend_row_scratch_floats(keys) + 15) / 16 * 16,
          [&](Team& team, float* scratch) {
    attend_row(team, OneQuery{heads, groups, keys, d, dv, 0.5f, false, 0}, q, k, v, mask, y,
               scratch);
  });
}
}
