// Packs, unpacks and checks bitmap blobs (pack.h): the non-zeros of each row of each tile, and a
// bit for each of its columns.
#include "pack_common.h"

namespace sc::bitmap {

static bool valid(const Matrix& m, const Tiles& t) {
  return valid_sizes(m.M, m.K, t) && t.k_tile % 64 == 0;
}

static void lay_out(PackedHeader& h, int64_t nnz) {
  h.nnz = nnz;
  h.prefix_at = sizeof(PackedHeader);
  h.segment_at = align64(h.prefix_at + (h.blocks() + 1) * 8);
  h.row_at = align64(h.segment_at + (h.tiles() * h.blocks() + 1) * 8);
  h.index_at = align64(h.row_at + h.tiles() * h.rows * int64_t(sizeof(RowEntry)));
  h.value_at = align64(h.index_at + h.rows * bitmap_words(&h, h.tiles()) * 8);
  h.bytes = align64(h.value_at + nnz * value_bytes(h.values));
}

static int64_t count(const Matrix& m) {
  int64_t nnz = 0;
  for (int64_t r = 0; r < m.M; r++) nnz += count_nonzeros(m.w + r * m.ldw, m.K);
  return nnz;
}

static int64_t bytes_of(const Matrix& m, const Tiles& tiles) {
  if (!valid(m, tiles)) return 0;
  PackedHeader h = header(kBitmap, m.M, m.K, tiles);
  lay_out(h, count(m));
  return h.bytes;
}

static void pack_one(const Matrix& m, const Tiles& tiles, void* out) {
  PackedHeader h = header(kBitmap, m.M, m.K, tiles);
  lay_out(h, count(m));
  char* base = static_cast<char*>(out);
  std::memset(base, 0, h.bytes);
  std::memcpy(base, &h, sizeof h);
  auto* segment = section<int64_t>(out, h.segment_at);
  auto* entry = section<RowEntry>(out, h.row_at);
  auto* mask = section<uint64_t>(out, h.index_at);
  int64_t at = 0;
  std::vector<float> values(h.k_tile + 1);
  for (int64_t t = 0, s = 0; t < h.tiles(); t++) {
    const int64_t k0 = t * h.k_tile, depth = std::min<int64_t>(h.k_tile, m.K - k0);
    for (int64_t row0 = 0; row0 < m.M; row0 += h.row_block, s++) {
      const int64_t rows = std::min<int64_t>(h.row_block, m.M - row0);
      RowEntry* mine = entry + t * m.M + row0;
      for (int64_t r = 0; r < rows; r++)
        mine[r] = {uint16_t(r), uint16_t(count_nonzeros(m.w + (row0 + r) * m.ldw + k0, depth))};
      sort_rows(mine, rows);
      for (int64_t r = 0; r < rows; r++, mask += (depth + 63) / 64) {
        const float* w = m.w + (row0 + mine[r].row) * m.ldw + k0;
        int64_t n = 0;
        for (int64_t k = 0; k < depth; k++) {
          mask[k / 64] |= uint64_t(w[k] != 0) << k % 64;
          values[n] = w[k];
          n += w[k] != 0;
        }
        write_numbers(base + h.value_at, h.values, at, values.data(), n);
        at += n;
      }
      segment[s + 1] = at;
    }
  }
  sum_blocks(h, segment, section<int64_t>(out, h.prefix_at));
}

static void unpack_one(const PackedHeader* h, float* w_out) {
  const auto* entry = section<RowEntry>(h, h->row_at);
  const auto* mask = section<uint64_t>(h, h->index_at);
  const auto* value = section<char>(h, h->value_at);
  int64_t at = 0;
  for (int64_t t = 0; t < h->tiles(); t++)
    for (int64_t m = 0; m < h->rows; m++, entry++, mask += bitmap_words(h, t + 1) -
                                                           bitmap_words(h, t)) {
      float* row = w_out + (m / h->row_block * h->row_block + entry->row) * h->cols;
      for (int64_t k = t * h->k_tile; k < std::min(h->cols, (t + 1) * h->k_tile); k++) {
        const int64_t i = k - t * h->k_tile;
        if (mask[i / 64] >> i % 64 & 1) row[k] = read_number(value, h->values, at++);
      }
    }
}

static bool blob_ok(const void* packed, int64_t bytes) {
  if (!header_ok(packed, bytes, kBitmap)) return false;
  const auto* h = static_cast<const PackedHeader*>(packed);
  if (h->nnz > h->rows * h->cols || h->k_tile % 64) return false;
  PackedHeader expected = *h;
  lay_out(expected, h->nnz);
  if (std::memcmp(&expected, h, sizeof *h) != 0 || !segments_ok(h, h->nnz)) return false;
  const auto* segment = section<int64_t>(h, h->segment_at);
  const auto* entry = section<RowEntry>(h, h->row_at);
  const auto* mask = section<uint64_t>(h, h->index_at);
  std::vector<char> seen;
  for (int64_t t = 0, s = 0; t < h->tiles(); t++) {
    const int64_t depth = std::min<int64_t>(h->k_tile, h->cols - t * h->k_tile);
    const int64_t words = (depth + 63) / 64;
    const uint64_t outside = depth % 64 ? ~uint64_t(0) << depth % 64 : 0;
    for (int64_t row0 = 0; row0 < h->rows; row0 += h->row_block, s++) {
      const int64_t rows = std::min<int64_t>(h->row_block, h->rows - row0);
      if (!entries_ok(entry, rows, segment[s + 1] - segment[s], seen)) return false;
      for (int64_t r = 0; r < rows; r++, mask += words, entry++) {
        int64_t bits = 0;
        for (int64_t i = 0; i < words; i++) bits += __builtin_popcountll(mask[i]);
        if (bits != entry->count || (mask[words - 1] & outside)) return false;
      }
    }
  }
  return true;
}

static void choose_tiles(const Layer& l, Tiles& tiles) {
  csr_like_tiles(l, 64, tiles);
}

}  // namespace sc::bitmap

extern "C" {

int64_t sc_bitmap_bytes(const sc::Matrix* matrix, const sc::Tiles* tiles) {
  return sc::grouped_bytes(*matrix, *tiles, sc::bitmap::bytes_of);
}

int sc_bitmap_pack(const sc::Matrix* matrix, const sc::Tiles* tiles, void* out) {
  return sc::grouped_pack(*matrix, *tiles, out, sc::bitmap::bytes_of, sc::bitmap::pack_one);
}

void sc_bitmap_unpack(const void* packed, float* w_out) {
  sc::unpack_groups(packed, w_out, sc::bitmap::unpack_one);
}

int sc_bitmap_check(const void* packed, int64_t bytes, int) {
  return sc::check_groups(packed, bytes, sc::bitmap::blob_ok);
}

void sc_bitmap_tiles(const sc::Layer* layer, sc::Tiles* tiles) {
  sc::bitmap::choose_tiles(*layer, *tiles);
}
}
