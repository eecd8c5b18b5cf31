// Times one convolution or linear for conv.py and formats.py, threads and all, in nanoseconds.
#include <omp.h>

#include <chrono>
#include <cstdlib>
#include <vector>

#include "any_format.h"

using namespace sc;

struct BiasRelu {
  const float* bias;
  SC_INLINE V operator()(V sum, int64_t row, int64_t) const {
    const V v = sum + splat(bias[row]);
    return select(v > V{}, v, V{});
  }
};

// Writes the time of each of `runs` calls of call(team, its scratch). floats: of scratch.
template <class Call>
static void time_calls(int threads, int64_t floats, int runs, double* times, const Call& call) {
  std::vector<float*> scratch(threads);
  for (float*& s : scratch)
    s = static_cast<float*>(std::aligned_alloc(64, (floats * 4 + 63) / 64 * 64));
  Barrier barrier;
  for (int run = 0; run < runs; run++) {
    const auto start = std::chrono::steady_clock::now();
#pragma omp parallel num_threads(threads)
    {
      Team team(omp_get_thread_num(), threads, &barrier);
      call(team, scratch[team.id]);
    }
    times[run] = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start)
                     .count();
  }
  for (float* s : scratch) std::free(s);
}

// numbers: as in tests/kernels/conv_kernels.cpp.
extern "C" void time_conv(int threads, const void* packed, const int64_t* numbers, const float* x,
                          int64_t ldx, float* y, int64_t ldy, const float* bias, int runs,
                          double* times) {
  Window w{};
  w.samples = *numbers++;
  for (int64_t* field : {w.in, w.out, w.kernel, w.stride, w.dilation, w.pad})
    for (int d = 0; d < 3; d++) field[d] = *numbers++;
  w.transposed = *numbers != 0;
  time_calls(threads, conv_scratch_floats(packed, w), runs, times, [&](Team& team, float* scratch) {
    conv_any(team, packed, w, x, ldx, y, ldy, scratch, BiasRelu{bias});
  });
}

extern "C" void time_linear(int threads, const void* packed, int64_t n, const float* x, int64_t ldx,
                            float* y, int64_t ldy, const float* bias, int runs, double* times) {
  time_calls(threads, linear_scratch_floats(packed), runs, times, [&](Team& team, float* scratch) {
    linear_any(team, packed, x, ldx, y, ldy, n, scratch, BiasRelu{bias});
  });
}
