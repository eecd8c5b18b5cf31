// Packs, unpacks and checks dense blobs (pack.h), and refers to dense weights where they lie.
#include "pack_common.h"

namespace sc::dense {

static void lay_out(PackedHeader& h) {
  h.nnz = h.rows * h.cols;
  h.prefix_at = h.segment_at = h.row_at = h.index_at = 0;
  h.value_at = sizeof(PackedHeader);
  // A kernel may load a whole vector where a block's last row begins.
  h.bytes = align64(h.value_at + h.blocks() * h.row_block * h.cols * value_bytes(h.values) + 16);
}

static int64_t bytes_of(const Matrix& m, const Tiles& tiles) {
  if (!valid_sizes(m.M, m.K, tiles)) return 0;
  PackedHeader h = header(kDense, m.M, m.K, tiles);
  lay_out(h);
  return h.bytes;
}

static void pack_one(const Matrix& m, const Tiles& tiles, void* out) {
  PackedHeader h = header(kDense, m.M, m.K, tiles);
  lay_out(h);
  auto* base = static_cast<char*>(out);
  std::memcpy(base, &h, sizeof h);
  const int64_t rows = h.row_block, blocks = h.blocks(), padded = blocks * rows;
  const int64_t end = h.value_at + padded * m.K * value_bytes(h.values);
  std::memset(base + end, 0, h.bytes - end);
  std::vector<float> column(rows);
  for (int64_t b = 0; b < blocks; b++)
    for (int64_t t = 0; t < h.tiles(); t++) {
      const int64_t k0 = t * h.k_tile, depth = std::min<int64_t>(h.k_tile, m.K - k0);
      const int64_t to = k0 * padded + b * rows * depth;
      for (int64_t k = 0; k < depth; k++) {
        for (int64_t r = 0; r < rows; r++) {
          const int64_t row = b * rows + r;
          column[r] = row < m.M ? m.w[row * m.ldw + k0 + k] : 0.f;
        }
        write_numbers(base + h.value_at, h.values, to + k * rows, column.data(), rows);
      }
    }
}

static void unpack_one(const PackedHeader* h, float* w_out) {
  const auto* value = section<char>(h, h->value_at);
  const int64_t padded = h->blocks() * h->row_block;
  for (int64_t m = 0; m < h->rows; m++)
    for (int64_t k = 0; k < h->cols; k++) {
      const int64_t k0 = k / h->k_tile * h->k_tile, r = m % h->row_block;
      const int64_t depth = std::min<int64_t>(h->k_tile, h->cols - k0);
      const int64_t at = k0 * padded + (m - r) * depth + (k - k0) * h->row_block + r;
      w_out[m * h->cols + k] = read_number(value, h->values, at);
    }
}

// Calls each(block, piece, row of the piece) for row blocks that lie inside one piece, and
// copied(block) for others. Gives the number of rows; 0 where a piece has none.
template <class Each, class Copied>
static int64_t for_each_block(const int64_t* rows, int64_t pieces, int row_block, const Each& each,
                              const Copied& copied) {
  int64_t total = 0, block = 0;
  for (int64_t i = 0; i < pieces; i++) {
    if (rows[i] < 1 || rows[i] >= kMaxSide) return 0;
    const int64_t begin = total;
    total += rows[i];
    for (; (block + 1) * row_block <= total; block++) {
      const int64_t row = block * row_block - begin;
      if (row >= 0) each(block, i, row);
      else copied(block);
    }
  }
  if (total % row_block) copied(block);
  return total;
}

}  // namespace sc::dense

extern "C" {

int64_t sc_dense_bytes(const sc::Matrix* matrix, const sc::Tiles* tiles) {
  return sc::grouped_bytes(*matrix, *tiles, sc::dense::bytes_of);
}

int sc_dense_pack(const sc::Matrix* matrix, const sc::Tiles* tiles, void* out) {
  return sc::grouped_pack(*matrix, *tiles, out, sc::dense::bytes_of, sc::dense::pack_one);
}

void sc_dense_unpack(const void* packed, float* w_out) {
  sc::unpack_groups(packed, w_out, sc::dense::unpack_one);
}

int sc_dense_check(const void* packed, int64_t bytes, int width) {
  return sc::check_groups(packed, bytes, [&](const void* one, int64_t left) {
    if (!sc::header_ok(one, left, sc::kDense)) return false;
    sc::PackedHeader expected = *static_cast<const sc::PackedHeader*>(one);
    if (expected.row_block != sc::dense_rows(width)) return false;
    sc::dense::lay_out(expected);
    return std::memcmp(&expected, one, sizeof expected) == 0;
  });
}

void sc_dense_tiles(const sc::Layer* layer, sc::Tiles* tiles) {
  // What serves best with few registers are few passes: each loads and stores all sums again.
  const int64_t most = layer->taps > 1 ? 640 : layer->taps && layer->width == 8 ? 512 : 384;
  tiles->k_tile = int(std::min(layer->K, most));
  if (layer->taps > 0) tiles->k_tile = sc::whole_channels(most, layer->K, layer->taps);
  tiles->panel_vectors = layer->width == 4 ? 3 : 2;
  tiles->row_block = sc::dense_rows(layer->width);
}

int64_t sc_rows_packed_bytes(const int64_t* rows, int64_t pieces, int64_t K, int row_block) {
  if (K < 1 || K >= sc::kMaxSide || row_block < 1 || row_block > sc::kMaxRowBlock) return 0;
  int64_t copies = 0;
  const int64_t M = sc::dense::for_each_block(
      rows, pieces, row_block, [](int64_t, int64_t, int64_t) {}, [&](int64_t) { copies++; });
  if (M == 0) return 0;
  const int64_t blocks = (M + row_block - 1) / row_block;
  return sc::align64(int64_t(sizeof(sc::PackedHeader)) + blocks * 8) +
         sc::align64(copies * row_block * K * 4);
}

int sc_rows_pack(const float* const* piece, const int64_t* rows, int64_t pieces, int64_t K,
                 int k_tile, int panel_vectors, int row_block, void* out) {
  const int64_t bytes = sc_rows_packed_bytes(rows, pieces, K, row_block);
  const sc::Tiles tiles{k_tile, panel_vectors, row_block, 0, 0, sc::kF32};
  int64_t M = 0;
  for (int64_t i = 0; i < pieces; i++) M += rows[i];
  if (bytes == 0 || !sc::valid_sizes(M, K, tiles)) return 0;
  sc::PackedHeader h = sc::header(sc::kRows, M, K, tiles);
  h.nnz = M * K;
  h.prefix_at = sizeof(sc::PackedHeader);
  h.value_at = sc::align64(h.prefix_at + h.blocks() * 8);
  h.bytes = bytes;
  auto* base = static_cast<char*>(out);
  std::memset(base, 0, bytes);
  std::memcpy(base, &h, sizeof h);
  auto* place = reinterpret_cast<int64_t*>(base + h.prefix_at);
  auto* copy = reinterpret_cast<float*>(base + h.value_at);
  const auto there = [&](int64_t block, int64_t i, int64_t row) {
    place[block] = reinterpret_cast<const char*>(piece[i] + row * K) - base;
  };
  sc::dense::for_each_block(rows, pieces, row_block, there, [&](int64_t block) {
    place[block] = reinterpret_cast<const char*>(copy) - base;
    int64_t i = 0, begin = 0;
    for (int64_t m = block * row_block; m < std::min(M, (block + 1) * row_block); m++) {
      while (m >= begin + rows[i]) begin += rows[i++];
      std::memcpy(copy + (m - block * row_block) * K, piece[i] + (m - begin) * K, K * 4);
    }
    copy += row_block * K;
  });
  return 1;
}
}
