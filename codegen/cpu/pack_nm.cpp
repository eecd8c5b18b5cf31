// Packs, unpacks and checks nm blobs (pack.h): at most p numbers in each group of q columns, as p
// entries for each group, so that every row of a tile has as many.
#include "pack_common.h"

namespace sc::nm {

constexpr int kMaxGroup = 32;

static bool valid(const Matrix& m, const Tiles& t) {
  return valid_sizes(m.M, m.K, t) && t.p > 0 && t.q >= t.p && t.q <= kMaxGroup &&
         t.k_tile % t.q == 0;
}

static void lay_out(PackedHeader& h) {
  const NmShape shape(&h);
  h.nnz = h.rows * shape.entries(0, h.tiles());
  h.prefix_at = h.segment_at = h.row_at = 0;
  h.index_at = sizeof(PackedHeader);
  h.value_at = align64(h.index_at + h.rows * shape.words(0, h.tiles()) * 4);
  h.bytes = align64(h.value_at + h.nnz * value_bytes(h.values));
}

static bool fits(const Matrix& m, const Tiles& t) {
  for (int64_t r = 0; r < m.M; r++)
    for (int64_t k = 0; k < m.K; k += t.q)
      if (count_nonzeros(m.w + r * m.ldw + k, std::min<int64_t>(t.q, m.K - k)) > t.p) return false;
  return true;
}

static int64_t bytes_of(const Matrix& m, const Tiles& tiles) {
  if (!valid(m, tiles) || !fits(m, tiles)) return 0;
  PackedHeader h = header(kNm, m.M, m.K, tiles);
  lay_out(h);
  return h.bytes;
}

// Calls each(tile, row, first column of the group, its columns, its first entry in the tile) for
// every group of every row.
template <class Each>
static void for_each_nm_group(const PackedHeader& h, const Each& each) {
  for (int64_t t = 0; t < h.tiles(); t++)
    for (int64_t row = 0; row < h.rows; row++) {
      const int64_t k1 = std::min<int64_t>(h.cols, (t + 1) * h.k_tile);
      int64_t entry = 0;
      for (int64_t k = t * h.k_tile; k < k1; k += h.q, entry += h.p)
        each(t, row, k, std::min<int64_t>(h.q, k1 - k), entry);
    }
}

// The column, within its group, of entry e of a row in a tile.
static int64_t field(const NmShape& shape, int64_t t, int64_t row, int64_t e) {
  const auto* word = section<uint32_t>(shape.h, shape.h->index_at) + shape.word_at(t, row);
  return word[e / shape.per_word] >> e % shape.per_word * shape.bits & (shape.slots - 1);
}

static void pack_one(const Matrix& m, const Tiles& tiles, void* out) {
  PackedHeader h = header(kNm, m.M, m.K, tiles);
  lay_out(h);
  char* base = static_cast<char*>(out);
  std::memset(base, 0, h.bytes);  // an entry without a number: 0 times the group's first column
  std::memcpy(base, &h, sizeof h);
  const NmShape shape(&h);
  auto* index = section<uint32_t>(out, h.index_at);
  for_each_nm_group(h, [&](int64_t t, int64_t row, int64_t k, int64_t wide, int64_t e) {
    const float* w = m.w + row * m.ldw + k;
    for (int64_t i = 0; i < wide; i++) {
      if (w[i] == 0) continue;
      index[shape.word_at(t, row) + e / shape.per_word] |= uint32_t(i)
                                                           << e % shape.per_word * shape.bits;
      write_numbers(base + h.value_at, h.values, shape.number_at(t, row) + e, w + i, 1);
      e++;
    }
  });
}

static void unpack_one(const PackedHeader* h, float* w_out) {
  const NmShape shape(h);
  const auto* value = section<char>(h, h->value_at);
  for_each_nm_group(*h, [&](int64_t t, int64_t row, int64_t k, int64_t, int64_t first) {
    for (int64_t e = first; e < first + h->p; e++) {
      const float w = read_number(value, h->values, shape.number_at(t, row) + e);
      if (w != 0) w_out[row * h->cols + k + field(shape, t, row, e)] = w;
    }
  });
}

static bool blob_ok(const void* packed, int64_t bytes) {
  if (!header_ok(packed, bytes, kNm)) return false;
  const auto* h = static_cast<const PackedHeader*>(packed);
  if (!valid(Matrix{nullptr, h->rows, h->cols, h->cols, 1}, tiles_of(*h))) return false;
  PackedHeader expected = *h;
  lay_out(expected);
  if (std::memcmp(&expected, h, sizeof *h) != 0) return false;
  const NmShape shape(h);
  bool ok = true;
  for_each_nm_group(*h, [&](int64_t t, int64_t row, int64_t, int64_t wide, int64_t first) {
    for (int64_t e = first; e < first + h->p; e++) ok &= field(shape, t, row, e) < wide;
  });
  return ok;
}

static void choose_tiles(const Layer& l, Tiles& tiles) {
  csr_like_tiles(l, tiles.q, tiles);
}

}  // namespace sc::nm

extern "C" {

int64_t sc_nm_bytes(const sc::Matrix* matrix, const sc::Tiles* tiles) {
  return sc::grouped_bytes(*matrix, *tiles, sc::nm::bytes_of);
}

int sc_nm_pack(const sc::Matrix* matrix, const sc::Tiles* tiles, void* out) {
  return sc::grouped_pack(*matrix, *tiles, out, sc::nm::bytes_of, sc::nm::pack_one);
}

void sc_nm_unpack(const void* packed, float* w_out) {
  sc::unpack_groups(packed, w_out, sc::nm::unpack_one);
}

int sc_nm_check(const void* packed, int64_t bytes, int) {
  return sc::check_groups(packed, bytes, sc::nm::blob_ok);
}

void sc_nm_tiles(const sc::Layer* layer, sc::Tiles* tiles) {
  sc::nm::choose_tiles(*layer, *tiles);
}
}
