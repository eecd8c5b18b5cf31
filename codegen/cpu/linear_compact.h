// y = epilogue(W x), W without its zero rows or columns (compact blob), x and y planar.
// The block kernel with one list of columns for all rows: four rows share each loaded vector of x,
// and the store writes each row where it belongs.
#pragma once
#include "linear_block.h"

namespace sc {

// One (k tile, row block) times one panel: `live` rows of `count` columns, then zero rows. o: of the
// first row, or with an order, whose part for the row block begins at `order`, of the matrix.
template <class T, class Epilogue>
SC_INLINE void compact_segment(const uint16_t* index, int64_t count, const T* value, int64_t live,
                               const float* x, int64_t wide, const DenseOutput& o,
                               const int32_t* order, const Epilogue& epilogue) {
  const auto four = block_kernel<kBlockRows, 1, T, Epilogue>(wide);
  const auto one = block_kernel<1, 1, T, Epilogue>(wide);
  for (int64_t r = 0, rows; r < o.rows; r += rows) {
    const bool single = r < live && live - r < kBlockRows, dead = r >= live;
    rows = single ? 1 : min64(kBlockRows, o.rows - r);
    const DenseOutput out{o.y, o.ldy, order ? o.row : o.row + r, rows, o.col, o.first, o.last};
    (single ? one : four)(index, value, dead ? 0 : count, x, wide * W, out,
                          order ? order + r : nullptr, epilogue);
    value += dead ? 0 : rows * count;
  }
}

// One thread's share. Rows of y and of the epilogue count through all groups.
template <class T = float, class Source, class Epilogue>
SC_INLINE void apply_compact(const PackedHeader* h, const Share& share, const Source& source,
                             float* y, int64_t ldy, float* scratch, const Epilogue& epilogue) {
  for_each_tile(h, share, source, scratch, kBlockPanel<kBlockRows, 1>, false,
                [&](const PackedHeader* own, int64_t g, int64_t t, int64_t rows,
                    const Panels& panels, int64_t p0, int64_t p1) {
    const int64_t* segment = section<int64_t>(own, own->segment_at) + t;
    const int64_t count = segment[1] - segment[0], all = live_rows(own, 0, own->blocks());
    const auto* index = section<uint16_t>(own, own->index_at) + segment[0];
    const auto* value = section<T>(own, own->value_at) + segment[0] * all;
    const auto* order = own->order_at ? section<int32_t>(own, own->order_at) : nullptr;
    for (int64_t b0 = share.block0, b1; b0 < share.block1; b0 = b1) {
      for (b1 = b0 + 1; b1 < share.block1; b1++)
        if (live_rows(own, b0, b1 + 1) * count * int64_t(sizeof(T)) > kBlockGroupBytes) break;
      for (int64_t p = p0; p < p1; p++) {
        const int64_t v = panels.start(p), wide = panels.start(p + 1) - v;
        for (int64_t b = b0; b < b1; b++) {
          const int64_t row0 = b * own->row_block;
          const DenseOutput out{y, ldy, g * own->rows + (order ? 0 : row0),
                                min64(own->row_block, own->rows - row0), v * W, share.first<Epilogue>(t),
                                share.last(own, t)};
          compact_segment<T>(index, count, value + live_rows(own, 0, b) * count,
                             live_rows(own, b, b + 1),
                             scratch + (v - panels.start(p0)) * rows * W, wide, out,
                             order ? order + row0 : nullptr, epilogue);
        }
      }
    }
  });
}

// As linear_csr.
template <class T = float, class Epilogue>
void linear_compact(Team& team, const void* packed_weight, const float* x, int64_t ldx, float* y,
                    int64_t ldy, int64_t n, float* scratch, const Epilogue& epilogue) {
  if (is_decode(packed_weight))
    return decode_planes(team, packed_weight, x, ldx, y, ldy, n, scratch, epilogue);
  const auto* h = static_cast<const PackedHeader*>(packed_weight);
  for_each_share(team, h, n, y, ldy, [&](const Share& share) {
    apply_compact<T>(h, share, PlainRows{x, ldx}, y, ldy, scratch, epilogue);
  });
}

}  // namespace sc
