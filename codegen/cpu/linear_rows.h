// Dense linears: y = epilogue(W x) from a dense blob, or from row-major weights where they lie
// (rows blob), which spares a copy of them and costs 1 to 2 % of the time.
#pragma once
#include "linear_dense.h"
#include "rest.h"

namespace sc {

// As dense_block, for whole blocks whose rows lie ldw floats apart. next: the block after it.
template <int NB, class Epilogue>
__attribute__((noinline)) void rows_block(const float* w, const float* next, int64_t ldw,
                                          int64_t depth, const float* x, const DenseOutput& o,
                                          const Epilogue& epilogue) {
  constexpr int kStep = 3;  // rows that one pointer reaches with an index: p, p + ldw, p + 2 ldw
  const float* from[kDenseRows / kStep + 1];
#pragma GCC unroll 16
  for (int i = 0; i <= kDenseRows / kStep; i++) from[i] = w + kStep * i * ldw;

  V acc[kDenseRows][NB];
#pragma GCC unroll 16
  for (int r = 0; r < kDenseRows; r++)
#pragma GCC unroll 16
    for (int j = 0; j < NB; j++) acc[r][j] = V{};

  for (int64_t k = 0; k < depth; k++, x += NB * W) {
    // One line of the next block: 16 steps fetch the same columns of 16 rows.
    __builtin_prefetch(next + (k & 15) * ldw + (k & ~int64_t(15)), 0, 2);
    V in[NB];
#pragma GCC unroll 16
    for (int j = 0; j < NB; j++) in[j] = load(x + j * W);
#pragma GCC unroll 16
    for (int r = 0; r < kDenseRows; r++) {
      const V weight = splat(from[r / kStep][r % kStep * ldw + k]);
#pragma GCC unroll 16
      for (int j = 0; j < NB; j++) acc[r][j] += weight * in[j];
    }
  }
  store_tile(acc, o, epilogue);
}

template <class Epilogue>
using RowsKernel = void (*)(const float*, const float*, int64_t, int64_t, const float*,
                            const DenseOutput&, const Epilogue&);

template <class Epilogue, int NB = 1>
SC_INLINE RowsKernel<Epilogue> rows_kernel(int64_t vectors) {
  if constexpr (NB < kDensePanel)
    if (vectors != NB) return rows_kernel<Epilogue, NB + 1>(vectors);
  return rows_block<NB, Epilogue>;
}

// One thread's share.
template <class Source, class Epilogue>
SC_INLINE void apply_rows(const PackedHeader* h, const Share& share, const Source& source,
                          float* y, int64_t ldy, float* scratch, const Epilogue& epilogue) {
  const int64_t* place = section<int64_t>(h, h->prefix_at);
  for_each_tile(h, share, source, scratch, kDensePanel, false,
                [&](const PackedHeader*, int64_t, int64_t t, int64_t rows, const Panels& panels,
                    int64_t p0, int64_t p1) {
    const int64_t k0 = t * h->k_tile;
    for (int64_t b = share.block0; b < share.block1; b++) {
      const int64_t row0 = b * kDenseRows;
      const float* w = section<float>(h, place[b]) + k0;
      const float* next = b + 1 < share.block1 ? section<float>(h, place[b + 1]) + k0 : w;
      for (int64_t p = p0; p < p1; p++) {
        const int64_t v = panels.start(p);
        const DenseOutput out{y,     ldy,    row0, min64(kDenseRows, h->rows - row0),
                              v * W, share.first<Epilogue>(t), t == h->tiles() - 1};
        rows_kernel<Epilogue>(panels.start(p + 1) - v)(
            w, next, h->cols, rows, scratch + (v - panels.start(p0)) * rows * W, out, epilogue);
      }
    }
  });
}

// As linear_csr, for a dense or a rows blob packed with row_block == kDenseRows.
template <class T = float, class Epilogue>
void linear_dense(Team& team, const void* packed_weight, const float* x, int64_t ldx, float* y,
                  int64_t ldy, int64_t n, float* scratch, const Epilogue& epilogue) {
  if (is_decode(packed_weight))
    return decode_planes(team, packed_weight, x, ldx, y, ldy, n, scratch, epilogue);
  const auto* h = static_cast<const PackedHeader*>(packed_weight);
  for_each_share(team, h, n, y, ldy, [&](const Share& share) {
    if constexpr (W > 4)
      if (h->format == kRows)
        return apply_rows(h, share, PlainRows{x, ldx}, y, ldy, scratch, epilogue);
    apply_dense<T>(h, share, PlainRows{x, ldx}, y, ldy, n, scratch, epilogue);
  });
}

}  // namespace sc
