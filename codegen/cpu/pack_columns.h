// csr blobs of 3 x 3 kernels, by columns of the kernel (p = 3): the non-zeros of a row of a tile
// stand dx by dx, each dx padded with zeros to a multiple of four, so that a kernel has no rests.
// conv_bands.h walks them so; as rows of a panel (window.h) they are like any others.
#pragma once
#include "pack_common.h"

namespace sc::columns {

// Non-zeros of k numbers (whole channels) under each dx, padded.
inline void count(const float* w, int64_t k, uint16_t (&counts)[3]) {
  int64_t found[3] = {};
  for (int64_t i = 0; i < k; i += 3)
    for (int d = 0; d < 3; d++) found[d] += w[i + d] != 0;
  for (int d = 0; d < 3; d++) counts[d] = uint16_t((found[d] + 3) / 4 * 4);
}

inline int64_t total(const PackedHeader& h, const Matrix& m) {
  int64_t numbers = 0;
  for (int64_t r = 0; r < m.M; r++)
    for (int64_t k0 = 0; k0 < m.K; k0 += h.k_tile) {
      uint16_t counts[3];
      count(m.w + r * m.ldw + k0, std::min<int64_t>(h.k_tile, m.K - k0), counts);
      numbers += counts[0] + counts[1] + counts[2];
    }
  return numbers;
}

// Entries and counts of the rows of one (tile, block), sorted so that runs of equal counts predict
// well: by the first dx, then the second, then the third.
inline void sort_rows(const Matrix& m, int64_t row0, int64_t rows, int64_t k0, int64_t k,
                      RowEntry* entry, uint16_t* counts) {
  struct Row {
    uint16_t row, counts[3];
  };
  std::vector<Row> all(rows);
  for (int64_t r = 0; r < rows; r++) {
    all[r].row = uint16_t(r);
    count(m.w + (row0 + r) * m.ldw + k0, k, all[r].counts);
  }
  std::stable_sort(all.begin(), all.end(), [](const Row& a, const Row& b) {
    return std::lexicographical_compare(b.counts, b.counts + 3, a.counts, a.counts + 3);
  });
  for (int64_t r = 0; r < rows; r++) {
    std::copy(all[r].counts, all[r].counts + 3, counts + 3 * r);
    entry[r] = {all[r].row, uint16_t(counts[3 * r] + counts[3 * r + 1] + counts[3 * r + 2])};
  }
}

// The numbers of one row of a tile and their rows of the panel. A padding zero repeats the row
// before it (of a dx that has any, as its count is not 0).
inline void gather_row(const PackedHeader& h, const float* w, int64_t k,
                       std::vector<uint16_t>& indices, std::vector<float>& values) {
  int64_t at = 0;
  for (int64_t dx = 0; dx < 3; dx++) {
    for (int64_t dy = 0; dy < 3; dy++)
      for (int64_t c = 0; c * 9 < k; c++) {
        indices[at] = uint16_t(panel_row(&h, c, 3 * dy + dx));
        values[at] = w[c * 9 + 3 * dy + dx];
        at += values[at] != 0;
      }
    for (; at % 4; at++) indices[at] = indices[at - 1], values[at] = 0;
  }
}

// The column of the tile that a row of the panel belongs to; -1 if none does.
inline int64_t column_of(const PackedHeader* h, int64_t row, int64_t k) {
  const int64_t step = h->k_tile / 9 + 1, c = row % step, place = row / step;
  return place < 9 && c * 9 < k ? c * 9 + place % 3 * 3 + place / 3 : -1;
}

// One row of a tile: counts that add up, and every index under its dx.
inline bool row_ok(const PackedHeader* h, const RowEntry& entry, const uint16_t* counts,
                   const uint16_t* index, int64_t k) {
  if (int64_t(counts[0]) + counts[1] + counts[2] != entry.count) return false;
  for (int64_t dx = 0; dx < 3; index += counts[dx++]) {
    if (counts[dx] % 4) return false;
    for (int64_t i = 0; i < counts[dx]; i++) {
      const int64_t column = column_of(h, index[i], k);
      if (column < 0 || column % 3 != dx) return false;
    }
  }
  return true;
}

}  // namespace sc::columns
