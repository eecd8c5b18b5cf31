// Packs, unpacks and checks compact blobs (pack.h): all numbers of the rows (p = 1) or columns
// (q = 1) that hold a non-zero. Rows move within their row block only, live ones first.
#include "pack_common.h"

namespace sc::compact {

static bool valid(int64_t M, int64_t K, const Tiles& t) {
  return valid_sizes(M, K, t) && t.p >= 0 && t.q >= 0 && t.p + t.q == 1;
}

static void lay_out(PackedHeader& h, int64_t rows, int64_t columns) {
  h.nnz = rows * columns;
  h.prefix_at = sizeof(PackedHeader);
  h.segment_at = align64(h.prefix_at + (h.blocks() + 1) * 8);
  const int64_t segment_end = align64(h.segment_at + (h.tiles() + 1) * 8);
  h.row_at = 0;
  h.order_at = h.p ? segment_end : 0;
  h.index_at = h.p ? align64(h.order_at + h.rows * 4) : segment_end;
  h.value_at = align64(h.index_at + columns * 2);
  h.bytes = align64(h.value_at + h.nnz * value_bytes(h.values));
}

// What is stored: rows, in order within their row blocks, and columns.
struct Live {
  std::vector<char> row, column;
  int64_t rows = 0, columns = 0;

  explicit Live(const Matrix& m, const Tiles& t) : row(m.M, !t.p), column(m.K, !t.q) {
    for (int64_t r = 0; r < m.M; r++)
      for (int64_t k = 0; k < m.K; k++)
        if (m.w[r * m.ldw + k] != 0) row[r] = column[k] = 1;
    rows = std::count(row.begin(), row.end(), 1);
    columns = std::count(column.begin(), column.end(), 1);
  }
};

static int64_t bytes_of(const Matrix& m, const Tiles& tiles) {
  if (!valid(m.M, m.K, tiles)) return 0;
  PackedHeader h = header(kCompact, m.M, m.K, tiles);
  const Live live(m, tiles);
  lay_out(h, live.rows, live.columns);
  return h.bytes;
}

// Calls each(tile, row as stored, place in the list of columns, place of the number) for all numbers
// in the order of the kernel: four rows at a time, then what is left of a row block one by one.
template <class Each>
static void for_each_number(const PackedHeader* h, const Each& each) {
  const auto* segment = section<int64_t>(h, h->segment_at);
  int64_t number = 0;
  for (int64_t t = 0; t < h->tiles(); t++)
    for (int64_t b = 0; b < h->blocks(); b++) {
      const int64_t rows = live_rows(h, b, b + 1), row0 = b * h->row_block;
      for (int64_t r = 0, group; r < rows; r += group) {
        group = rows - r < kBlockRows ? 1 : kBlockRows;
        for (int64_t i = segment[t]; i < segment[t + 1]; i++)
          for (int64_t j = 0; j < group; j++) each(t, row0 + r + j, i, number++);
      }
    }
}

static void pack_one(const Matrix& m, const Tiles& tiles, void* out) {
  const Live live(m, tiles);
  PackedHeader h = header(kCompact, m.M, m.K, tiles);
  lay_out(h, live.rows, live.columns);
  char* base = static_cast<char*>(out);
  std::memset(base, 0, h.bytes);
  std::memcpy(base, &h, sizeof h);
  auto* segment = section<int64_t>(out, h.segment_at);
  auto* index = section<uint16_t>(out, h.index_at);
  for (int64_t k = 0, at = 0; k < m.K; k++) {
    if (live.column[k]) index[at++] = uint16_t(k % h.k_tile);
    segment[k / h.k_tile + 1] = at;
  }
  auto* prefix = section<int64_t>(out, h.prefix_at);
  std::vector<int64_t> order(m.M);
  for (int64_t b = 0; b < h.blocks(); b++) {
    const int64_t row0 = b * h.row_block, row1 = std::min<int64_t>(row0 + h.row_block, m.M);
    int64_t at = row0;
    for (int alive = 1; alive >= 0; alive--)
      for (int64_t r = row0; r < row1; r++)
        if (live.row[r] == alive) order[at++] = r;
    const int64_t rows = std::count(&live.row[row0], &live.row[row0] + (row1 - row0), 1);
    prefix[b + 1] = prefix[b] + rows * live.columns;
  }
  if (h.p) std::copy(order.begin(), order.end(), section<int32_t>(out, h.order_at));
  for_each_number(static_cast<PackedHeader*>(out), [&](int64_t t, int64_t row, int64_t i,
                                                       int64_t number) {
    const float* w = m.w + order[row] * m.ldw + t * h.k_tile + index[i];
    write_numbers(base + h.value_at, h.values, number, w, 1);
  });
}

static void unpack_one(const PackedHeader* h, float* w_out) {
  const auto* index = section<uint16_t>(h, h->index_at);
  const auto* order = section<int32_t>(h, h->order_at);
  const auto* value = section<char>(h, h->value_at);
  for_each_number(h, [&](int64_t t, int64_t row, int64_t i, int64_t number) {
    const int64_t to = h->order_at ? order[row] : row;
    w_out[to * h->cols + t * h->k_tile + index[i]] = read_number(value, h->values, number);
  });
}

// Columns of each tile in order, inside it.
static bool columns_ok(const PackedHeader* h) {
  const auto* segment = section<int64_t>(h, h->segment_at);
  const auto* index = section<uint16_t>(h, h->index_at);
  for (int64_t t = 0; t < h->tiles(); t++) {
    const int64_t depth = std::min<int64_t>(h->k_tile, h->cols - t * h->k_tile);
    for (int64_t i = segment[t]; i < segment[t + 1]; i++)
      if (index[i] >= depth || (i > segment[t] && index[i] <= index[i - 1])) return false;
  }
  return true;
}

// Each row once, in its own row block; no more of them live than there are.
static bool rows_ok(const PackedHeader* h, int64_t columns) {
  const auto* prefix = section<int64_t>(h, h->prefix_at);
  const auto* order = section<int32_t>(h, h->order_at);
  if (prefix[0] != 0 || prefix[h->blocks()] != h->nnz) return false;
  std::vector<char> seen(h->rows);
  for (int64_t b = 0; b < h->blocks(); b++) {
    const int64_t row0 = b * h->row_block, row1 = std::min<int64_t>(row0 + h->row_block, h->rows);
    const int64_t numbers = prefix[b + 1] - prefix[b];
    if (numbers < 0 || numbers > (row1 - row0) * columns || (columns && numbers % columns))
      return false;
    for (int64_t r = row0; r < row1 && h->order_at; r++)
      if (order[r] < row0 || order[r] >= row1 || seen[order[r]]++) return false;
  }
  return true;
}

static bool blob_ok(const void* packed, int64_t bytes) {
  if (!header_ok(packed, bytes, kCompact)) return false;
  const auto* h = static_cast<const PackedHeader*>(packed);
  if (!valid(h->rows, h->cols, tiles_of(*h))) return false;
  PackedHeader expected = *h;
  lay_out(expected, 0, 0);
  if (h->segment_at != expected.segment_at || expected.bytes > bytes) return false;
  const auto* segment = section<int64_t>(h, h->segment_at);
  const int64_t columns = segment[h->tiles()];
  if (segment[0] != 0 || columns < 0 || columns > h->cols) return false;
  for (int64_t t = 0; t < h->tiles(); t++)
    if (segment[t] > segment[t + 1]) return false;
  if (columns ? h->nnz % columns || h->nnz / columns > h->rows : h->nnz) return false;
  lay_out(expected, columns ? h->nnz / columns : 0, columns);
  return std::memcmp(&expected, h, sizeof expected) == 0 && columns_ok(h) && rows_ok(h, columns);
}

// The kernel is that of blocks of four rows.
static void choose_tiles(const Layer& l, Tiles& tiles) {
  Tiles block = tiles;
  block.p = kBlockRows, block.q = 1;
  sc_block_tiles(&l, &block);
  tiles.k_tile = block.k_tile;
  tiles.panel_vectors = block.panel_vectors;
  tiles.row_block = block.row_block;
}

}  // namespace sc::compact

extern "C" {

int64_t sc_compact_bytes(const sc::Matrix* matrix, const sc::Tiles* tiles) {
  return sc::grouped_bytes(*matrix, *tiles, sc::compact::bytes_of);
}

int sc_compact_pack(const sc::Matrix* matrix, const sc::Tiles* tiles, void* out) {
  return sc::grouped_pack(*matrix, *tiles, out, sc::compact::bytes_of, sc::compact::pack_one);
}

void sc_compact_unpack(const void* packed, float* w_out) {
  sc::unpack_groups(packed, w_out, sc::compact::unpack_one);
}

int sc_compact_check(const void* packed, int64_t bytes, int) {
  return sc::check_groups(packed, bytes, sc::compact::blob_ok);
}

void sc_compact_tiles(const sc::Layer* layer, sc::Tiles* tiles) {
  sc::compact::choose_tiles(*layer, *tiles);
}
}
