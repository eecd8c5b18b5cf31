// Packs, unpacks and checks block blobs (pack.h): p x q rectangles that hold a non-zero, whole; as
// `sorted`, of rows put in an order in which those of like patterns share blocks.
#include "pack_common.h"

#include <cmath>
#include <numeric>

namespace sc::block {

constexpr int kMaxSide = 64;

static bool valid(const Matrix& m, const Tiles& t) {
  return valid_sizes(m.M, m.K, t) && t.p > 0 && t.q > 0 && t.p <= kMaxSide && t.q <= kMaxSide &&
         t.p % block_group(t.p) == 0 && t.row_block % t.p == 0 && t.k_tile % t.q == 0 &&
         m.K % t.q == 0;
}

// Block rows of the row block that begins at row0, of all rows.
static int64_t block_rows(const PackedHeader& h, int64_t row0) {
  return (std::min<int64_t>(h.row_block, h.rows - row0) + h.p - 1) / h.p;
}
static int64_t all_block_rows(const PackedHeader& h) { return (h.rows + h.p - 1) / h.p; }

// order_at: whether there is an order of rows; then where.
static void lay_out(PackedHeader& h, int64_t stored) {
  h.nnz = stored * h.p * h.q;
  h.prefix_at = sizeof(PackedHeader);
  h.segment_at = align64(h.prefix_at + (h.blocks() + 1) * 8);
  const int64_t segment_end = align64(h.segment_at + (h.tiles() * h.blocks() + 1) * 8);
  h.order_at = h.order_at ? segment_end : 0;
  h.row_at = h.order_at ? align64(h.order_at + h.rows * 4) : segment_end;
  h.index_at = align64(h.row_at + h.tiles() * all_block_rows(h) * int64_t(sizeof(RowEntry)));
  h.value_at = align64(h.index_at + stored * 2);
  h.bytes = align64(h.value_at + h.nnz * value_bytes(h.values));
}

// A weight as it is stored: row r is row order[r].
struct Ordered {
  Matrix m;
  std::vector<int32_t> order;

  const float* row(int64_t r) const { return m.w + order[r] * m.ldw; }
};

static Ordered as_it_is(const Matrix& m) {
  Ordered found{m, std::vector<int32_t>(m.M)};
  std::iota(found.order.begin(), found.order.end(), 0);
  return found;
}

// Rows of equal patterns are neighbours, and patterns that begin alike are near; empty rows first.
static Ordered by_pattern(const Matrix& m) {
  Ordered found = as_it_is(m);
  const int64_t words = (m.K + 63) / 64;
  std::vector<uint64_t> bits(m.M * words);
  for (int64_t r = 0; r < m.M; r++)
    for (int64_t k = 0; k < m.K; k++)
      bits[r * words + k / 64] |= uint64_t(m.w[r * m.ldw + k] != 0) << (63 - k % 64);
  std::stable_sort(found.order.begin(), found.order.end(), [&](int32_t a, int32_t b) {
    return std::lexicographical_compare(&bits[a * words], &bits[a * words] + words,
                                        &bits[b * words], &bits[b * words] + words);
  });
  return found;
}

// index: first columns, within the tile, of the blocks of p rows from row on that hold a non-zero.
static void live_blocks(const PackedHeader& h, const Ordered& m, int64_t row, int64_t k0,
                        std::vector<char>& live, std::vector<uint16_t>& index) {
  const int64_t depth = std::min<int64_t>(h.k_tile, h.cols - k0);
  live.assign(depth, 0);
  for (int64_t r = row; r < std::min<int64_t>(row + h.p, h.rows); r++) {
    const float* w = m.row(r) + k0;
    for (int64_t k = 0; k < depth; k++) live[k] |= w[k] != 0;
  }
  index.clear();
  for (int64_t k = 0; k < depth; k += h.q)
    if (std::any_of(&live[k], &live[k] + h.q, [](char c) { return c != 0; }))
      index.push_back(uint16_t(k));
}

// Calls each(tile, row block, block row within it, columns) for all of them, in no order within a
// row block.
template <class Each>
static void for_each_block_row(const PackedHeader& h, const Ordered& m, const Each& each) {
  std::vector<char> live;
  std::vector<uint16_t> index;
  for (int64_t t = 0; t < h.tiles(); t++)
    for (int64_t b = 0; b < h.blocks(); b++)
      for (int64_t r = 0; r < block_rows(h, b * h.row_block); r++) {
        live_blocks(h, m, b * h.row_block + r * h.p, t * h.k_tile, live, index);
        each(t, b, r, index);
      }
}

static int64_t count_blocks(const PackedHeader& h, const Ordered& m) {
  int64_t stored = 0;
  for_each_block_row(h, m, [&](int64_t, int64_t, int64_t, const std::vector<uint16_t>& index) {
    stored += int64_t(index.size());
  });
  return stored;
}

template <bool sorted>
static int64_t bytes_of(const Matrix& m, const Tiles& tiles) {
  if (!valid(m, tiles)) return 0;
  PackedHeader h = header(kBlock, m.M, m.K, tiles);
  h.order_at = sorted;
  lay_out(h, count_blocks(h, sorted ? by_pattern(m) : as_it_is(m)));
  return h.bytes;
}

// The numbers of `count` blocks in the order of the kernel: groups of rows one after the other, in
// each all blocks, column by column.
//   number(row within the block, column within the tile) -> float
template <class Number>
static void order_values(const PackedHeader& h, const uint16_t* index, int64_t count,
                         const Number& number, std::vector<float>& out) {
  const int64_t group = block_group(h.p);
  out.clear();
  for (int64_t first = 0; first < h.p; first += group)
    for (int64_t i = 0; i < count; i++)
      for (int64_t c = 0; c < h.q; c++)
        for (int64_t r = first; r < first + group; r++) out.push_back(number(r, index[i] + c));
}

template <bool sorted>
static void pack_one(const Matrix& given, const Tiles& tiles, void* out) {
  const Ordered m = sorted ? by_pattern(given) : as_it_is(given);
  PackedHeader h = header(kBlock, given.M, given.K, tiles);
  h.order_at = sorted;
  lay_out(h, count_blocks(h, m));
  char* base = static_cast<char*>(out);
  std::memset(base, 0, h.bytes);
  std::memcpy(base, &h, sizeof h);
  if (sorted) std::copy(m.order.begin(), m.order.end(), section<int32_t>(out, h.order_at));
  auto* segment = section<int64_t>(out, h.segment_at);
  auto* entry = section<RowEntry>(out, h.row_at);
  const int64_t block_row_count = all_block_rows(h);
  for_each_block_row(h, m, [&](int64_t t, int64_t b, int64_t r, const auto& index) {
    const int64_t first = b * h.row_block / h.p, s = t * h.blocks() + b;
    RowEntry* mine = entry + t * block_row_count + first;
    if (r == 0) segment[s + 1] = segment[s];
    mine[r] = {uint16_t(r), uint16_t(index.size())};
    segment[s + 1] += int64_t(index.size());
    if (r == block_rows(h, b * h.row_block) - 1) sort_rows(mine, r + 1);
  });
  sum_blocks(h, segment, section<int64_t>(out, h.prefix_at));

  int64_t at = 0;
  std::vector<char> live;
  std::vector<uint16_t> index;
  std::vector<float> values;
  for (int64_t t = 0; t < h.tiles(); t++)
    for (int64_t i = 0; i < block_row_count; i++) {
      const int64_t row0 = i * h.p / h.row_block * h.row_block;
      const int64_t row = row0 + entry[t * block_row_count + i].row * h.p, k0 = t * h.k_tile;
      live_blocks(h, m, row, k0, live, index);
      const auto number = [&](int64_t r, int64_t k) {
        return row + r < h.rows ? m.row(row + r)[k0 + k] : 0.f;
      };
      const int64_t count = int64_t(index.size());
      order_values(h, index.data(), count, number, values);
      std::copy(index.begin(), index.end(), section<uint16_t>(out, h.index_at) + at);
      write_numbers(base + h.value_at, h.values, at * h.p * h.q, values.data(),
                    count * h.p * h.q);
      at += count;
    }
}

static void unpack_one(const PackedHeader* h, float* w_out) {
  const auto* entry = section<RowEntry>(h, h->row_at);
  const auto* index = section<uint16_t>(h, h->index_at);
  const auto* value = section<char>(h, h->value_at);
  const int64_t rows = all_block_rows(*h);
  const auto* order = section<int32_t>(h, h->order_at);
  int64_t number = 0;
  std::vector<float> none;
  for (int64_t t = 0; t < h->tiles(); t++)
    for (int64_t i = 0; i < rows; i++, index += entry->count, entry++) {
      const int64_t row = i * h->p / h->row_block * h->row_block + entry->row * h->p;
      order_values(*h, index, entry->count, [&](int64_t r, int64_t k) {
        const float w = read_number(value, h->values, number++);
        if (row + r >= h->rows || w == 0) return w;
        const int64_t to = h->order_at ? order[row + r] : row + r;
        return w_out[to * h->cols + t * h->k_tile + k] = w;
      }, none);
    }
}

// Every row once.
static bool order_ok(const PackedHeader* h) {
  const auto* order = section<int32_t>(h, h->order_at);
  std::vector<char> seen(h->rows);
  for (int64_t r = 0; r < h->rows; r++)
    if (order[r] < 0 || order[r] >= h->rows || seen[order[r]]++) return false;
  return true;
}

template <bool sorted>
static bool blob_ok(const void* packed, int64_t bytes) {
  if (!header_ok(packed, bytes, kBlock)) return false;
  const auto* h = static_cast<const PackedHeader*>(packed);
  if ((h->order_at != 0) != sorted) return false;
  const Matrix sizes{nullptr, h->rows, h->cols, h->cols, 1};
  if (!valid(sizes, tiles_of(*h)) || h->nnz % (int64_t(h->p) * h->q)) return false;
  PackedHeader expected = *h;
  const int64_t stored = h->nnz / (int64_t(h->p) * h->q);
  lay_out(expected, stored);
  if (std::memcmp(&expected, h, sizeof *h) != 0 || !segments_ok(h, stored)) return false;
  if (sorted && !order_ok(h)) return false;
  const auto* segment = section<int64_t>(h, h->segment_at);
  const auto* index = section<uint16_t>(h, h->index_at);
  const auto* entry = section<RowEntry>(h, h->row_at);
  std::vector<char> seen;
  for (int64_t t = 0, s = 0; t < h->tiles(); t++) {
    const int64_t depth = std::min<int64_t>(h->k_tile, h->cols - t * h->k_tile);
    for (int64_t b = 0; b < h->blocks(); b++, s++) {
      const int64_t rows = block_rows(*h, b * h->row_block);
      if (!entries_ok(entry, rows, segment[s + 1] - segment[s], seen)) return false;
      for (int64_t i = segment[s]; i < segment[s + 1]; i++)
        if (index[i] + h->q > depth) return false;
      entry += rows;
    }
  }
  return true;
}

// Channels of a tile of images laid flat (conv_flat.h), so that what a panel of six vectors reads
// of them fits a first cache, or of sparse weights a second.
static int64_t flat_channels(const Layer& l, double density) {
  const double side = std::sqrt(double(l.n)), kernel = std::sqrt(double(l.taps));
  const double floats = 6 * l.width + (kernel - 1) * (side + 2);
  const double kilobytes = density >= .15 ? 36 : 64;
  return std::clamp<int64_t>(int64_t(kilobytes * 256 / floats), 1, 64);
}

static void choose_tiles(const Layer& l, Tiles& tiles) {
  if (tiles.p == 1) {  // rows by themselves, as in csr
    csr_like_tiles(l, tiles.q, tiles);
    return;
  }
  // The kernel reads each vector of a panel once for four rows, so more of it may come from L2.
  const int64_t most = l.width == 16 ? 6 : 3;
  const bool one_tile = l.taps == 1 && l.K <= 96;  // of any panel
  tiles.panel_vectors = even_panels(l.n, l.width, l.width == 16 && !one_tile ? 4 : most, most);
  const double density = double(l.nnz) / (double(l.M) * double(l.K));
  // 1 x 1 convolutions read their rows in place, which makes no panel fit better.
  const int64_t kilobytes = density >= .15 && l.taps != 1 ? 48 : density >= .07 ? 96 : 192;
  const int64_t row = tiles.panel_vectors * l.width * 4;
  tiles.k_tile = even_tiles(kilobytes, l.K, row);
  if (l.banded)
    tiles.k_tile = whole_channels(l.taps * flat_channels(l, density), l.K, l.taps);
  else if (l.taps > 1)
    tiles.k_tile = whole_channels(std::min<int64_t>(kilobytes * 1024 / row, kMaxTile), l.K, l.taps);
  tiles.k_tile = (tiles.k_tile + tiles.q - 1) / tiles.q * tiles.q;
  const int64_t rows = std::min<int64_t>(std::max<int64_t>((l.M + 7) / 8, 16), 256);
  tiles.row_block = int((rows + tiles.p - 1) / tiles.p * tiles.p);
}

}  // namespace sc::block

extern "C" {

int64_t sc_block_bytes(const sc::Matrix* matrix, const sc::Tiles* tiles) {
  return sc::grouped_bytes(*matrix, *tiles, sc::block::bytes_of<false>);
}

int sc_block_pack(const sc::Matrix* matrix, const sc::Tiles* tiles, void* out) {
  return sc::grouped_pack(*matrix, *tiles, out, sc::block::bytes_of<false>,
                          sc::block::pack_one<false>);
}

void sc_block_unpack(const void* packed, float* w_out) {
  sc::unpack_groups(packed, w_out, sc::block::unpack_one);
}

int sc_block_check(const void* packed, int64_t bytes, int) {
  return sc::check_groups(packed, bytes, sc::block::blob_ok<false>);
}

void sc_block_tiles(const sc::Layer* layer, sc::Tiles* tiles) {
  sc::block::choose_tiles(*layer, *tiles);
}

int64_t sc_sorted_bytes(const sc::Matrix* matrix, const sc::Tiles* tiles) {
  return sc::grouped_bytes(*matrix, *tiles, sc::block::bytes_of<true>);
}

int sc_sorted_pack(const sc::Matrix* matrix, const sc::Tiles* tiles, void* out) {
  return sc::grouped_pack(*matrix, *tiles, out, sc::block::bytes_of<true>,
                          sc::block::pack_one<true>);
}

void sc_sorted_unpack(const void* packed, float* w_out) {
  sc::unpack_groups(packed, w_out, sc::block::unpack_one);
}

int sc_sorted_check(const void* packed, int64_t bytes, int) {
  return sc::check_groups(packed, bytes, sc::block::blob_ok<true>);
}

void sc_sorted_tiles(const sc::Layer* layer, sc::Tiles* tiles) {
  sc::block::choose_tiles(*layer, *tiles);
}
}
