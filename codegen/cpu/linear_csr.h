// y = epilogue(W x), W unstructured sparse (csr blob), x and y planar.
// One output row at a time: acc[j] += w * x[k][j], j over the vectors of a panel, which stay in
// registers for the whole row of the k tile; between k tiles the partial sums wait in y.
#pragma once
#include "tiles.h"

namespace sc {

constexpr int kCsrPanel = 8;  // widest instance, in vectors
constexpr int64_t kCsrGroupBytes = 192 << 10;  // weights that serve all panels from L2

struct CsrSegment {  // one k tile of one row block
  const RowEntry* row;
  int64_t rows;
  const uint16_t* index;
  const float* value;
  int64_t ahead;
};

typedef float V4 __attribute__((vector_size(16), aligned(4), may_alias));

// U non-zeros of one row. Two loads a cycle are the limit of this loop, so four indices are one
// 64-bit load, and four values one vector, spread by shuffles.
template <int U, int NB, int chains>
SC_INLINE void csr_step(const uint16_t* index, const float* value, const float* x,
                        V (&sum)[chains][NB]) {
  uint64_t indices = 0;
  V4 values = {};
  __builtin_memcpy(&indices, index, 2 * U);
  if constexpr (U == 4) {
    values = *(const V4*)value;
#if defined(__x86_64__)
    asm("" : "+x"(values));  // or GCC goes back to four broadcasts from memory
#endif
  }
#pragma GCC unroll 4
  for (int u = 0; u < U; u++) {
    const float* row = x + int64_t(indices >> 16 * u & 0xffff) * (NB * W);
    const V w = splat(U == 4 ? values[u] : value[u]);
#pragma GCC unroll 16
    for (int j = 0; j < NB; j++) sum[u % chains][j] += w * load(row + j * W);
  }
}

// Sum of one row. Independent chains of sums hide the latency of the multiply-add where a panel is
// narrow.
template <int NB>
SC_INLINE void csr_row(const uint16_t* index, const float* value, int64_t count, const float* x,
                       V (&acc)[NB]) {
  constexpr int chains = NB >= 6 ? 1 : NB >= 3 ? 2 : 4;
  V sum[chains][NB];
#pragma GCC unroll 4
  for (int c = 0; c < chains; c++)
#pragma GCC unroll 16
    for (int j = 0; j < NB; j++) sum[c][j] = V{};

  int64_t i = 0;
  for (; i + 4 <= count; i += 4) csr_step<4>(index + i, value + i, x, sum);
  for (; i < count; i++) csr_step<1>(index + i, value + i, x, sum);

#pragma GCC unroll 16
  for (int j = 0; j < NB; j++) {
    acc[j] = sum[0][j];
#pragma GCC unroll 4
    for (int c = 1; c < chains; c++) acc[j] += sum[c][j];
  }
}

// Rows to look ahead, so that what they need has come from the shared cache.
SC_INLINE int64_t rows_ahead(int64_t nnz, int64_t rows, int64_t panel_vectors) {
  const int64_t far = 640 * rows / (nnz * panel_vectors + 1);
  return far < 4 ? 4 : far > 24 ? 24 : far;
}

template <int NB, class Epilogue>
__attribute__((noinline)) void csr_block(const CsrSegment& s, const float* x, float* y, int64_t ldy,
                                         int64_t row0, int64_t col, bool first, bool last,
                                         const Epilogue& epilogue) {
  const uint16_t* index = s.index;
  const float* value = s.value;
  for (int64_t r = 0; r < s.rows; r++) {
    const int64_t count = s.row[r].count, row = row0 + s.row[r].row;
    const int64_t ahead = row0 + s.row[min64(r + s.ahead, s.rows - 1)].row;
    fetch_output<NB>(y + ahead * ldy + col, epilogue, ahead, col, last);
    float* out = y + row * ldy + col;
    V acc[NB];
    csr_row<NB>(index, value, count, x, acc);
    index += count;
    value += count;
    if (!first) {
#pragma GCC unroll 16
      for (int j = 0; j < NB; j++) acc[j] += load(out + j * W);
    }
    if (last) {
#pragma GCC unroll 16
      for (int j = 0; j < NB; j++) acc[j] = epilogue(acc[j], row, col + j * W);
    }
#pragma GCC unroll 16
    for (int j = 0; j < NB; j++) store(out + j * W, acc[j]);
  }
}

template <class Epilogue>
using CsrKernel = void (*)(const CsrSegment&, const float*, float*, int64_t, int64_t, int64_t, bool,
                           bool, const Epilogue&);

template <class Epilogue, int NB = 1>
SC_INLINE CsrKernel<Epilogue> csr_kernel(int64_t vectors) {
  if constexpr (NB < kCsrPanel)
    if (vectors != NB) return csr_kernel<Epilogue, NB + 1>(vectors);
  return csr_block<NB, Epilogue>;
}

// One thread's share. Rows of y and of the epilogue count through all groups.
template <class Source, class Epilogue>
SC_INLINE void apply_csr(const PackedHeader* h, const Share& share, const Source& source, float* y,
                         int64_t ldy, float* scratch, const Epilogue& epilogue) {
  for_each_tile(h, share, source, scratch, kCsrPanel, false,
                [&](const PackedHeader* own, int64_t g, int64_t t, int64_t rows,
                    const Panels& panels, int64_t p0, int64_t p1) {
    const auto* row = section<RowEntry>(own, own->row_at) + t * own->rows;
    const auto* index = section<uint16_t>(own, own->index_at);
    const auto* value = section<float>(own, own->value_at);
    const int64_t* start = section<int64_t>(own, own->segment_at) + t * own->blocks();
    const bool last = t == own->tiles() - 1;
    for (int64_t b0 = share.block0, b1; b0 < share.block1; b0 = b1) {
      for (b1 = b0 + 1; b1 < share.block1; b1++)
        if ((start[b1 + 1] - start[b0]) * 6 > kCsrGroupBytes) break;
      for (int64_t p = p0; p < p1; p++) {
        const int64_t v = panels.start(p);
        const int64_t wide = panels.start(p + 1) - v;
        const auto kernel = csr_kernel<Epilogue>(wide);
        const float* panel = scratch + (v - panels.start(p0)) * rows * W;
        for (int64_t b = b0; b < b1; b++) {
          const int64_t row0 = b * own->row_block;
          const int64_t height = min64(own->row_block, own->rows - row0);
          const CsrSegment s{row + row0, height, index + start[b], value + start[b],
                             rows_ahead(start[b + 1] - start[b], height, wide)};
          kernel(s, panel, y, ldy, g * own->rows + row0, v * W, t == 0, last, epilogue);
        }
      }
    }
  });
}

// Every thread of the team calls it; each returns when its own share is done.
// x: [K] rows ldx floats apart; y: [M] rows ldy apart; columns 0..n-1, whole vectors touched.
// epilogue(V sum, int64_t row, int64_t col) -> V, once per output vector.
template <class Epilogue>
void linear_csr(Team& team, const void* packed_weight, const float* x, int64_t ldx, float* y,
                int64_t ldy, int64_t n, float* scratch, const Epilogue& epilogue) {
  const auto* h = static_cast<const PackedHeader*>(packed_weight);
  apply_csr(h, divide(team, h, vectors(n)), PlainRows{x, ldx}, y, ldy, scratch, epilogue);
}

}  // namespace sc
