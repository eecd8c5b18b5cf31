// Batched products of two activations, C = A B, of any strides on all sides (Goto and van de Geijn
// 2008): blocks of B are packed as panels of whole vectors, A is read where it lies or, if that is
// down its columns, as packed tiles of kTileRows rows; each product of a tile and a panel stays in
// registers. Threads share batch x tiles of rows.
#pragma once
#include "relayout.h"
#include "team.h"

namespace sc {

// Element (b0, b1, b2, row, column) of a batch of matrices; strides in floats, 0 broadcasts.
template <class T>
struct Matrices {
  T* p;
  int64_t batch[3];
  int64_t row, column;
};

// C [m, n] = A [m, k] B [k, n] for each of batch[0] x batch[1] x batch[2]; c overlaps no input.
struct Matmul {
  int64_t batch[3];
  int64_t m, n, k;
  Matrices<const float> a, b;
  Matrices<float> c;
};

#if defined(__AVX512F__) || defined(__aarch64__)  // 32 registers
constexpr int kTileRows = 6, kTileVectors = 4;
#else  // 16 registers
constexpr int kTileRows = 6, kTileVectors = 2;
#endif
constexpr int64_t kPanel = kTileVectors * W;
constexpr int64_t kDepth = 256;              // of a block: a panel fits the first-level cache
constexpr int64_t kBlockColumns = 8 * kPanel;  // of B: a block fits the second-level cache

// Floats of scratch each thread needs.
inline int64_t matmul_scratch_floats(const Matmul&) {
  return kDepth * (kBlockColumns + kTileRows) + 2 * 16;
}

// to[k * WIDTH + i] = from[i * line + k * step] for i < lines, zeros up to WIDTH.
template <int64_t WIDTH>
void pack_lines(const float* from, int64_t line, int64_t step, int64_t lines, int64_t depth,
                float* to) {
  int64_t i = 0;
  if (step == 1 && line != 1)
    for (; i + W <= lines; i += W)
      transpose_tiles<true>(from + i * line, line, W, depth, to + i, WIDTH, 0, vectors(depth));
  if (line == 1)
    for (; i + W <= lines; i += W)
      for (int64_t k = 0; k < depth; k++) store(to + k * WIDTH + i, load(from + k * step + i));
  for (int64_t k = 0; k < depth; k++) {
    for (int64_t j = i; j < lines; j++) to[k * WIDTH + j] = from[j * line + k * step];
    for (int64_t j = lines; j < WIDTH; j++) to[k * WIDTH + j] = 0;
  }
}

// ROWS x N vectors of C in registers. a: tile, or rows where they lie (a_row, a_step floats apart);
// b: a panel, ldb floats between its rows.
template <int ROWS, int N>
SC_INLINE void tile_times_panel(const float* a, int64_t a_row, int64_t a_step, const float* b,
                                int64_t ldb, int64_t depth, V (&acc)[ROWS][N]) {
  for (int64_t k = 0; k < depth; k++, a += a_step, b += ldb) {
    V y[N];
#pragma GCC unroll 4
    for (int j = 0; j < N; j++) y[j] = load(b + j * W);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
      const V x = splat(a[r * a_row]);
#pragma GCC unroll 4
      for (int j = 0; j < N; j++) acc[r][j] += x * y[j];
    }
  }
}

// One thread's rows of one matrix.
struct MatmulRows {
  const Matmul& p;  // C's columns are contiguous, or neither its rows nor columns are
  const float *a, *b;
  float* c;
  float *panels, *tile;

  // Adds (or, for the first block of the depth, sets) a tile of the result.
  template <int ROWS, int N>
  SC_INLINE void finish(V (&acc)[ROWS][N], float* to, int64_t columns, bool first) const {
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
      for (int j = 0; j < N; j++) {
        float* at = to + r * p.c.row + j * W * p.c.column;
        const int64_t lanes = columns - j * W;
        if (lanes >= W && p.c.column == 1) {
          store(at, first ? acc[r][j] : load(at) + acc[r][j]);
        } else {
          for (int64_t i = 0; i < W && i < lanes; i++)
            at[i * p.c.column] = first ? acc[r][j][i] : at[i * p.c.column] + acc[r][j][i];
        }
      }
  }

  // `rows` of C at once, R of them at a time for R = kTileRows, 4, 2, 1.
  template <int ROWS>
  void rows(int64_t row, int64_t k, int64_t depth, int64_t column, int64_t columns,
            bool packed) const {
    const float* x = a + row * p.a.row + k * p.a.column;
    int64_t x_row = p.a.row, x_step = p.a.column;
    if (ROWS == kTileRows && columns > kPanel && x_step != 1) {
      pack_lines<kTileRows>(x, p.a.row, p.a.column, kTileRows, depth, tile);
      x = tile, x_row = 1, x_step = kTileRows;
    }
    for (int64_t j = 0; j < columns; j += kPanel) {
      const float* y = packed ? panels + j * kDepth : b + k * p.b.row + column + j;
      const int64_t y_row = packed ? kPanel : p.b.row, left = columns - j;
      float* to = c + row * p.c.row + (column + j) * p.c.column;
      const auto step = [&](auto n) {
        V acc[ROWS][n()] = {};
        tile_times_panel<ROWS, n()>(x, x_row, x_step, y, y_row, depth, acc);
        finish<ROWS, n()>(acc, to, left, k == 0);
      };
      if (left <= W) {
        step(std::integral_constant<int, 1>());
      } else if (left <= 2 * W) {
        step(std::integral_constant<int, 2>());
      } else {
        step(std::integral_constant<int, kTileVectors>());
      }
    }
  }

  void block(int64_t first, int64_t last, int64_t k, int64_t depth, int64_t column,
             int64_t columns) const {
    // Packing costs as much as two rows of products; whole panels can be read where they lie.
    const bool packed = p.b.column != 1 || columns % kPanel != 0 || last - first > kTileRows;
    if (packed)
      for (int64_t j = 0; j < columns; j += kPanel)
        pack_lines<kPanel>(b + k * p.b.row + (column + j) * p.b.column, p.b.column, p.b.row,
                           columns - j < kPanel ? columns - j : kPanel, depth,
                           panels + j * kDepth);
    int64_t i = first;
    for (; i + kTileRows <= last; i += kTileRows)
      rows<kTileRows>(i, k, depth, column, columns, packed);
    if (i + 4 <= last) rows<4>(i, k, depth, column, columns, packed), i += 4;
    if (i + 2 <= last) rows<2>(i, k, depth, column, columns, packed), i += 2;
    if (i < last) rows<1>(i, k, depth, column, columns, packed);
  }

  void run(int64_t first, int64_t last) const {
    for (int64_t column = 0; column < p.n; column += kBlockColumns) {
      const int64_t columns = p.n - column < kBlockColumns ? p.n - column : kBlockColumns;
      for (int64_t k = 0; k < p.k; k += kDepth)
        block(first, last, k, p.k - k < kDepth ? p.k - k : kDepth, column, columns);
      if (p.k > 0) continue;
      for (int64_t i = first; i < last; i++)
        for (int64_t j = column; j < column + columns; j++) c[i * p.c.row + j * p.c.column] = 0;
    }
  }
};

// All threads of the team; scratch: this thread's own matmul_scratch_floats(p) floats.
inline void matmul(Team& team, const Matmul& given, float* scratch) {
  Matmul p = given;
  if (p.c.column != 1 && p.c.row == 1) {  // C^T = B^T A^T has contiguous columns
    std::swap(p.m, p.n);
    std::swap(p.a, p.b);
    std::swap(p.a.row, p.a.column);
    std::swap(p.b.row, p.b.column);
    std::swap(p.c.row, p.c.column);
  }
  if (p.n <= 0 || p.m <= 0) return;
  float* panels = (float*)((uintptr_t(scratch) + 63) & ~uintptr_t(63));
  const int64_t tiles = (p.m + kTileRows - 1) / kTileRows;
  const int64_t items = p.batch[0] * p.batch[1] * p.batch[2] * tiles, end = team.last(items);
  for (int64_t item = team.first(items); item < end;) {
    const int64_t one = item / tiles, tile = item % tiles;
    const int64_t count = tiles - tile < end - item ? tiles - tile : end - item;
    const int64_t place[] = {one / (p.batch[1] * p.batch[2]), one / p.batch[2] % p.batch[1],
                             one % p.batch[2]};
    int64_t a = 0, b = 0, c = 0;
    for (int d = 0; d < 3; d++) {
      a += place[d] * p.a.batch[d];
      b += place[d] * p.b.batch[d];
      c += place[d] * p.c.batch[d];
    }
    const int64_t last = (tile + count) * kTileRows;
    MatmulRows{p, p.a.p + a, p.b.p + b, p.c.p + c, panels, panels + kDepth * kBlockColumns}.run(
        tile * kTileRows, last < p.m ? last : p.m);
    item += count;
  }
}

}  // namespace sc
