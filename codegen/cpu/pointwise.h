// y[row][col ..] = f(row, col) over a plane; f does its own loads: one pass for any expression.
#pragma once
#include "team.h"

namespace sc {

// Calls body(row, first column, last column) for this thread's share of rows x n, where columns are
// multiples of W except the last one of a row: equal shares whatever the shape.
template <class Body>
SC_INLINE void share_of_plane(const Team& team, int64_t rows, int64_t n, const Body& body) {
  const int64_t per_row = vectors(n);
  if (per_row == 0) return;
  const int64_t end = team.last(rows * per_row);
  for (int64_t i = team.first(rows * per_row); i < end;) {
    const int64_t row = i / per_row, first = i % per_row;
    const int64_t last = end - i < per_row - first ? first + (end - i) : per_row;
    body(row, first * W, last * W < n ? last * W : n);
    i += last - first;
  }
}

// f: V(int64_t row, int64_t col). y may be what f reads at the same place. Whole vectors are
// stored.
template <class F>
void pointwise(Team& team, int64_t rows, int64_t n, float* y, int64_t ldy, const F& f) {
  share_of_plane(team, rows, n, [&](int64_t row, int64_t first, int64_t last) {
    float* out = y + row * ldy;
#pragma GCC unroll 4
    for (int64_t col = first; col < last; col += W) store(out + col, f(row, col));
  });
}

}  // namespace sc
