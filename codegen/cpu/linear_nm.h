// y = epilogue(W x), W with N numbers in each group of M columns (nm blob), x and y planar.
// The packed indices of a row block become 16-bit ones once, in scratch, and serve all panels
// there; from then on it is the csr kernel, on rows of one length. (Rows as lanes, each picking its
// number of a group by a shuffle, is slower: shuffles go at half the speed of multiply-adds.)
#pragma once
#include "linear_csr.h"

namespace sc {

typedef uint32_t Fields __attribute__((vector_size(64), may_alias));
typedef uint16_t NmIndices __attribute__((vector_size(32), aligned(2), may_alias));
constexpr int kFields = 16;  // of a word, at a time

// Row entries of a row block, then its indices.
struct NmScratch {
  RowEntry* row;
  uint16_t* first;  // of the group of each entry
  uint16_t* index;

  NmScratch(const PackedHeader* h, float* memory) {
    row = reinterpret_cast<RowEntry*>(memory);
    first = reinterpret_cast<uint16_t*>(row + h->row_block);
    index = first + NmShape(h).words(0, 1) * NmShape(h).per_word + kFields;
  }
};

// `rows` rows of `entries` indices each, from words whose fields count from `first`. Writes 16 at a
// time: what is right comes over what is too many, and there is room at the end.
template <int bits>
inline void expand_fields(const uint32_t* words, int64_t rows, int64_t entries,
                          const uint16_t* first, uint16_t* out) {
  constexpr int per_word = 32 / bits;
  Fields shift;
  for (int i = 0; i < kFields; i++) shift[i] = i < per_word ? uint32_t(i * bits) : 0;
  for (int64_t r = 0; r < rows; r++, out += entries)
    for (int64_t e = 0; e < entries; e += per_word) {
      const uint32_t word = *words++;
#pragma GCC unroll 2
      for (int i = 0; i < per_word; i += kFields) {
        const Fields field = (word - Fields{}) >> (shift + uint32_t(i * bits)) & ((1u << bits) - 1);
        *(NmIndices*)(out + e + i) = *(const NmIndices*)(first + e + i) +
                                   __builtin_convertvector(field, NmIndices);
      }
    }
}

template <int bits = 1>
SC_INLINE auto field_expander(int64_t wanted) -> decltype(&expand_fields<1>) {
  if constexpr (bits < 5)
    if (wanted != bits) return field_expander<bits + 1>(wanted);
  return expand_fields<bits>;
}

// One thread's share. Rows of y and of the epilogue count through all groups.
template <class T = float, class Source, class Epilogue>
SC_INLINE void apply_nm(const PackedHeader* h, const Share& share, const Source& source, float* y,
                        int64_t ldy, float* scratch, const Epilogue& epilogue) {
  const NmScratch own_scratch(h, scratch + group_vectors(h, W) * min64(h->k_tile, h->cols) * W);
  const NmShape whole(h);
  const auto expand = field_expander(whole.bits);
  for (int64_t e = 0; e < whole.words(0, 1) * whole.per_word + kFields; e++)
    own_scratch.first[e] = uint16_t(e / h->p * h->q);
  for_each_tile(h, share, source, scratch, kCsrPanel, false,
                [&](const PackedHeader* own, int64_t g, int64_t t, int64_t rows,
                    const Panels& panels, int64_t p0, int64_t p1) {
    const NmShape shape(own);
    const int64_t entries = shape.entries(t, t + 1);
    for (int64_t r = 0; r < own->row_block; r++)
      own_scratch.row[r] = {uint16_t(r), uint16_t(entries)};
    for (int64_t b = share.block0; b < share.block1; b++) {
      const int64_t row0 = b * own->row_block, height = min64(own->row_block, own->rows - row0);
      const auto* words = section<uint32_t>(own, own->index_at) + shape.word_at(t, row0);
      const auto* value = section<T>(own, own->value_at) + shape.number_at(t, row0);
      expand(words, height, entries, own_scratch.first, own_scratch.index);
      for (int64_t p = p0; p < p1; p++) {
        const int64_t v = panels.start(p), wide = panels.start(p + 1) - v;
        const CsrSegment<T> s{own_scratch.row, height, own_scratch.index, value,
                              rows_ahead(entries * height, height, wide)};
        csr_kernel<Epilogue, T>(wide)(s, scratch + (v - panels.start(p0)) * rows * W, y, ldy,
                                      g * own->rows + row0, v * W, share.first<Epilogue>(t),
                                      share.last(own, t), epilogue);
      }
    }
  });
}

// As linear_csr.
template <class T = float, class Epilogue>
void linear_nm(Team& team, const void* packed_weight, const float* x, int64_t ldx, float* y,
               int64_t ldy, int64_t n, float* scratch, const Epilogue& epilogue) {
  if (is_decode(packed_weight))
    return decode_planes(team, packed_weight, x, ldx, y, ldy, n, scratch, epilogue);
  const auto* h = static_cast<const PackedHeader*>(packed_weight);
  for_each_share(team, h, n, y, ldy, [&](const Share& share) {
    apply_nm<T>(h, share, PlainRows{x, ldx}, y, ldy, scratch, epilogue);
  });
}

}  // namespace sc
