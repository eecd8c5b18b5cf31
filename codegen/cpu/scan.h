// Running sums and softmax along one dimension of row-major buffers, seen as [outer, n, inner].
#pragma once
#include "math.h"
#include "sweep.h"

namespace sc {

// y[o][i][c] = x[o][0][c] + ... + x[o][i][c]; integers and booleans add up in Out = int64.
// x may be y. Threads share the outer x inner columns, so one long column is one thread's.
template <class Out, class In>
void cumsum(Team& team, int64_t outer, int64_t n, int64_t inner, const In* x, Out* y) {
  constexpr int64_t kColumns = 64;
  const int64_t blocks = (inner + kColumns - 1) / kColumns;
  if (n <= 0) return;
  for (int64_t item = team.first(outer * blocks); item < team.last(outer * blocks); item++) {
    const int64_t first = item % blocks * kColumns, start = item / blocks * n * inner + first;
    const int64_t width = inner - first < kColumns ? inner - first : kColumns;
    Out sum[kColumns] = {};
    for (int64_t i = 0; i < n; i++)
      for (int64_t c = 0; c < width; c++) {
        sum[c] += Out(x[start + i * inner + c]);
        y[start + i * inner + c] = sum[c];
      }
  }
}

// ---- softmax ----------------------------------------------------------------------------------
// A vector of up to W neighbouring floats; the lanes beyond n hold `other`.
SC_INLINE V load_lanes(const float* p, int64_t n, float other) {
  if (n >= W) return load(p);
  V v = splat(other);
  for (int i = 0; i < n; i++) v[i] = p[i];
  return v;
}
SC_INLINE void store_lanes(float* p, V v, int64_t n) {
  if (n >= W) return store(p, v);
  store_part(p, v, int(n));
}

// y = exp(x - top) / sum or x - top - log(sum); a NaN or only -inf in a row makes NaN, as in torch.
struct SoftmaxLane {
  V top, factor;  // 1 / sum, or log(sum)
  SC_INLINE V operator()(V x, bool log) const {
    return log ? x - top - factor : exp(x - top) * factor;
  }
};
SC_INLINE SoftmaxLane softmax_lane(V top, V sum, bool log) {
  return {top, log ? sc::log(sum) : splat(1.f) / sum};
}

// One contiguous row of n floats.
inline void softmax_row(const float* x, float* y, int64_t n, bool log) {
  V most = splat(-kInfinity);
  for (int64_t i = 0; i < n; i += W) most = max(load_lanes(x + i, n - i, -kInfinity), most);
  float top = most[0];
  for (int j = 1; j < W; j++) top = most[j] > top || most[j] != most[j] ? most[j] : top;
  V sums{};
  for (int64_t i = 0; i < n; i += W)
    sums += exp(load_lanes(x + i, n - i, -kInfinity) - splat(top));
  float sum = 0;
  for (int j = 0; j < W; j++) sum += sums[j];
  const SoftmaxLane lane = softmax_lane(splat(top), splat(sum), log);
  for (int64_t i = 0; i < n; i += W)
    store_lanes(y + i, lane(load_lanes(x + i, n - i, 0), log), n - i);
}

// W neighbouring columns of n rows that lie `inner` floats apart.
inline void softmax_columns(const float* x, float* y, int64_t n, int64_t inner, int64_t width,
                            bool log) {
  V top = splat(-kInfinity), sum{};
  for (int64_t i = 0; i < n; i++) top = max(load_lanes(x + i * inner, width, 0), top);
  for (int64_t i = 0; i < n; i++) sum += exp(load_lanes(x + i * inner, width, 0) - top);
  const SoftmaxLane lane = softmax_lane(top, sum, log);
  for (int64_t i = 0; i < n; i++)
    store_lanes(y + i * inner, lane(load_lanes(x + i * inner, width, 0), log), width);
}

// (log-)softmax along n of float [outer, n, inner]. x may be y.
inline void softmax_along(Team& team, int64_t outer, int64_t n, int64_t inner, const float* x,
                          float* y, bool log) {
  const int64_t blocks = inner == 1 ? 1 : vectors(inner), items = n > 0 ? outer * blocks : 0;
  for (int64_t item = team.first(items); item < team.last(items); item++) {
    const int64_t start = item / blocks * n * inner + item % blocks * W;
    if (inner == 1) {
      softmax_row(x + start, y + start, n, log);
    } else {
      softmax_columns(x + start, y + start, n, inner, inner - item % blocks * W, log);
    }
  }
}

}  // namespace sc
