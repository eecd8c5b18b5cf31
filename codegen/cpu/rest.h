// Threads that hold columns each, and a rest that does not divide evenly (see plan.py).
// Each thread has the rest behind its own columns. Kernels that do little work do all of it; linears
// and attention do a part of the rows, and give that to the others. A wait follows.
#pragma once
#include "tiles.h"

namespace sc {

// Copies rows [row0, row1) of the rest, whose columns here begin at `first`, to the other threads.
inline void give_rest(const Rest& rest, float* y, int64_t ldy, int64_t row0, int64_t row1,
                      int64_t first) {
  for (int id = 0; id < rest.size; id++) {
    if (id == rest.id) continue;
    const int64_t away = (id - rest.id) * rest.stride + first;
    for (int64_t row = row0; row < row1; row++)
      for (int64_t j = 0; j < rest.columns; j += W)
        store(y + row * ldy + away + j, load(y + row * ldy + first + j));
  }
}

// Calls apply(share) for what this thread computes of y: its part of the team's; or where there is
// a rest, every row of its own columns, and its part of the rows of the rest.
template <class Apply>
SC_INLINE void for_each_share(const Team& team, const PackedHeader* h, int64_t n, float* y,
                              int64_t ldy, const Apply& apply) {
  const Rest& rest = team.rest;
  if (rest.columns == 0) {
    const Share share = divide(team, h, vectors(n));
    const Stint stint(team, work_in(h, share));
    return apply(share);
  }
  const int64_t first = n - rest.columns, blocks = h->blocks();
  const WorkPrefix work = work_of(h);
  const int64_t b0 = work.cut(rest.id, rest.size), b1 = work.cut(rest.id + 1, rest.size);
  const int64_t narrow = first / W, wide = vectors(n);
  for (int64_t t = 0; t < h->tiles(); t++) {  // what they all read of x stays in cache
    apply(Share{0, b0, 0, narrow, 0, 1, t, t + 1});
    apply(Share{b0, b1, 0, wide, 0, 1, t, t + 1, b0 > 0 ? narrow : 0});
    apply(Share{b1, blocks, 0, narrow, 0, 1, t, t + 1});
  }
  const int64_t row0 = b0 * h->row_block, row1 = min64(b1 * h->row_block, h->rows);
  if (!h->order_at) return give_rest(rest, y, ldy, row0, row1, first);
  const int32_t* order = section<int32_t>(h, h->order_at);
  for (int64_t row = row0; row < row1; row++)
    give_rest(rest, y, ldy, order[row], order[row] + 1, first);
}

}  // namespace sc
