// conv_winograd and conv_stem behind a C interface, for test_dense_conv_kernels.py and the
// sanitizers.
#include <omp.h>

#include <cstdlib>
#include <vector>

#include "paced.h"
#include "stem.h"
#include "winograd.h"

using namespace sc;

namespace {

struct Bias {
  const float* bias;
  const float* add;  // planes as those of y
  int64_t ld;
  SC_INLINE V operator()(V sum, int64_t row, int64_t col) const {
    return sum + splat(bias[row]) + load(add + row * ld + col);
  }
};

// numbers: samples, in[2], out[2], kernel[2], pad[2].
Window window_of(const int64_t* n, int64_t stride) {
  return {n[0], {1, n[1], n[2]}, {1, n[3], n[4]}, {1, n[5], n[6]}, {1, stride, stride}, {1, 1, 1},
          {0, n[7], n[8]}, false};
}

// f(team, scratch): exactly as many floats as stated, so that an overrun shows.
template <class F>
void on_team(int threads, int64_t floats, const F& f) {
  Pace pace{};
  PacedCall paced(unlike(pace, threads), threads);
  Barrier barrier;
#pragma omp parallel num_threads(threads)
  {
    Team team(omp_get_thread_num(), omp_get_num_threads(), &barrier);
    team.paced = &paced;
    void* scratch = nullptr;
    if (posix_memalign(&scratch, 64, floats * sizeof(float))) std::abort();
    f(team, static_cast<float*>(scratch));
    std::free(scratch);
  }
}

}  // namespace

extern "C" {

// y = conv(x) + bias + add.
void winograd(int threads, const void* packed, const int64_t* numbers, const float* x, int64_t ldx,
              float* y, int64_t ldy, const float* bias, const float* add) {
  const Window w = window_of(numbers, 1);
  on_team(threads, winograd_scratch_floats(packed, w), [&](Team& team, float* scratch) {
    conv_winograd(team, packed, w, x, ldx, y, ldy, scratch, Bias{bias, add, ldy});
  });
}

void stem(int threads, const void* packed, const int64_t* numbers, const float* x, int64_t ldx,
          float* y, int64_t ldy, const float* bias, const float* add) {
  const Window w = window_of(numbers, 2);
  on_team(threads, stem_scratch_floats(packed, w), [&](Team& team, float* scratch) {
    conv_stem(team, packed, w, x, ldx, y, ldy, scratch, Bias{bias, add, ldy});
  });
}
}
