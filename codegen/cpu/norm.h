// Layer norm and RMS norm over the rows (channels) of a plane, one independent norm per column, so
// nothing is reduced across lanes. Moments: a two-pass mean and sum of squares over 8 rows in
// registers, merged by Chan's formula (Chan, Golub, LeVeque 1983): one sound pass over memory.
#pragma once
#include "math.h"
#include "team.h"

namespace sc {

constexpr int kNormRows = 8;
// Vectors of a panel: 128 bytes of a row, two cache lines.
constexpr int kNormVectors = W >= 16 ? 2 : 32 / W;

struct Moments {
  // Values count from the first rows' mean, or rounding a large mean would dominate the error.
  V origin{}, mean{};
  V squares{};  // sum of squared deviations from the mean
  float count = 0;

  template <int R>
  SC_INLINE void add(V (&x)[R]) {
    if (count == 0) origin = sum(x) * splat(1.f / R);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) x[r] -= origin;
    const V m = sum(x) * splat(1.f / R);
    V s{};
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) s += (x[r] - m) * (x[r] - m);
    const float total = count + R;
    const V delta = m - mean;
    mean += delta * splat(R / total);
    squares += s + delta * delta * splat(count * R / total);
    count = total;
  }

  template <int R>
  SC_INLINE static V sum(const V (&x)[R]) {
    V s = x[0];
#pragma GCC unroll 8
    for (int r = 1; r < R; r++) s += x[r];
    return s;
  }
};

// Calls panel<vectors>(col) for this thread's columns.
template <int N, class Panel>
SC_INLINE void share_of_columns(const Team& team, int64_t n, const Panel& panel) {
  int64_t i = team.first(vectors(n));
  const int64_t end = team.last(vectors(n));
  for (; i + N <= end; i += N) panel.template run<N>(i * W);
  for (; i < end; i++) panel.template run<1>(i * W);
}

template <class Load, class Finish>
struct LayerNorm {
  int64_t channels;
  float eps;
  float* sum;
  int64_t ld_sum;
  float* y;
  int64_t ldy;
  const Load& load_x;
  const Finish& finish;

  template <int R, int N>
  SC_INLINE void add(Moments (&moments)[N], int64_t row, int64_t col) const {
#pragma GCC unroll 8
    for (int j = 0; j < N; j++) {
      V x[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        x[r] = load_x(row + r, col + j * W);
        if (sum) store(sum + (row + r) * ld_sum + col + j * W, x[r]);
      }
      moments[j].add(x);
    }
  }

  template <int N>
  SC_INLINE void run(int64_t col) const {
    Moments moments[N];
    int64_t row = 0;
    for (; row + kNormRows <= channels; row += kNormRows) add<kNormRows>(moments, row, col);
    for (; row < channels; row++) add<1>(moments, row, col);
    V mean[N], scale[N];
    for (int j = 0; j < N; j++) {
      mean[j] = moments[j].origin + moments[j].mean;
      scale[j] = rsqrt(moments[j].squares * splat(1.f / channels) + splat(eps));
    }
    for (row = 0; row < channels; row++) {
#pragma GCC unroll 8
      for (int j = 0; j < N; j++) {
        const int64_t c = col + j * W;
        const V x = sum ? load(sum + row * ld_sum + c) : load_x(row, c);
        store(y + row * ldy + c, finish((x - mean[j]) * scale[j], row, c));
      }
    }
  }
};

// y[r][c] = finish((x - mean_c) / sqrt(var_c + eps), r, c), x = load_x(r, c), the variance biased.
// load_x, finish: V(int64_t row, int64_t col) and V(V normalised, int64_t row, int64_t col).
// sum: null, and load_x is evaluated twice; or where x is kept (a residual stream; may be y).
// y may be a plane that load_x reads at the same place.
template <class Load, class Finish>
void layer_norm(Team& team, int64_t channels, int64_t n, float eps, float* sum, int64_t ld_sum,
                float* y, int64_t ldy, const Load& load_x, const Finish& finish) {
  const LayerNorm<Load, Finish> panel{channels, eps, sum, ld_sum, y, ldy, load_x, finish};
  share_of_columns<kNormVectors>(team, n, panel);
}

template <class Load, class Finish>
struct RmsNorm {
  int64_t channels;
  float eps;
  float* sum;
  int64_t ld_sum;
  float* y;
  int64_t ldy;
  const Load& load_x;
  const Finish& finish;

  template <int N>
  SC_INLINE void run(int64_t col) const {
    V squares[N][2] = {};  // a sum of sums of 8 rows: a smaller rounding error
    for (int64_t row = 0; row < channels; row++) {
#pragma GCC unroll 8
      for (int j = 0; j < N; j++) {
        const V x = load_x(row, col + j * W);
        if (sum) store(sum + row * ld_sum + col + j * W, x);
        squares[j][0] += x * x;
      }
      if (row % kNormRows != kNormRows - 1) continue;
      for (int j = 0; j < N; j++) {
        squares[j][1] += squares[j][0];
        squares[j][0] = V{};
      }
    }
    V scale[N];
    for (int j = 0; j < N; j++)
      scale[j] = rsqrt((squares[j][0] + squares[j][1]) * splat(1.f / channels) + splat(eps));
    for (int64_t row = 0; row < channels; row++) {
#pragma GCC unroll 8
      for (int j = 0; j < N; j++) {
        const int64_t c = col + j * W;
        const V x = sum ? load(sum + row * ld_sum + c) : load_x(row, c);
        store(y + row * ldy + c, finish(x * scale[j], row, c));
      }
    }
  }
};

// y[r][c] = finish(x / sqrt(mean_c(x^2) + eps), r, c); arguments as layer_norm's.
template <class Load, class Finish>
void rms_norm(Team& team, int64_t channels, int64_t n, float eps, float* sum, int64_t ld_sum,
              float* y, int64_t ldy, const Load& load_x, const Finish& finish) {
  const RmsNorm<Load, Finish> panel{channels, eps, sum, ld_sum, y, ldy, load_x, finish};
  share_of_columns<kNormVectors>(team, n, panel);
}

}  // namespace sc
