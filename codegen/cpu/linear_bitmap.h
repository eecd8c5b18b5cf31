// y = epilogue(W x), W sparse with a bit for each weight (bitmap blob), x and y planar.
// The bits of a row block become indices once, in scratch, and serve all panels there; from then on
// it is the csr kernel.
#pragma once
#include "linear_csr.h"

namespace sc {

typedef uint16_t EightIndices __attribute__((vector_size(16), aligned(2), may_alias));

// at[b]: the places of the bits that are set in byte b, then zeros.
struct BitPlaces {
  alignas(16) uint16_t at[256][8] = {};

  constexpr BitPlaces() {
    for (int byte = 0; byte < 256; byte++)
      for (int bit = 0, n = 0; bit < 8; bit++)
        if (byte >> bit & 1) at[byte][n++] = uint16_t(bit);
  }
};
constexpr BitPlaces kBitPlaces;

// A byte at a time, by table: a loop over the bits set takes 2.5 times as long. Writes up to 8
// indices behind the last.
SC_INLINE uint16_t* expand_bits(uint64_t bits, int64_t first, uint16_t* out) {
#pragma GCC unroll 8
  for (int i = 0; i < 64; i += 8) {
    const unsigned byte = bits >> i & 255;
    *(EightIndices*)out = *(const EightIndices*)kBitPlaces.at[byte] + uint16_t(first + i);
    out += __builtin_popcount(byte);
  }
  return out;
}

// One thread's share. Rows of y and of the epilogue count through all groups.
template <class T = float, class Source, class Epilogue>
SC_INLINE void apply_bitmap(const PackedHeader* h, const Share& share, const Source& source,
                            float* y, int64_t ldy, float* scratch, const Epilogue& epilogue) {
  auto* index = reinterpret_cast<uint16_t*>(scratch + group_vectors(h, W) *
                                                          min64(h->k_tile, h->cols) * W);
  for_each_tile(h, share, source, scratch, kCsrPanel, false,
                [&](const PackedHeader* own, int64_t g, int64_t t, int64_t rows,
                    const Panels& panels, int64_t p0, int64_t p1) {
    const auto* row = section<RowEntry>(own, own->row_at) + t * own->rows;
    const auto* value = section<T>(own, own->value_at);
    const int64_t* start = section<int64_t>(own, own->segment_at) + t * own->blocks();
    const int64_t words = (rows + 63) / 64;
    const auto* mask = section<uint64_t>(own, own->index_at) + bitmap_words(own, t) * own->rows;
    for (int64_t b = share.block0; b < share.block1; b++) {
      const int64_t row0 = b * own->row_block, height = min64(own->row_block, own->rows - row0);
      uint16_t* end = index;
      for (int64_t i = 0; i < height * words; i++)
        end = expand_bits(mask[row0 * words + i], i % words * 64, end);
      for (int64_t p = p0; p < p1; p++) {
        const int64_t v = panels.start(p), wide = panels.start(p + 1) - v;
        const CsrSegment<T> s{row + row0, height, index, value + start[b],
                              rows_ahead(start[b + 1] - start[b], height, wide)};
        csr_kernel<Epilogue, T>(wide)(s, scratch + (v - panels.start(p0)) * rows * W, y, ldy,
                                      g * own->rows + row0, v * W, share.first<Epilogue>(t), t == own->tiles() - 1,
                                      epilogue);
      }
    }
  });
}

// As linear_csr.
template <class T = float, class Epilogue>
void linear_bitmap(Team& team, const void* packed_weight, const float* x, int64_t ldx, float* y,
                   int64_t ldy, int64_t n, float* scratch, const Epilogue& epilogue) {
  if (is_decode(packed_weight))
    return decode_planes(team, packed_weight, x, ldx, y, ldy, n, scratch, epilogue);
  const auto* h = static_cast<const PackedHeader*>(packed_weight);
  for_each_share(team, h, n, y, ldy, [&](const Share& share) {
    apply_bitmap<T>(h, share, PlainRows{x, ldx}, y, ldy, scratch, epilogue);
  });
}

}  // namespace sc
