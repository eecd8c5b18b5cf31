// Convolutions of every format as a C function, for test_conv_kernels.py and conv_sanitize.cpp.
#include <omp.h>

#include <vector>

#include "any_format.h"
#include "paced.h"

using namespace sc;

struct ConvBias {
  const float* bias;
  SC_INLINE V operator()(V sum, int64_t row, int64_t) const { return sum + splat(bias[row]); }
};

static float* aligned(std::vector<float>& memory) {
  return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) & ~63ull);
}

// numbers: samples, in[3], out[3], kernel[3], stride[3], dilation[3], pad[3], transposed.
static Window window(const int64_t* numbers) {
  Window w{};
  w.samples = *numbers++;
  for (int64_t* field : {w.in, w.out, w.kernel, w.stride, w.dilation, w.pad})
    for (int d = 0; d < 3; d++) field[d] = *numbers++;
  w.transposed = *numbers != 0;
  return w;
}

extern "C" {

int runs_in_bands(const void* packed, const int64_t* numbers) {
  return in_bands(static_cast<const PackedHeader*>(packed), window(numbers));
}

void conv(int threads, const void* packed, const int64_t* numbers, const float* x, int64_t ldx,
          float* y, int64_t ldy, const float* bias) {
  const Window w = window(numbers);
  Pace pace{};
  PacedCall paced(unlike(pace, threads), threads);
  Barrier barrier;
#pragma omp parallel num_threads(threads)
  {
    Team team(omp_get_thread_num(), threads, &barrier);
    team.paced = &paced;
    std::vector<float> scratch(conv_scratch_floats(packed, w) + 16);
    conv_any(team, packed, w, x, ldx, y, ldy, aligned(scratch), ConvBias{bias});
  }
}
}
