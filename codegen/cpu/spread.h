// Rows of planes put at places of their own among more rows, which hold a number each.
#pragma once
#include "pointwise.h"

namespace sc {

template <int N>
struct Runs {
  int64_t at[N][2];  // first row and row behind the last, in ascending order
};

// y[row] = the next row of x where a run holds `row`, else fill(row, col). Whole vectors are stored.
template <int N, class F>
void spread(Team& team, int64_t rows, int64_t n, float* y, int64_t ldy, const float* x, int64_t ldx,
            const Runs<N>& runs, const F& fill) {
  share_of_plane(team, rows, n, [&](int64_t row, int64_t first, int64_t last) {
    int64_t run = 0, source = 0;
    for (; run < N && runs.at[run][1] <= row; run++) source += runs.at[run][1] - runs.at[run][0];
    float* out = y + row * ldy;
    if (run == N || row < runs.at[run][0]) {
      for (int64_t col = first; col < last; col += W) store(out + col, fill(row, col));
      return;
    }
    const float* from = x + (source + row - runs.at[run][0]) * ldx;
#pragma GCC unroll 4
    for (int64_t col = first; col < last; col += W) store(out + col, load(from + col));
  });
}

}  // namespace sc
