// Reductions of planes, along the columns of each sample or down the rows, of whatever a functor
// gives for each vector of the source: an elementwise producer needs no planes of its own.
// Sums: partial ones of a few hundred values, then these are added up, so that rounding errors stay
// near those of a pairwise sum. Maximum and minimum keep a NaN, as torch's do.
#pragma once
#include "math.h"
#include "pointwise.h"

namespace sc {

struct PlaneSum {
  static constexpr float start = 0;
  SC_INLINE static V combine(V a, V b) { return a + b; }
  SC_INLINE static float combine(float a, float b) { return a + b; }
};
struct PlaneMax {
  static constexpr float start = -kInfinity;
  SC_INLINE static V combine(V a, V b) { return max(a, b); }
  SC_INLINE static float combine(float a, float b) { return b > a || b != b ? b : a; }
};
struct PlaneMin {
  static constexpr float start = kInfinity;
  SC_INLINE static V combine(V a, V b) { return min(a, b); }
  SC_INLINE static float combine(float a, float b) { return b < a || b != b ? b : a; }
};

SC_INLINE VI lane_numbers() {
  VI lane{};
  for (int i = 0; i < W; i++) lane[i] = i;
  return lane;
}

template <class Fold>
SC_INLINE float fold_lanes(V v) {
  float lane[W];
  store(lane, v);
  for (int n = W / 2; n > 0; n /= 2)
    for (int i = 0; i < n; i++) lane[i] = Fold::combine(lane[i], lane[i + n]);
  return lane[0];
}

// The fold of columns [begin, end) of a row; the source is asked for vectors at multiples of W.
template <class Fold, class Source>
SC_INLINE float fold_columns(int64_t row, int64_t begin, int64_t end, const Source& source) {
  constexpr int kBlock = 32;  // vectors of a partial result
  const VI lane = lane_numbers();
  const V start = splat(Fold::start);
  V total = start;
  int64_t col = begin / W * W;
  const auto masked = [&](int64_t c) {
    const VI in = (lane >= splat_int(int32_t(begin - c))) & (lane < splat_int(int32_t(
                      end - c < W ? end - c : W)));
    return select(in, source(row, c), start);
  };
  if (col < begin) total = masked(col), col += W;
  while (col + 4 * W <= end) {
    V part[4];
    for (int j = 0; j < 4; j++) part[j] = source(row, col + j * W);
    col += 4 * W;
    for (int i = 1; i < kBlock && col + 4 * W <= end; i++, col += 4 * W)
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) part[j] = Fold::combine(part[j], source(row, col + j * W));
    const V pair = Fold::combine(part[0], part[1]);
    total = Fold::combine(total, Fold::combine(pair, Fold::combine(part[2], part[3])));
  }
  for (; col + W <= end; col += W) total = Fold::combine(total, source(row, col));
  if (col < end) total = Fold::combine(total, masked(col));
  return fold_lanes<Fold>(total);
}

// y[row][s] = finish(fold of source(row, col) over the columns of sample s).
// source: V(int64_t row, int64_t col); finish: V(V folded, int64_t row, int64_t s).
template <class Fold, class Source, class Finish>
void reduce_columns(Team& team, int64_t rows, int64_t samples, int64_t per, float* y, int64_t ldy,
                    const Source& source, const Finish& finish) {
  share_of_plane(team, rows, samples, [&](int64_t row, int64_t first, int64_t last) {
    for (int64_t s = first; s < last; s += W) {
      float folded[W] = {};
      for (int64_t i = 0; i < W && s + i < last; i++)
        folded[i] = fold_columns<Fold>(row, (s + i) * per, (s + i + 1) * per, source);
      store(y + row * ldy + s, finish(load(folded), row, s));
    }
  });
}

template <class Fold, class Source, class Finish>
struct FoldRows {
  int64_t rows, inner;
  float* y;
  int64_t ldy;
  const Source& source;
  const Finish& finish;

  template <int N>
  SC_INLINE void run(int64_t out, int64_t col) const {
    constexpr int64_t kBlock = 16;  // rows of a partial result
    const int64_t first = out / inner * rows * inner + out % inner;
    V total[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; j++) total[j] = splat(Fold::start);
    for (int64_t r = 0; r < rows; r += kBlock) {
      V part[N];
#pragma GCC unroll 8
      for (int j = 0; j < N; j++) part[j] = source(first + r * inner, col + j * W);
      for (int64_t k = r + 1; k < rows && k < r + kBlock; k++)
#pragma GCC unroll 8
        for (int j = 0; j < N; j++)
          part[j] = Fold::combine(part[j], source(first + k * inner, col + j * W));
#pragma GCC unroll 8
      for (int j = 0; j < N; j++) total[j] = Fold::combine(total[j], part[j]);
    }
#pragma GCC unroll 8
    for (int j = 0; j < N; j++)
      store(y + out * ldy + col + j * W, finish(total[j], out, col + j * W));
  }
};

// Source rows (o * rows + r) * inner + i, folded over r, give row o * inner + i of y, o < outer.
// source: V(int64_t row, int64_t col); finish: V(V folded, int64_t row of y, int64_t col).
template <class Fold, class Source, class Finish>
void reduce_rows(Team& team, int64_t outer, int64_t rows, int64_t inner, int64_t n, float* y,
                 int64_t ldy, const Source& source, const Finish& finish) {
  const FoldRows<Fold, Source, Finish> fold{rows, inner, y, ldy, source, finish};
  share_of_plane(team, outer * inner, n, [&](int64_t out, int64_t first, int64_t last) {
    int64_t col = first;
    for (; col + 4 * W <= last; col += 4 * W) fold.template run<4>(out, col);
    for (; col < last; col += W) fold.template run<1>(out, col);
  });
}

}  // namespace sc
