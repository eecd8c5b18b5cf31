// Depthwise convolution: one kernel per output channel, so nothing to reuse but the window itself.
// A tile is up to 7 lines of one vector: an input vector, loaded once, serves all lines whose
// kernel rows meet it, with one kernel column in registers at a time. Kernels with many zeros
// and dilated ones go tap by tap.
#pragma once
#include <type_traits>

#include "band.h"

namespace sc {

// Zero taps are skipped where at most this share of the taps is left: one that goes alone takes two
// and a half times as long.
constexpr double kSparseTaps = 0.4;

// v, in a register: GCC would fold the load into each of its uses, and loads are what is scarce.
SC_INLINE V in_register(V v) {
#if defined(__AVX512F__) || (defined(__AVX__) && SC_WIDTH <= 8)
  asm("" : "+v"(v));
#elif defined(__aarch64__) && SC_WIDTH == 4
  asm("" : "+w"(v));
#endif
  return v;
}

// Where the taps read; those that are not zero with their weights.
struct TapList {
  int32_t* all;
  int32_t* at;
  float* value;
  int64_t count;
  bool sparse;

  // Finds out whether the kernel is sparse; lists its taps if so, or if `wanted`.
  void list(const float* weight, int64_t n, bool wanted) {
    int64_t left = 0;
    for (int64_t t = 0; t < n; t++) left += weight[t] != 0;
    sparse = double(left) <= kSparseTaps * double(n);
    if (!sparse && !wanted) return;
    count = 0;
    for (int64_t t = 0; t < n; t++) {
      if (weight[t] == 0) continue;
      at[count] = all[t], value[count] = weight[t], count++;
    }
  }
};

// One channel's kernel on one band. Stride 1 or 2 down the lines splits the kernel's rows into K0
// that read even rows of the image and K1 that read odd ones; K0 = 0: tap by tap.
template <int K0, int K1>
struct DepthwiseTile {
  const Window& w;
  const Band& band;
  const float* weight;
  const TapList& taps;

  // K kernel rows that follow each other in the band on R lines.
  template <int K, int R>
  SC_INLINE void add_rows(V (&acc)[R], const float* x, const float* row, int64_t next,
                          const int32_t* offset) const {
    for (int64_t kx = 0; kx < w.kernel[2]; kx++) {
      const float* from = x + offset[kx];
      V k[K];
#pragma GCC unroll 8
      for (int i = 0; i < K; i++) k[i] = splat(row[i * next + kx]);
#pragma GCC unroll 16
      for (int r = 0; r < R + K - 1; r++) {
        const V v = in_register(load(from + r * band.pitch));
#pragma GCC unroll 8
        for (int i = 0; i < K; i++)
          if (r >= i && r - i < R) acc[r - i] += k[i] * v;
      }
    }
  }

  // R vectors, `step` floats apart in the band and `to` apart in the output.
  template <int R>
  __attribute__((noinline)) void run(const float* x, int64_t step, float* out, int64_t to) const {
    V acc[R] = {};
    if constexpr (K0 > 0) {
      const int64_t kw = w.kernel[2];
      add_rows<K0>(acc, x, weight, (K1 ? 2 : 1) * kw, taps.all);
      if constexpr (K1 > 0) add_rows<K1>(acc, x, weight + kw, 2 * kw, taps.all + kw);
    } else {
      for (int64_t t = 0; t < taps.count; t++) {
        const V k = splat(taps.value[t]);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) acc[r] += k * load(x + taps.at[t] + r * step);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) store(out + r * to, acc[r]);
  }
};

// What a call needs beside the planes: band, lines and taps, in floats.
inline int64_t depthwise_scratch_floats(const Window& w) {
  const Band band(w);
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

// Names the tile for kernels of w's shape that are not sparse; 0: tap by tap.
SC_INLINE int64_t tile_shape(const Window& w) {
  const bool flat = w.out[1] > 1 && w.kernel[0] == 1 && w.dilation[1] == 1 && w.stride[1] <= 2;
  const bool odd = w.kernel[1] == 3 || w.kernel[1] == 5 || w.kernel[1] == 7;
  return flat && odd ? w.kernel[1] * 10 + w.stride[1] : 0;
}

// Makes n lines at out from a band at x by the tile of that name.
inline void depthwise_lines(const Window& w, const Band& band, const TapList& taps, int64_t shape,
                            const float* weight, int64_t n, const float* x, float* out) {
  const auto by = [&](auto rows0, auto rows1) {
    band.tiles(n, x, out, DepthwiseTile<rows0, rows1>{w, band, weight, taps});
  };
  using std::integral_constant;
  switch (shape) {
    case 31: return by(integral_constant<int, 3>(), integral_constant<int, 0>());
    case 51: return by(integral_constant<int, 5>(), integral_constant<int, 0>());
    case 71: return by(integral_constant<int, 7>(), integral_constant<int, 0>());
    case 32: return by(integral_constant<int, 2>(), integral_constant<int, 1>());
    case 52: return by(integral_constant<int, 3>(), integral_constant<int, 2>());
    case 72: return by(integral_constant<int, 4>(), integral_constant<int, 3>());
    default: return by(integral_constant<int, 0>(), integral_constant<int, 0>());
  }
}

// y[m] = epilogue(weight[m] * x[m / multiplier]) for m < rows, weight: [rows][taps]; epilogue:
// V(V sum, int64_t row, int64_t col). scratch: depthwise_scratch_floats(w) of this thread's.
template <class Epilogue>
void depthwise(Team& team, const float* weight, int64_t rows, int64_t multiplier, const Window& w,
               const float* x, int64_t ldx, float* y, int64_t ldy, float* scratch,
               const Epilogue& epilogue) {
  const Band band(w);
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
  float* values = stage + lines.floats();
  int32_t* at = reinterpret_cast<int32_t*>(values + w.taps());
  TapList taps{at + w.taps(), at, values, 0, false};
  band.find_taps(taps.all);
  const int64_t shape = tile_shape(w), total = rows / multiplier * ldx;
  int64_t listed = -1;  // the row whose taps are listed
  const auto make = [&](int64_t row, int64_t line, int64_t n, float* out) {
    const float* kernel = weight + row * w.taps();
    if (row != listed) taps.list(kernel, w.taps(), shape == 0), listed = row;
    const int64_t source = multiplier == 1 ? row : row / multiplier;
    band.copy(x, total, source * ldx, line, n, V{}, scratch);
    depthwise_lines(w, band, taps, taps.sparse ? 0 : shape, kernel, n, scratch, out);
  };
  make_lines(team, rows, lines, stage, y, ldy, make, epilogue);
}

}  // namespace sc
