// y = epilogue(W x) for at most kFewColumns columns: each thread takes rows of like work, whole.
// The kernels stand in the library of packers, entered through the blob: a unit compiles none.
#pragma once
#include "decode_blob.h"
#include "onto.h"
#include "team.h"
#include "value.h"

namespace sc {

constexpr int kSummedRows = 64;  // rows whose sums wait together for the epilogue

// Floats of scratch, 64-byte aligned, that each thread must bring.
inline int64_t decode_scratch_floats(const void* packed, int64_t columns = kFewColumns) {
  const auto* h = static_cast<const DecodeHeader*>(packed);
  return columns * h->padded() + kSummedRows * columns + 16;
}

// The first row of part i of n, rows counted as their non-zeros and 16 more.
inline int64_t decode_cut(const DecodeHeader* h, int64_t i, int64_t n) {
  const auto* start = h->section<int64_t>(h->start_at);
  const int64_t want = (start[h->rows] + 16 * h->rows) * i / n;
  int64_t low = 0, high = h->rows;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (start[middle] + 16 * middle < want) low = middle + 1;
    else high = middle;
  }
  return i == n ? h->rows : low;
}

// This thread's rows a few at a time: use(row0, row1, sums[row - row0][columns]).
template <class Use>
SC_INLINE void decode_rows_of(Team& team, const DecodeHeader* h, int kernel, const float* x,
                              float* sums, int64_t whole, const Use& use) {
  int64_t row = decode_cut(h, team.id, team.size) / whole * whole;
  int64_t end = decode_cut(h, team.id + 1, team.size) / whole * whole;
  if (team.id + 1 == team.size) end = h->rows;
  for (; row < end; row += kSummedRows) {
    const int64_t next = row + kSummedRows < end ? row + kSummedRows : end;
    h->run[kernel](h, row, next, x, sums);
    use(row, next, sums);
  }
}

// Columns of planes as the kernels read them: [column][padded], or, for indices and several
// columns, [padded][columns].
inline void gather_columns(const DecodeHeader* h, int columns, int64_t n, const float* x,
                           int64_t ldx, float* to) {
  const bool together = h->kind == kIndexed && columns > 1;
  const int64_t row = together ? columns : 1, column = together ? 1 : h->padded();
  for (int64_t k = 0; k < h->cols; k++)
    for (int64_t c = 0; c < columns; c++) to[k * row + c * column] = c < n ? x[k * ldx + c] : 0.f;
  if (!together)
    for (int64_t c = 0; c < columns; c++)
      for (int64_t k = h->cols; k < h->padded(); k++) to[c * column + k] = 0.f;
}

// As linear_csr, for a decode blob and n of at most kFewColumns.
template <class Epilogue>
void decode_planes(Team& team, const void* packed, const float* x, int64_t ldx, float* y,
                   int64_t ldy, int64_t n, float* scratch, const Epilogue& epilogue) {
  const auto* h = static_cast<const DecodeHeader*>(packed);
  const int kernel = decode_kernel(n), columns = 1 << kernel;
  gather_columns(h, columns, n, x, ldx, scratch);
  decode_rows_of(team, h, kernel, scratch, scratch + kFewColumns * h->padded(), 1,
                 [&](int64_t row0, int64_t row1, const float* sum) {
    for (int64_t row = row0; row < row1; row++, sum += columns)
      for (int64_t c = 0; c < n; c += W) {
        V v = {};
        for (int64_t i = 0; i < W && c + i < n; i++) v[i] = sum[c + i];
        if constexpr (kOnto<Epilogue>) v += load(y + row * ldy + c);
        store(y + row * ldy + c, epilogue(v, row, c));
      }
  });
}

// One column: y[M] = f(W x, reads...), x [K], all contiguous. f: of vectors along the rows, and of
// single numbers. A read is a pointer and its stride: 1 for a number to each row, 0 for one number.
struct RowRead {
  const float* p;
  int64_t stride;

  SC_INLINE float at(int64_t row) const { return p[row * stride]; }
  SC_INLINE V vector(int64_t row) const { return stride ? load(p + row) : splat(*p); }
};

template <class F, class... Reads>
void decode_row(Team& team, const void* packed, const float* x, float* y, float* scratch,
                const F& f, const Reads&... reads) {
  const auto* h = static_cast<const DecodeHeader*>(packed);
  for (int64_t k = 0; k < h->padded(); k++) scratch[k] = k < h->cols ? x[k] : 0.f;
  decode_rows_of(team, h, 0, scratch, scratch + h->padded(), 16,
                 [&](int64_t row0, int64_t row1, const float* sum) {
    int64_t row = row0;
    for (; row + W <= row1; row += W, sum += W) store(y + row, f(load(sum), reads.vector(row)...));
    for (; row < row1; row++, sum++) y[row] = f(*sum, reads.at(row)...);
  });
}

}  // namespace sc
