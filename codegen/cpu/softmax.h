// Softmax and log-softmax down the rows of a plane, one per column, with the maximum subtracted.
// A column of -inf gives NaN, as in torch. Only columns 0 .. n-1 are stored.
#pragma once
#include "norm.h"

namespace sc {

// The n columns from col on that exist: W of them, fewer at the tail.
SC_INLINE void store_columns(float* p, V v, int64_t remaining) {
  if (remaining >= W) {
    store(p, v);
  } else {
    store_part(p, v, int(remaining));
  }
}

template <bool LOG, class Load>
struct Softmax {
  int64_t rows, n;
  float* y;
  int64_t ldy;
  const Load& load_x;

  template <int N>
  SC_INLINE void run(int64_t col) const {
    V top[N], sum[N] = {};
    for (int j = 0; j < N; j++) top[j] = splat(-kInfinity);
    for (int64_t row = 0; row < rows; row++)
#pragma GCC unroll 8
      for (int j = 0; j < N; j++) top[j] = max_right(load_x(row, col + j * W), top[j]);
    for (int64_t row = 0; row < rows; row++) {
#pragma GCC unroll 8
      for (int j = 0; j < N; j++) {
        const V x = load_x(row, col + j * W) - top[j];
        const V e = exp_nonpositive(x);
        sum[j] += e;
        store_columns(y + row * ldy + col + j * W, LOG ? x : e, n - col - j * W);
      }
    }
    for (int j = 0; j < N; j++) sum[j] = LOG ? log(sum[j]) : splat(1.f) / sum[j];
    for (int64_t row = 0; row < rows; row++) {
#pragma GCC unroll 8
      for (int j = 0; j < N; j++) {
        float* p = y + row * ldy + col + j * W;
        const V v = load(p);
        store_columns(p, LOG ? v - sum[j] : v * sum[j], n - col - j * W);
      }
    }
  }
};

// y[r][c] = exp(x) / sum_r exp(x), x = load_x(r, c): V(int64_t row, int64_t col); y may be what
// load_x reads at the same place.
template <class Load>
void softmax(Team& team, int64_t rows, int64_t n, float* y, int64_t ldy, const Load& load_x) {
  share_of_columns<kNormVectors>(team, n, Softmax<false, Load>{rows, n, y, ldy, load_x});
}
template <class Load>
void log_softmax(Team& team, int64_t rows, int64_t n, float* y, int64_t ldy, const Load& load_x) {
  share_of_columns<kNormVectors>(team, n, Softmax<true, Load>{rows, n, y, ldy, load_x});
}

}  // namespace sc
