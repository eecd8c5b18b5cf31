// y = epilogue(W x), W unstructured sparse (csr blob), x and y planar.
// One output row at a time: acc[j] += w * x[k][j], j over the vectors of a panel, which stay in
// registers for the whole row of the k tile; between k tiles the partial sums wait in y.
#pragma once
#include "rest.h"

namespace sc {

constexpr int kCsrPanel = 8;  // widest instance, in vectors
constexpr int64_t kCsrGroupBytes = 192 << 10;  // weights that serve all panels from L2

// A panel source that copies nothing, for weights that read each row but a few times.
struct RowsInPlace {
  const float* x;
  int64_t ldx, group_rows;

  SC_INLINE void prepare(int64_t, int64_t, int64_t) const {}
  SC_INLINE void copy(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, float*) const {}
  SC_INLINE const float* at(int64_t g, int64_t k0, int64_t v0) const {
    return x + (g * group_rows + k0) * ldx + v0 * W;
  }
};
template <class Source>
constexpr bool kInPlace = false;
template <>
constexpr bool kInPlace<RowsInPlace> = true;

template <class T>
struct CsrSegment {  // one k tile of one row block, its numbers stored as T
  const RowEntry* row;
  int64_t rows;
  const uint16_t* index;
  const T* value;
  int64_t ahead;
  int64_t step = 0;  // floats between the rows of x, where they are no panel
};

// Four indices. They are read one step ahead (past the last of an array, too): a load whose
// address is another load's result comes late, and two loads a cycle are the limit of these loops.
SC_INLINE uint64_t four_indices(const uint16_t* index) {
  uint64_t four;
  __builtin_memcpy(&four, index, 8);
#if defined(__GNUC__)
  asm("" : "+r"(four));  // here, not where the compiler would move it
#endif
  return four;
}

// U non-zeros of one row: index i lies i * unit floats behind x, and vector j of it j * step floats
// behind that. For the same limit, four values are one vector, spread by shuffles.
template <int U, int NB, int chains, class T>
SC_INLINE void csr_step(uint64_t indices, const T* value, const float* x, int64_t unit,
                        int64_t step, V (&sum)[chains][NB]) {
  Four values = {};
  if constexpr (U == 4) {
    values = four_numbers(value);
#if defined(__x86_64__)
    asm("" : "+x"(values));  // or GCC goes back to four broadcasts from memory
#endif
  }
#pragma GCC unroll 4
  for (int u = 0; u < U; u++) {
    const float* row = x + int64_t(indices >> 16 * u & 0xffff) * unit;
    const V w = splat(U == 4 ? values[u] : number(value[u]));
#pragma GCC unroll 16
    for (int j = 0; j < NB; j++) sum[u % chains][j] += w * load(row + j * step);
  }
}

// Adds one row to acc; unit: floats between the rows of x; ahead: its first indices, then the next
// row's. Independent chains of sums hide the latency of the multiply-add where a panel is narrow.
template <int NB, class T>
SC_INLINE void csr_row(const uint16_t* index, const T* value, int64_t count, const float* x,
                       int64_t unit, uint64_t& ahead, V (&acc)[NB]) {
  constexpr int twice = W == 16 ? 7 : 6;  // widest panel whose sums fit the registers twice
  constexpr int chains = NB > twice ? 1 : NB >= 3 ? 2 : 4;
  V sum[chains][NB];
#pragma GCC unroll 4
  for (int c = 0; c < chains; c++)
#pragma GCC unroll 16
    for (int j = 0; j < NB; j++) sum[c][j] = c ? V{} : acc[j];

  uint64_t next = ahead;
  ahead = four_indices(index + count);
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const uint64_t own = next;
    next = four_indices(index + i + 4);
    csr_step<4>(own, value + i, x, unit, W, sum);
  }
  for (; i < count; i++, next >>= 16) csr_step<1>(next, value + i, x, unit, W, sum);

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

// in_place: x is no panel, but rows s.step floats apart.
template <int NB, bool in_place, class T, class Epilogue>
__attribute__((noinline)) void csr_block(const CsrSegment<T>& s, const float* x, float* y,
                                         int64_t ldy, int64_t row0, int64_t col, bool first,
                                         bool last, const Epilogue& epilogue) {
  const uint16_t* index = s.index;
  const T* value = s.value;
  uint64_t indices = four_indices(index);
  const int64_t unit = in_place ? s.step : NB * W;
  for (int64_t r = 0; r < s.rows; r++) {
    const int64_t count = s.row[r].count, row = row0 + s.row[r].row;
    const int64_t ahead = row0 + s.row[min64(r + s.ahead, s.rows - 1)].row;
    fetch_output<NB>(y + ahead * ldy + col, epilogue, ahead, col, last, !first);
    float* out = y + row * ldy + col;
    V acc[NB];
#pragma GCC unroll 16
    for (int j = 0; j < NB; j++) acc[j] = first ? V{} : load(out + j * W);
    csr_row<NB>(index, value, count, x, unit, indices, acc);
    index += count;
    value += count;
    if (last) {
#pragma GCC unroll 16
      for (int j = 0; j < NB; j++) acc[j] = epilogue(acc[j], row, col + j * W);
    }
#pragma GCC unroll 16
    for (int j = 0; j < NB; j++) store(out + j * W, acc[j]);
  }
}

template <class Epilogue, class T>
using CsrKernel = void (*)(const CsrSegment<T>&, const float*, float*, int64_t, int64_t, int64_t,
                           bool, bool, const Epilogue&);

template <class Epilogue, class T, bool in_place = false, int NB = 1>
SC_INLINE CsrKernel<Epilogue, T> csr_kernel(int64_t vectors) {
  if constexpr (NB < kCsrPanel)
    if (vectors != NB) return csr_kernel<Epilogue, T, in_place, NB + 1>(vectors);
  return csr_block<NB, in_place, T, Epilogue>;
}

// One thread's share. Rows of y and of the epilogue count through all groups.
template <class T = float, class Source, class Epilogue>
SC_INLINE void apply_csr(const PackedHeader* h, const Share& share, const Source& source, float* y,
                         int64_t ldy, float* scratch, const Epilogue& epilogue) {
  for_each_tile(h, share, source, scratch, kCsrPanel, false,
                [&](const PackedHeader* own, int64_t g, int64_t t, int64_t rows,
                    const Panels& panels, int64_t p0, int64_t p1) {
    const auto* row = section<RowEntry>(own, own->row_at) + t * own->rows;
    const auto* index = section<uint16_t>(own, own->index_at);
    const auto* value = section<T>(own, own->value_at);
    const int64_t* start = section<int64_t>(own, own->segment_at) + t * own->blocks();
    const bool last = share.last(own, t);
    for (int64_t b0 = share.block0, b1; b0 < share.block1; b0 = b1) {
      for (b1 = b0 + 1; b1 < share.block1; b1++)
        if ((start[b1 + 1] - start[b0]) * int64_t(2 + sizeof(T)) > kCsrGroupBytes) break;
      for (int64_t p = p0; p < p1; p++) {
        const int64_t v = panels.start(p);
        const int64_t wide = panels.start(p + 1) - v;
        const auto kernel = csr_kernel<Epilogue, T, kInPlace<Source>>(wide);
        const float* panel = scratch + (v - panels.start(p0)) * rows * W;
        int64_t step = 0;
        if constexpr (kInPlace<Source>)
          panel = source.at(g, t * own->k_tile, v), step = source.ldx;
        for (int64_t b = b0; b < b1; b++) {
          const int64_t row0 = b * own->row_block;
          const int64_t height = min64(own->row_block, own->rows - row0);
          const CsrSegment<T> s{row + row0, height, index + start[b], value + start[b],
                                rows_ahead(start[b + 1] - start[b], height, wide), step};
          kernel(s, panel, y, ldy, g * own->rows + row0, v * W, share.first<Epilogue>(t), last,
                 epilogue);
        }
      }
    }
  });
}

// Every thread of the team calls it; each returns when its own share is done.
// x: [K] rows ldx floats apart; y: [M] rows ldy apart; columns 0..n-1, whole vectors touched.
// epilogue(V sum, int64_t row, int64_t col) -> V, once per output vector.
template <class T = float, class Epilogue>
void linear_csr(Team& team, const void* packed_weight, const float* x, int64_t ldx, float* y,
                int64_t ldy, int64_t n, float* scratch, const Epilogue& epilogue) {
  if (is_decode(packed_weight))
    return decode_planes(team, packed_weight, x, ldx, y, ldy, n, scratch, epilogue);
  const auto* h = static_cast<const PackedHeader*>(packed_weight);
  for_each_share(team, h, n, y, ldy, [&](const Share& share) {
    apply_csr<T>(h, share, PlainRows{x, ldx}, y, ldy, scratch, epilogue);
  });
}

}  // namespace sc
