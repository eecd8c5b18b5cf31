// Copies between plain (strided) tensors and planes: W x W transposes in registers where one side
// is contiguous along features and the other along tokens, loops over rows otherwise. Only columns
// 0 .. n-1 of a plane are stored, so samples may share a plane.
#pragma once
#include <type_traits>
#include <utility>

#include "math.h"
#include "team.h"

namespace sc {

// ---- W x W transposes -------------------------------------------------------------------------
// One stage exchanges the off-diagonal S x S blocks of rows i and i + S: within groups of four
// lanes by unpacking (one instruction on every ISA), across groups by block moves.
constexpr int low_lane(int s, int lane) {
  if (s == 1) return lane / 4 * 4 + lane % 4 / 2 + lane % 2 * W;
  if (s == 2) return lane / 4 * 4 + lane % 2 + lane % 4 / 2 * W;
  return lane & s ? W + lane - s : lane;
}
constexpr int high_lane(int s, int lane) { return low_lane(s, lane) + (s < 4 ? 2 : s); }

template <int S, int... I>
SC_INLINE void exchange(V& a, V& b, std::integer_sequence<int, I...>) {
  const V low = __builtin_shufflevector(a, b, low_lane(S, I)...);
  b = __builtin_shufflevector(a, b, high_lane(S, I)...);
  a = low;
}
template <int S>
SC_INLINE void transpose_stage(V (&r)[W]) {
#pragma GCC unroll 16
  for (int i = 0; i < W; i++)
    if (!(i & S)) exchange<S>(r[i], r[i | S], std::make_integer_sequence<int, W>());
}
SC_INLINE void transpose(V (&r)[W]) {
  transpose_stage<1>(r);
  transpose_stage<2>(r);
  // Unpacking leaves the two middle rows of each four in exchanged places.
#pragma GCC unroll 16
  for (int i = 0; i < W; i += 4) std::swap(r[i + 1], r[i + 2]);
  if constexpr (W >= 8) transpose_stage<4>(r);
  if constexpr (W >= 16) transpose_stage<8>(r);
}

// to[j * ld_to + i] = from[i * ld_from + j] for i < rows, j < columns, both at most W.
SC_INLINE void transpose_tile(const float* from, int64_t ld_from, int rows, int columns, float* to,
                              int64_t ld_to) {
  if (rows == W && columns == W) {
    V r[W];
#pragma GCC unroll 16
    for (int i = 0; i < W; i++) r[i] = load(from + i * ld_from);
    transpose(r);
#pragma GCC unroll 16
    for (int i = 0; i < W; i++) store(to + i * ld_to, r[i]);
    return;
  }
  for (int j = 0; j < columns; j++)
    for (int i = 0; i < rows; i++) to[j * ld_to + i] = from[i * ld_from + j];
}

// The transpose of from[rows][columns], W x W tiles [first, last). ALONG_ROWS: the next tile is to
// the right in `from`, else below. Going along the longer stride's own lines keeps them in L1.
template <bool ALONG_ROWS>
inline void transpose_tiles(const float* from, int64_t ld_from, int64_t rows, int64_t columns,
                            float* to, int64_t ld_to, int64_t first, int64_t last) {
  const int64_t inner = vectors(ALONG_ROWS ? columns : rows);
  for (int64_t t = first; t < last; t++) {
    const int64_t slow = t / inner * W, fast = t % inner * W;
    const int64_t i = ALONG_ROWS ? slow : fast, j = ALONG_ROWS ? fast : slow;
    transpose_tile(from + i * ld_from + j, ld_from, int(rows - i < W ? rows - i : W),
                   int(columns - j < W ? columns - j : W), to + j * ld_to + i, ld_to);
  }
}

// dst[c][token] = src[token * row_stride + c]: n tokens of c contiguous features into planes.
inline void rows_to_planes(Team& team, const float* src, int64_t row_stride, int64_t n, int64_t c,
                           float* dst, int64_t ld) {
  const int64_t tiles = vectors(n) * vectors(c);
  transpose_tiles<true>(src, row_stride, n, c, dst, ld, team.first(tiles), team.last(tiles));
}
// dst[token * row_stride + c] = src[c][token]
inline void planes_to_rows(Team& team, const float* src, int64_t ld, int64_t n, int64_t c,
                           float* dst, int64_t row_stride) {
  const int64_t tiles = vectors(n) * vectors(c);
  transpose_tiles<false>(src, ld, c, n, dst, row_stride, team.first(tiles), team.last(tiles));
}

// ---- strided tensors --------------------------------------------------------------------------
// Plane row (i0 * size[1] + i1) * size[2] + i2 and column j stand for the tensor's element
// i0 stride[0] + i1 stride[1] + i2 stride[2] + j column_stride (strides in elements; 0 broadcasts).
struct Strided {
  int64_t size[3];
  int64_t stride[3];
  int64_t column_stride;

  int64_t offset(int64_t row) const {
    return row / (size[1] * size[2]) * stride[0] + row / size[2] % size[1] * stride[1] +
           row % size[2] * stride[2];
  }
};

// Element conversions of the copies into planes.
struct ToFloat {
  template <class T>
  SC_INLINE float operator()(T x) const {
    return float(x);
  }
};
// A boolean attention mask (true: may be seen) as an additive one.
struct ToAdditive {
  template <class T>
  SC_INLINE float operator()(T x) const {
    return x ? 0.f : -kInfinity;
  }
};

// dst[row][j] = convert(src[offset(row) + j column_stride]) for j < n.
template <class T, class Convert = ToFloat>
void strided_to_planes(Team& team, const T* src, const Strided& s, int64_t n, float* dst,
                       int64_t ld, const Convert& convert = Convert()) {
  const int64_t rows = s.size[0] * s.size[1] * s.size[2];
  if constexpr (std::is_same_v<T, float> && std::is_same_v<Convert, ToFloat>) {
    if (s.stride[2] == 1 && s.column_stride != 1 && s.size[2] >= 4) {  // [.., tokens, features]
      const int64_t tiles = vectors(n) * vectors(s.size[2]), outer = s.size[0] * s.size[1];
      for (int64_t t = team.first(tiles * outer); t < team.last(tiles * outer); t++) {
        const int64_t row = t / tiles * s.size[2];
        transpose_tiles<true>(src + s.offset(row), s.column_stride, n, s.size[2], dst + row * ld,
                              ld, t % tiles, t % tiles + 1);
      }
      return;
    }
  }
  for (int64_t row = team.first(rows); row < team.last(rows); row++) {
    const T* from = src + s.offset(row);
    float* to = dst + row * ld;
    if (s.column_stride == 1) {
      for (int64_t j = 0; j < n; j++) to[j] = convert(from[j]);
    } else {
      for (int64_t j = 0; j < n; j++) to[j] = convert(from[j * s.column_stride]);
    }
  }
}

// dst[offset(row) + j column_stride] = src[row][j] for j < n; no two elements of dst may coincide.
inline void planes_to_strided(Team& team, const float* src, int64_t ld, int64_t n, const Strided& s,
                              float* dst) {
  const int64_t rows = s.size[0] * s.size[1] * s.size[2];
  if (s.stride[2] == 1 && s.column_stride != 1 && s.size[2] >= 4) {
    const int64_t tiles = vectors(n) * vectors(s.size[2]), outer = s.size[0] * s.size[1];
    for (int64_t t = team.first(tiles * outer); t < team.last(tiles * outer); t++) {
      const int64_t row = t / tiles * s.size[2];
      transpose_tiles<false>(src + row * ld, ld, s.size[2], n, dst + s.offset(row),
                             s.column_stride, t % tiles, t % tiles + 1);
    }
    return;
  }
  for (int64_t row = team.first(rows); row < team.last(rows); row++) {
    const float* from = src + row * ld;
    float* to = dst + s.offset(row);
    if (s.column_stride == 1) {
      for (int64_t j = 0; j < n; j++) to[j] = from[j];
    } else {
      for (int64_t j = 0; j < n; j++) to[j * s.column_stride] = from[j];
    }
  }
}

// y[row][0 .. n) = x[row][0 .. n), whole vectors touched.
inline void move_columns(Team& team, int64_t rows, int64_t n, const float* x, int64_t ldx, float* y,
                         int64_t ldy) {
  for (int64_t row = team.first(rows); row < team.last(rows); row++) {
    const float* from = x + row * ldx;
    float* to = y + row * ldy;
    int64_t i = 0;
    for (; i + W <= n; i += W) store(to + i, load(from + i));
    for (; i < n; i++) to[i] = from[i];
  }
}

}  // namespace sc
