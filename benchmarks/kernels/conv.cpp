// Times one convolution for conv.py, threads and all, in nanoseconds.
#include <omp.h>

#include <chrono>
#include <cstdlib>
#include <vector>

#include "conv.h"

using namespace sc;

struct BiasRelu {
  const float* bias;
  SC_INLINE V operator()(V sum, int64_t row, int64_t) const {
    const V v = sum + splat(bias[row]);
    return select(v > V{}, v, V{});
  }
};

// Writes the time of each of `runs` calls. numbers: as in tests/kernels/conv_kernels.cpp.
extern "C" void time_conv(int threads, const void* packed, const int64_t* numbers, const float* x,
                          int64_t ldx, float* y, int64_t ldy, const float* bias, int runs,
                          double* times) {
  Window w{};
  w.samples = *numbers++;
  for (int64_t* field : {w.in, w.out, w.kernel, w.stride, w.dilation, w.pad})
    for (int d = 0; d < 3; d++) field[d] = *numbers++;
  w.transposed = *numbers != 0;
  const bool csr = static_cast<const PackedHeader*>(packed)->format == kCsr;
  std::vector<float*> scratch(threads);
  const int64_t bytes = (conv_scratch_floats(packed, w) * 4 + 63) / 64 * 64;
  for (float*& s : scratch) s = static_cast<float*>(std::aligned_alloc(64, bytes));
  Barrier barrier;
  for (int run = 0; run < runs; run++) {
    const auto start = std::chrono::steady_clock::now();
#pragma omp parallel num_threads(threads)
    {
      Team team(omp_get_thread_num(), threads, &barrier);
      if (csr) conv_csr(team, packed, w, x, ldx, y, ldy, scratch[team.id], BiasRelu{bias});
      else conv_dense(team, packed, w, x, ldx, y, ldy, scratch[team.id], BiasRelu{bias});
    }
    times[run] = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start)
                     .count();
  }
  for (float* s : scratch) std::free(s);
}
