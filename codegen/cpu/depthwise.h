// Depthwise convolution of any window: one kernel per output channel, tap by tap, from a copy of a
// few lines of the image with its borders. depthwise_direct.h has the usual windows.
#pragma once
#include "band.h"

namespace sc {

// One channel's kernel on one band: the taps that are not zero.
struct DepthwiseTile {
  const int32_t* at;
  const float* value;
  int64_t count;

  // R vectors, `step` floats apart in the band and `to` apart in the output.
  template <int R>
  __attribute__((noinline)) void run(const float* x, int64_t step, float* out, int64_t to) const {
    V acc[R] = {};
    for (int64_t t = 0; t < count; t++) {
      const V k = splat(value[t]);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) acc[r] += k * load(x + at[t] + r * step);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) store(out + r * to, acc[r]);
  }
};

// What a call needs beside the planes: band, lines and taps, in floats.
inline int64_t depthwise_scratch_floats(const Window& w) {
  const PaddedLines band(w);
  return (w.transposed ? 0 : band.floats() + 3 * w.taps()) + band.output().floats();
}

// A transposed kernel scatters: line by line, tap by tap. Right, not fast.
inline void scatter_line(const Window& w, const float* weight, const float* x, int64_t line,
                         float* out) {
  const int64_t y = line % w.out[1], slice = line / w.out[1];
  const int64_t z = slice % w.out[0], sample = slice / w.out[0];
  for (int64_t i = 0; i < w.out[2]; i++) out[i] = 0;
  for (int64_t t = 0; t < w.kernel[0] * w.kernel[1]; t++) {
    const int64_t fz = z + w.pad[0] - t / w.kernel[1] * w.dilation[0], iz = fz / w.stride[0];
    const int64_t fy = y + w.pad[1] - t % w.kernel[1] * w.dilation[1], iy = fy / w.stride[1];
    if (fz < 0 || fz % w.stride[0] || iz >= w.in[0]) continue;
    if (fy < 0 || fy % w.stride[1] || iy >= w.in[1]) continue;
    const float* from = x + ((sample * w.in[0] + iz) * w.in[1] + iy) * w.in[2];
    for (int64_t kx = 0; kx < w.kernel[2]; kx++) {
      const float k = weight[t * w.kernel[2] + kx];
      if (k == 0) continue;
      for (int64_t i = 0, o = kx * w.dilation[2] - w.pad[2]; i < w.in[2]; i++, o += w.stride[2])
        if (o >= 0 && o < w.out[2]) out[o] += k * from[i];
    }
  }
}

// y[m] = epilogue(weight[m] * x[m / multiplier]) for m < rows, weight: [rows][taps]; epilogue:
// V(V sum, int64_t row, int64_t col). scratch: depthwise_scratch_floats(w) of this thread's.
template <class Epilogue>
void depthwise(Team& team, const float* weight, int64_t rows, int64_t multiplier, const Window& w,
               const float* x, int64_t ldx, float* y, int64_t ldy, float* scratch,
               const Epilogue& epilogue) {
  const PaddedLines band(w);
  const Lines lines = band.output();
  if (w.transposed) {
    const auto make = [&](int64_t row, int64_t line, int64_t n, float* out) {
      for (int64_t i = 0; i < n; i++)
        scatter_line(w, weight + row * w.taps(), x + row / multiplier * ldx, line + i,
                     out + i * w.out[2]);
    };
    return make_lines(team, rows, lines, scratch, y, ldy, make, epilogue);
  }
  float* stage = scratch + band.floats();
  float* value = stage + lines.floats();
  int32_t* all = reinterpret_cast<int32_t*>(value + w.taps());
  int32_t* at = all + w.taps();
  band.find_taps(all);
  const int64_t total = rows / multiplier * ldx;
  int64_t listed = -1, count = 0;  // the row whose taps are listed, and how many
  const auto make = [&](int64_t row, int64_t line, int64_t n, float* out) {
    const float* kernel = weight + row * w.taps();
    if (row != listed) {
      count = 0, listed = row;
      for (int64_t t = 0; t < w.taps(); t++)
        if (kernel[t] != 0) at[count] = all[t], value[count] = kernel[t], count++;
    }
    band.copy(x, total, row / multiplier * ldx, line, n, V{}, scratch);
    band.tiles(n, scratch, out, DepthwiseTile{at, value, count});
  };
  make_lines(team, rows, lines, stage, y, ldy, make, epilogue);
}

}  // namespace sc
