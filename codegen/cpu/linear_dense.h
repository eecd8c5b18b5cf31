// y = epilogue(W x), W dense (dense blob), x and y planar.
// A register tile of kDenseRows x NB sums: each vector of x is loaded once for all the rows, each
// weight is broadcast once for all the vectors.
#pragma once
#include "tiles.h"

namespace sc {

constexpr int kDenseRows = dense_rows(W);  // the blob's row_block
constexpr int kFewRows = 4;  // a smaller tile for what is left over
constexpr int kDensePanel = W == 4 ? 3 : 2;  // widest instance, in vectors

// Columns of the last vector up to which lanes along the rows of a block are less work.
constexpr int kRowVectors = (kDenseRows + W - 1) / W;
constexpr int kDenseTail = kDenseRows / (2 * kRowVectors) < 4 ? kDenseRows / (2 * kRowVectors) : 4;

struct DenseOutput {
  float* y;
  int64_t ldy, row, rows, col;  // rows of them exist, at most R
  bool first, last;
};

// Adds a tile of sums to what earlier k tiles left in y; the last one passes the epilogue.
template <int R, int NB, class Epilogue>
SC_INLINE void store_tile(V (&acc)[R][NB], const DenseOutput& o, const Epilogue& epilogue) {
  const int64_t row = o.row, col = o.col, ldy = o.ldy;
  float* const y = o.y + row * ldy + col;
  if (o.last && o.rows >= R) {
    // All before one is stored: a store might change what the next reads, as the compiler sees it.
    if (!o.first) {
#pragma GCC unroll 16
      for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int j = 0; j < NB; j++) acc[r][j] += load(y + r * ldy + j * W);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
      for (int j = 0; j < NB; j++) acc[r][j] = epilogue(acc[r][j], row + r, col + j * W);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
      for (int j = 0; j < NB; j++) store(y + r * ldy + j * W, acc[r][j]);
    return;
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
    if (r >= o.rows) break;
    float* out = y + r * ldy;
#pragma GCC unroll 16
    for (int j = 0; j < NB; j++) {
      if (!o.first) acc[r][j] += load(out + j * W);
      if (o.last) acc[r][j] = epilogue(acc[r][j], row + r, col + j * W);
      store(out + j * W, acc[r][j]);
    }
  }
}

// R of the block's rows, from w on.
template <int NB, int R, class Epilogue>
__attribute__((noinline)) void dense_block(const float* w, int64_t depth, const float* x,
                                           const DenseOutput& o, const Epilogue& epilogue) {
  for (int r = 0; r < R && r < o.rows; r++)
    fetch_output<NB>(o.y + (o.row + r) * o.ldy + o.col, epilogue, o.row + r, o.col, o.last);
  V acc[R][NB];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 16
    for (int j = 0; j < NB; j++) acc[r][j] = V{};

  for (int64_t k = 0; k < depth; k++, w += kDenseRows, x += NB * W) {
    __builtin_prefetch(w + depth * kDenseRows);  // the next block: 14 % where it is in memory
    V in[NB];
#pragma GCC unroll 16
    for (int j = 0; j < NB; j++) in[j] = load(x + j * W);
    V lanes[R / 4];  // NEON multiplies by a lane: two registers of weights, not eight
    if constexpr (W == 4)
      for (int i = 0; i < R / 4; i++) lanes[i] = load(w + i * W);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const V weight = splat(W == 4 ? lanes[r / 4][r % W] : w[r]);
#pragma GCC unroll 16
      for (int j = 0; j < NB; j++) acc[r][j] += weight * in[j];
    }
  }
  store_tile(acc, o, epilogue);
}

// sums[row][c]: the first C columns of a panel of one vector.
template <int C>
__attribute__((noinline)) void dense_tail(const float* w, int64_t depth, const float* x,
                                          float (*sums)[W]) {
  constexpr int chains = 4;
  V acc[chains][C][kRowVectors];
#pragma GCC unroll 16
  for (int i = 0; i < chains * C * kRowVectors; i++) (&acc[0][0][0])[i] = V{};
  int64_t k = 0;
  const auto step = [&](V (&own)[C][kRowVectors]) {
#pragma GCC unroll 4
    for (int r = 0; r < kRowVectors; r++) {
      const V rows = load(w + k * kDenseRows + r * W);
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) own[c][r] += rows * splat(x[k * W + c]);
    }
    k++;
  };
  while (k + chains <= depth) step(acc[0]), step(acc[1]), step(acc[2]), step(acc[3]);
  while (k < depth) step(acc[0]);
  for (int c = 0; c < C; c++)
    for (int r = 0; r < kDenseRows; r++)
      sums[r][c] = acc[0][c][r / W][r % W] + acc[1][c][r / W][r % W] + acc[2][c][r / W][r % W] +
                   acc[3][c][r / W][r % W];
}

template <int C = 1>
SC_INLINE void dense_tail_of(int64_t columns, const float* w, int64_t depth, const float* x,
                             float (*sums)[W]) {
  if constexpr (C < kDenseTail)
    if (columns != C) return dense_tail_of<C + 1>(columns, w, depth, x, sums);
  dense_tail<C>(w, depth, x, sums);
}

// One block times the last vector, of which only the first `columns` lanes mean anything.
template <class Epilogue>
SC_INLINE void dense_last(int64_t columns, const float* w, int64_t depth, const float* x,
                          const DenseOutput& o, const Epilogue& epilogue) {
  float sums[kDenseRows][W] = {};
  dense_tail_of(columns, w, depth, x, sums);
  for (int64_t r = 0; r < o.rows; r++) {
    float* out = o.y + (o.row + r) * o.ldy + o.col;
    V sum = load(sums[r]);
    if (!o.first) sum += load(out);
    store(out, o.last ? epilogue(sum, o.row + r, o.col) : sum);
  }
}

template <class Epilogue>
using DenseKernel = void (*)(const float*, int64_t, const float*, const DenseOutput&,
                             const Epilogue&);

template <class Epilogue, int R, int NB = 1>
SC_INLINE DenseKernel<Epilogue> dense_kernel(int64_t vectors) {
  if constexpr (NB < kDensePanel)
    if (vectors != NB) return dense_kernel<Epilogue, R, NB + 1>(vectors);
  return dense_block<NB, R, Epilogue>;
}

// One block times one panel; the last block's missing rows are not worth their multiply-adds.
template <class Epilogue>
SC_INLINE void dense_rows_of_block(int64_t vectors, const float* w, int64_t depth, const float* x,
                                   DenseOutput out, const Epilogue& epilogue) {
  const int64_t rows = out.rows;
  if ((rows + kFewRows - 1) / kFewRows * kFewRows >= kDenseRows)
    return dense_kernel<Epilogue, kDenseRows>(vectors)(w, depth, x, out, epilogue);
  const auto kernel = dense_kernel<Epilogue, kFewRows>(vectors);
  for (int64_t r = 0; r < rows; r += kFewRows, out.row += kFewRows) {
    out.rows = min64(kFewRows, rows - r);
    kernel(w + r, depth, x, out, epilogue);
  }
}

// n numbers as fp32: where they lie, or converted into `room`.
SC_INLINE const float* as_floats(const float* from, int64_t, float*) { return from; }
template <class T>
SC_INLINE const float* as_floats(const T* from, int64_t n, float* room) {
  int64_t i = 0;
  for (; i + W <= n; i += W) store(room + i, numbers(from + i));
  for (; i < n; i++) room[i] = number(from[i]);
  return room;
}

// One thread's share. Rows of y and of the epilogue count through all groups.
template <class T = float, class Source, class Epilogue>
SC_INLINE void apply_dense(const PackedHeader* h, const Share& share, const Source& source,
                           float* y, int64_t ldy, int64_t n, float* scratch,
                           const Epilogue& epilogue) {
  const int64_t tail = n % W;  // columns of the last vector, if it is worth a way of its own
  const bool alone = share.vector1 == vectors(n) && tail > 0 && tail <= kDenseTail;
  for_each_tile(h, share, source, scratch, kDensePanel, alone,
                [&](const PackedHeader* own, int64_t g, int64_t t, int64_t rows,
                    const Panels& panels, int64_t p0, int64_t p1) {
    const T* tile = section<T>(own, own->value_at) + t * own->k_tile * own->blocks() * kDenseRows;
    float* room = scratch + group_vectors(h, W) * min64(h->k_tile, h->cols) * W;
    const bool last = t == own->tiles() - 1;
    for (int64_t b = share.block0; b < share.block1; b++) {
      const int64_t row0 = b * kDenseRows;
      const float* w = as_floats(tile + row0 * rows, rows * kDenseRows, room);
      for (int64_t p = p0; p < p1; p++) {
        const int64_t v = panels.start(p);
        const DenseOutput out{y,     ldy,    g * own->rows + row0,
                              min64(kDenseRows, own->rows - row0),
                              v * W, share.first<Epilogue>(t), last};
        const float* x = scratch + (v - panels.start(p0)) * rows * W;
        if (p == panels.even) dense_last(tail, w, rows, x, out, epilogue);
        else dense_rows_of_block(panels.start(p + 1) - v, w, rows, x, out, epilogue);
      }
    }
  });
}

}  // namespace sc
