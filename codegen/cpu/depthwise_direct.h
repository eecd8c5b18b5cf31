// Depthwise convolution that reads the image where it lies: no copy, each result stored once.
// A tile is up to 7 lines of one vector of columns. A vector of the input, loaded once for each
// kernel column, serves all lines whose kernel rows meet it. Lines outside the image are a line of
// zeros; columns outside are masked, in vectors that meet an end of their line. Large kernels with
// many zeros go tap by tap.
#pragma once
#include <type_traits>

#include "lanes.h"
#include "lines.h"

namespace sc {

constexpr int kDirectLines = 7;  // of a tile: the heights of common images are its multiples
// Kernel columns of stride 2 done at a time: two share their loads, which takes 17 registers.
constexpr int kColumnPair = W == 8 ? 1 : 2;
constexpr int64_t kBandColumns = 4096;  // of a thread, from which on each has lines of its own
// Zero taps are skipped where at most this share of the taps is left: one that goes alone takes two
// and a half times as long.
constexpr double kSparseTaps = 0.4;

// A tap that is not zero.
struct LoneTap {
  int32_t ky, kx;
  float weight;
};

// Where the vectors of a line stand, and what they read.
struct LineVectors {
  const Window& w;
  int64_t across;  // vectors of an output line; the last ends with its line, if that is so long
  InputLines lines;
  VI* mask;       // [kernel column][vector]; of stride 2 in the order of even_fours
  LoneTap* lone;  // room for the taps of a kernel

  static int64_t high(const Window& w) {
    const int64_t wide = w.out[2] > W ? w.out[2] : W;
    return w.stride[2] * wide + w.kernel[2] + W - w.pad[2];
  }
  static int64_t line_floats(const Window& w) {
    const int64_t rows = (kDirectLines - 1) * w.stride[1] + w.kernel[1];
    return InputLines::floats(-w.pad[2], high(w), rows);
  }
  static int64_t floats(const Window& w) {
    return line_floats(w) + w.kernel[2] * vectors(w.out[2]) * W +
           w.taps() * int64_t(sizeof(LoneTap) / 4);
  }

  LineVectors(const Window& w, const float* x, int64_t total, float* scratch)
      : w(w), across(vectors(w.out[2])), lines(w, x, total, -w.pad[2], high(w), scratch),
        mask(reinterpret_cast<VI*>(scratch + line_floats(w))),
        lone(reinterpret_cast<LoneTap*>(mask + w.kernel[2] * across)) {
    for (int64_t kx = 0; kx < w.kernel[2]; kx++)
      for (int64_t j = 0; j < across; j++) {
        VI lane = lane_numbers();
        if (w.stride[2] == 2) lane = to_fours(lane * 2, LaneList());
        const VI column = lane + int32_t(column_of(j) * w.stride[2] + kx - w.pad[2]);
        mask[kx * across + j] = (column >= splat_int(0)) & (column < splat_int(int32_t(w.in[2])));
      }
  }

  SC_INLINE int64_t column_of(int64_t j) const {
    return j == across - 1 && w.out[2] > W ? w.out[2] - W : j * W;
  }
  SC_INLINE bool meets_end(int64_t j) const {
    const int64_t first = column_of(j) * w.stride[2] - w.pad[2];
    return first < 0 || first + (W - 1) * w.stride[2] + w.kernel[2] > w.in[2];
  }
};

// Lists the taps of a kernel if few of them are not zero; how many, or none.
inline int64_t list_taps(const float* weight, int64_t kh, int64_t kw, LoneTap* list) {
  int64_t count = 0;
  for (int64_t t = 0; t < kh * kw; t++) count += weight[t] != 0;
  if (double(count) > kSparseTaps * double(kh * kw)) return -1;
  for (int64_t t = 0; t < kh * kw; t++)
    if (weight[t] != 0) *list++ = {int32_t(t / kw), int32_t(t % kw), weight[t]};
  return count;
}

// Lines of one channel: K x kernel[2] weights, both strides S.
template <int K, int S, class Epilogue>
struct DirectTile {
  const LineVectors& place;
  const Window& w;
  const float* weight;
  int64_t lone;  // taps listed, -1: the kernel is not sparse
  PlaneWriter<Epilogue> to;

  // R lines; the first is column `col` of the plane.
  template <int R>
  SC_INLINE void lines(const float* image, int64_t line, int64_t col) const {
    constexpr int N = (R - 1) * S + K;
    const float* from[N];
    place.lines.find(image, line * S - w.pad[1], from);
    fetch_next(from[N - 1], R * S, col + R * w.out[2], R);
    // From the last vector on: what a narrow line writes behind its end is overwritten by the next.
    for (int64_t j = place.across - 1; j >= 0; j--)
      place.meets_end(j) ? vector<R, true>(from, j, col) : vector<R, false>(from, j, col);
  }

  // Lines [line, end) of an image that starts at column `image_col`.
  SC_INLINE void all(const float* image, int64_t line, int64_t end, int64_t image_col) const {
    const auto next = [&](auto lines_) {
      lines<lines_>(image, line, image_col + line * w.out[2]);
      line += lines_;
    };
    while (end - line >= kDirectLines) next(std::integral_constant<int, kDirectLines>());
    if (end - line >= 4) next(std::integral_constant<int, 4>());
    if (end - line >= 2) next(std::integral_constant<int, 2>());
    if (end - line >= 1) next(std::integral_constant<int, 1>());
  }

 private:
  // What the next tile of n lines writes, and what it reads where that is twice as much: 3 %.
  SC_INLINE void fetch_next(const float* line, int64_t lines, int64_t col, int64_t n) const {
    for (int64_t c = 0; c < n * w.out[2]; c += 16) __builtin_prefetch(to.y + col + c, 1);
    if (S == 2)
      for (int64_t c = 0; c < lines * w.in[2]; c += 16) __builtin_prefetch(line + c);
  }

  template <int R, bool edge>
  __attribute__((noinline)) void vector(const float* const (&from)[(R - 1) * S + K], int64_t j,
                                        int64_t col) const {
    V acc[R] = {};
    const int64_t first = place.column_of(j), kw = w.kernel[2], at = first * S - w.pad[2];
    int64_t kx = 0;
    if (lone >= 0) {
      for (int64_t t = 0; t < lone; t++) one_tap<R, edge>(acc, from, at, j, place.lone[t]);
      kx = kw;
    }
    if constexpr (S == 2 && kColumnPair == 2) {
      if (w.pad[2] & 1 && kx < kw) columns<R, 1, edge>(acc, from, at, j, 0), kx = 1;
      for (; kx + 2 <= kw; kx += 2) columns<R, 2, edge>(acc, from, at + kx, j, kx);
    }
    for (; kx < kw; kx++) columns<R, 1, edge>(acc, from, at + kx, j, kx);
    if constexpr (S == 2)
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) acc[r] = from_fours(acc[r], LaneList());
    to.put(acc, col + first, w.out[2]);
  }

  template <int R, bool edge>
  SC_INLINE void one_tap(V (&acc)[R], const float* const (&from)[(R - 1) * S + K], int64_t at,
                         int64_t j, const LoneTap& tap) const {
    const V k = splat(tap.weight);
    const VI mask = place.mask[tap.kx * place.across + j];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const float* line = from[r * S + tap.ky] + at + tap.kx;
      V v = load(line);
      if constexpr (S == 2) v = even_fours(v, load(line + W), LaneList());
      acc[r] += k * (edge ? (V)((VI)v & mask) : v);
    }
  }

  // C kernel columns from kx on, read from column `at` of the lines on.
  template <int R, int C, bool edge>
  SC_INLINE void columns(V (&acc)[R], const float* const (&from)[(R - 1) * S + K], int64_t at,
                         int64_t j, int64_t kx) const {
    V k[K][C];
    VI mask[C];
#pragma GCC unroll 8
    for (int i = 0; i < K; i++)
#pragma GCC unroll 2
      for (int c = 0; c < C; c++) k[i][c] = splat(weight[i * w.kernel[2] + kx + c]);
#pragma GCC unroll 2
    for (int c = 0; c < C; c++) mask[c] = place.mask[(kx + c) * place.across + j];
#pragma GCC unroll 32
    for (int r = 0; r < (R - 1) * S + K; r++) {
      V v[2] = {load(from[r] + at), S == 2 ? load(from[r] + at + W) : V{}};
      if constexpr (S == 2) {
        const V a = v[0], b = v[1];
        v[0] = even_fours(a, b, LaneList());
        if (C == 2) v[1] = odd_fours(a, b, LaneList());
      }
#pragma GCC unroll 2
      for (int c = 0; c < C; c++) {
        if (edge) v[c] = (V)((VI)v[c] & mask[c]);
        v[c] = in_register(v[c]);
#pragma GCC unroll 8
        for (int i = r % S; i < K; i += S)
          if (r >= i && r - i < R * S) acc[(r - i) / S] += k[i][c] * v[c];
      }
    }
  }
};

// A thread's channels and the lines of each image. Convolutions over large images share columns
// out, and what another core has just written takes twice as long to read: large images are cut
// alike. Smaller ones lose by it, since each core's prefetcher fetches the other's part.
struct DirectShare {
  int64_t row0, row1, line0, line1;

  DirectShare(const Team& team, const Window& w, int64_t rows)
      : row0(team.cut_first(rows)), row1(team.cut_last(rows)), line0(0),
        line1(w.out[1]) {
    // Narrow lines write behind their end, so nobody else may have the next one.
    if (w.out[2] < W || w.out_columns() < kBandColumns * team.size) return;
    // Whole tiles: the compiler contracts a lower one's sums in another order.
    const int64_t tiles = (w.out[1] + kDirectLines - 1) / kDirectLines;
    row0 = 0, row1 = rows;
    line0 = min64(w.out[1], kDirectLines * team.cut_first(tiles));
    line1 = min64(w.out[1], kDirectLines * team.cut_last(tiles));
  }
  // In multiply-adds of vectors; one waits for memory as long as two or three of a product.
  double work(const Window& w) const {
    return 2.5 * double((row1 - row0) * (line1 - line0) * vectors(w.out[2]) * w.taps() * w.samples);
  }
};

inline int64_t depthwise_direct_scratch_floats(const Window& w) { return LineVectors::floats(w); }

// y[m] = epilogue(weight[m] * x[m / multiplier]) for m < rows, weight: [rows][K][kernel[2]], with
// both strides S, no dilation, one slice. epilogue: V(V sum, int64_t row, int64_t col), at any col;
// y is nothing that it reads. scratch: depthwise_direct_scratch_floats(w) of this thread's.
template <int K, int S, class Epilogue>
void depthwise_direct(Team& team, const float* weight, int64_t rows, int64_t multiplier,
                      const Window& w, const float* x, int64_t ldx, float* y, int64_t ldy,
                      float* scratch, const Epilogue& epilogue) {
  const LineVectors at(w, x, rows / multiplier * ldx, scratch);
  const DirectShare own(team, w, rows);
  const Stint stint(team, own.work(w));
  const int64_t height = w.out[1], last = (vectors(w.out_columns()) - 1) * W;
  for (int64_t row = own.row0; row < own.row1; row++) {
    const float* kernel = weight + row * K * w.kernel[2];
    const int64_t lone = K > 3 ? list_taps(kernel, K, w.kernel[2], at.lone) : -1;
    const PlaneWriter<Epilogue> to{y + row * ldy, row, last, epilogue};
    const DirectTile<K, S, Epilogue> tile{at, w, kernel, lone, to};
    const float* image = x + row / multiplier * ldx;
    for (int64_t s = 0; s < w.samples; s++, image += w.in[1] * w.in[2])
      tile.all(image, own.line0, own.line1, s * height * w.out[2]);
  }
}

}  // namespace sc
