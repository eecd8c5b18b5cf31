// What the linear kernels share: who does which rows and columns, and panels of x copied to L1/L2.
//
//   for a group of panels:  for a k tile:  copy the panels
//     for a group of row blocks whose weights fit L2:  for each panel:  multiply
//
// so that weights come from memory once per group of panels, whatever the number of columns.
#pragma once
#include "decode.h"
#include "onto.h"
#include "pack.h"
#include "team.h"

namespace sc {

// Floats of scratch, 64-byte aligned, that each thread must bring.
inline int64_t linear_scratch_floats(const void* packed) {
  if (is_decode(packed)) return decode_scratch_floats(packed);
  return applied_floats(static_cast<const PackedHeader*>(packed), W);
}

// Fetches what an epilogue will read at (row, col), where it has operands in planes and says so.
template <class Epilogue>
SC_INLINE auto fetch_operands(const Epilogue& e, int64_t row, int64_t col, int)
    -> decltype(e.fetch(row, col)) {
  e.fetch(row, col);
}
template <class Epilogue>
SC_INLINE void fetch_operands(const Epilogue&, int64_t, int64_t, long) {}

// Fetches the NB vectors of y at `out`, (row, col), and with `last` what the epilogue adds to them:
// rows are a page or so apart, and those of sparse weights out of order, so no hardware does it.
// Without `sums` nothing is read from y: whole lines stored over it need no fetch.
template <int NB, class Epilogue>
SC_INLINE void fetch_output(const float* out, const Epilogue& epilogue, int64_t row, int64_t col,
                            bool last, bool sums = true) {
#pragma GCC unroll 16
  for (int j = 0; j < NB * W; j += 16) {
    if (sums) __builtin_prefetch(out + j, 1);
    if (last) fetch_operands(epilogue, row, col + j, 0);
  }
}

// One thread's rectangle of the output: row blocks [block0, block1) of groups [group0, group1),
// vectors [vector0, vector1). k tiles [tile0, tile1): the others add to the same sums.
struct Share {
  int64_t block0, block1, vector0, vector1;
  int64_t group0 = 0, group1 = 1;
  int64_t tile0 = 0, tile1 = INT64_MAX;
  int64_t copied = 0;  // vector1 of the share before, if scratch holds its panels of this tile
  bool opens = true, closes = true;  // no other weight adds to the sums before, or after

  // Whether k tile t begins the sums from nothing, or ends them.
  template <class Epilogue>
  bool first(int64_t t) const {
    return opens && t == 0 && !kOnto<Epilogue>;
  }
  bool last(const PackedHeader* h, int64_t t) const { return closes && t == h->tiles() - 1; }
};

// What a share of a weight does, in multiply-adds of vectors.
inline double work_in(const PackedHeader* h, const Share& share) {
  const double rows = double(share.block1 - share.block0) / double(h->blocks());
  return rows * double((share.group1 - share.group0) * h->nnz * (share.vector1 - share.vector0));
}

// Work before row block b: its non-zeros, and two for each row and tile (load, store, branch).
struct WorkPrefix {
  const int64_t* nnz;  // null: every block is alike
  int64_t blocks, rows_per_block, tiles;

  int64_t at(int64_t b) const {
    return nnz ? nnz[b] + 2 * tiles * b * rows_per_block : b;
  }
  // The first block at or after part i of n.
  int64_t cut(int64_t i, int64_t n) const { return i == n ? blocks : block_at(at(blocks) * i / n); }
  // As Team::cut.
  int64_t cut(const Team& team, int64_t i, int64_t n) const {
    return i == n ? blocks : block_at(team.cut(i, n, at(blocks)));
  }

 private:
  int64_t block_at(int64_t want) const {
    int64_t low = 0, high = blocks;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (at(middle) < want) low = middle + 1;
      else high = middle;
    }
    // Of the two blocks around the cut, the nearer.
    return low > 0 && want - at(low - 1) < at(low) - want ? low - 1 : low;
  }
};

SC_INLINE WorkPrefix work_of(const PackedHeader* h) {
  return {counts_work(h) ? section<int64_t>(h, h->prefix_at) : nullptr, h->blocks(), h->row_block,
          h->tiles()};
}

// The team as a grid of row parts x column parts: as many row parts as there are row blocks for.
// Each weight is then read by one core. Column parts cost more than they save: neighbours write
// halves of the same rows of y, and each core's prefetcher fetches the other's lines (measured on
// 384 x 1536, 90 % zeros, 128 columns, two threads: 105 us in columns, 68 us in rows).
SC_INLINE Share divide(const Team& team, const PackedHeader* h, int64_t n_vectors) {
  const int64_t blocks = h->blocks();
  const WorkPrefix work = work_of(h);
  int64_t row_parts = team.size;
  while (row_parts > 1 && (row_parts > blocks || team.size % row_parts)) row_parts--;
  const int64_t column_parts = team.size / row_parts;
  const int64_t column = team.id % column_parts, row = team.id / column_parts;
  return {work.cut(team, row, row_parts), work.cut(team, row + 1, row_parts),
          n_vectors * column / column_parts, n_vectors * (column + 1) / column_parts};
}

// [first, last) divided into the fewest panels of at most `widest` vectors, as even as can be; with
// `alone` the last vector is a panel of its own.
struct Panels {
  int64_t first, last, even, count;

  Panels(int64_t first, int64_t last, int64_t widest, bool alone)
      : first(first), last(last - alone), even((last - alone - first + widest - 1) / widest),
        count(even + alone) {}
  int64_t start(int64_t p) const {
    return p < even ? first + (last - first) * p / even : last + p - even;
  }
  // Whether one of them is [v0, v1).
  bool has(int64_t v0, int64_t v1) const {
    int64_t p = 0;
    while (p < count && start(p) < v0) p++;
    return p < count && start(p) == v0 && start(p + 1) == v1;
  }
};

// A panel source: row k of the panel is row k of x. Others (window.h) compute their rows.
//   prepare(place, v0, v1)           once for each panel, before its tiles; place: vectors of the
//                                    panels of this group that lie before it
//   copy(g, k0, rows, place, v0, v1, out)
//                                    rows [k0, k0 + rows) of group g, vectors [v0, v1), densely
struct PlainRows {
  const float* x;  // its planes are a page or so apart: hence the copy
  int64_t ldx;
  int64_t group_rows = 0;

  SC_INLINE void prepare(int64_t, int64_t, int64_t) const {}
  SC_INLINE void copy(int64_t g, int64_t k0, int64_t rows, int64_t, int64_t v0, int64_t v1,
                      float* out) const {
    const float* from = x + (g * group_rows + k0) * ldx;
    const int64_t wide = v1 - v0;
    for (int64_t k = 0; k < rows; k++)
      for (int64_t j = 0; j < wide; j++)
        store(out + (k * wide + j) * W, load(from + k * ldx + (v0 + j) * W));
  }
};

// The packed matrix of group g: they lie one behind the other.
SC_INLINE const PackedHeader* next_group(const PackedHeader* h) {
  return section<PackedHeader>(h, h->bytes);
}

// Calls tile(header of the group, g, k tile, rows of its panels, panels, p0, p1) for each k tile of each
// group of the weight, for each group of panels [p0, p1), which then lie in scratch.
template <class Source, class Tile>
SC_INLINE void for_each_tile(const PackedHeader* h, const Share& share, const Source& source,
                             float* scratch, int64_t widest, bool alone, const Tile& tile) {
  if (share.block0 == share.block1 || share.vector0 == share.vector1) return;
  const int64_t panel = min64(widest, h->panel_vectors);
  const Panels all(share.vector0, share.vector1, panel, alone);
  const int64_t group = group_vectors(h, W) / panel;  // panels copied at a time
  const int64_t copied = all.count > group ? share.vector0 : share.copied;
  const Panels before(share.vector0, copied, panel, false);
  for (int64_t g = 0; g < share.group0; g++) h = next_group(h);
  for (int64_t p0 = 0; p0 < all.count; p0 += group) {
    const int64_t p1 = min64(all.count, p0 + group), v0 = all.start(p0);
    for (int64_t p = p0; p < p1; p++)
      source.prepare(all.start(p) - v0, all.start(p), all.start(p + 1));
    const PackedHeader* own = h;
    for (int64_t g = share.group0; g < share.group1; g++, own = next_group(own))
      for (int64_t t = share.tile0; t < min64(share.tile1, h->tiles()); t++) {
        const int64_t k0 = t * h->k_tile, rows = min64(h->k_tile, h->cols - k0);
        const int64_t depth = panel_rows(h, rows);
        for (int64_t p = p0; p < p1; p++) {
          const int64_t place = all.start(p) - v0;
          if (before.has(all.start(p), all.start(p + 1))) continue;
          source.copy(g, k0, rows, place, all.start(p), all.start(p + 1),
                      scratch + place * depth * W);
        }
        tile(own, g, t, depth, all, p0, p1);
      }
  }
}

}  // namespace sc
