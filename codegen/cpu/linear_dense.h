// y = epilogue(W x), W dense (dense blob), x and y planar.
// A register tile of kDenseRows x NB sums: each vector of x is loaded once for all the rows, each
// weight is broadcast once for all the vectors.
#pragma once
#include "tiles.h"

namespace sc {

constexpr int kDenseRows = dense_rows(W);  // the blob's row_block
constexpr int kDensePanel = W == 4 ? 3 : 2;  // widest instance, in vectors

struct DenseOutput {
  float* y;
  int64_t ldy, row, rows, col;  // rows <= kDenseRows of them exist
  bool first, last;
};

template <int NB, class Epilogue>
__attribute__((noinline)) void dense_block(const float* w, int64_t depth, const float* x,
                                           const DenseOutput& o, const Epilogue& epilogue) {
  constexpr int R = kDenseRows;
  V acc[R][NB];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 16
    for (int j = 0; j < NB; j++) acc[r][j] = V{};

  for (int64_t k = 0; k < depth; k++, w += R, x += NB * W) {
    __builtin_prefetch(w + depth * R);  // the next block: 14 % where weights come from memory
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
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
    if (r >= o.rows) break;
    float* out = o.y + (o.row + r) * o.ldy + o.col;
#pragma GCC unroll 16
    for (int j = 0; j < NB; j++) {
      if (!o.first) acc[r][j] += load(out + j * W);
      if (o.last) acc[r][j] = epilogue(acc[r][j], o.row + r, o.col + j * W);
      store(out + j * W, acc[r][j]);
    }
  }
}

template <class Epilogue>
using DenseKernel = void (*)(const float*, int64_t, const float*, const DenseOutput&,
                             const Epilogue&);

template <class Epilogue, int NB = 1>
SC_INLINE DenseKernel<Epilogue> dense_kernel(int64_t vectors) {
  if constexpr (NB < kDensePanel)
    if (vectors != NB) return dense_kernel<Epilogue, NB + 1>(vectors);
  return dense_block<NB, Epilogue>;
}

// As linear_csr, for a dense blob packed with row_block == kDenseRows.
template <class Epilogue>
void linear_dense(Team& team, const void* packed_weight, const float* x, int64_t ldx, float* y,
                  int64_t ldy, int64_t n, float* scratch, const Epilogue& epilogue) {
  const auto* h = static_cast<const PackedHeader*>(packed_weight);
  const int64_t tiles = h->tiles(), padded_rows = h->blocks() * kDenseRows;
  const auto* value = section<float>(h, h->value_at);
  const Share share = divide(team, h, vectors(n));

  for_each_tile(h, share, x, ldx, scratch, kDensePanel,
                [&](int64_t t, int64_t rows, const Panels& panels, int64_t p0, int64_t p1) {
    const float* tile = value + t * h->k_tile * padded_rows;
    for (int64_t b = share.block0; b < share.block1; b++) {
      const int64_t row0 = b * kDenseRows;
      for (int64_t p = p0; p < p1; p++) {
        const int64_t v = panels.start(p);
        const DenseOutput out{y,     ldy,    row0,      min64(kDenseRows, h->rows - row0),
                              v * W, t == 0, t == tiles - 1};
        dense_kernel<Epilogue>(panels.start(p + 1) - v)(
            tile + row0 * rows, rows, scratch + (v - panels.start(p0)) * rows * W, out, epilogue);
      }
    }
  });
}

}  // namespace sc
