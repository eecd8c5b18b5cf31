// Packs, unpacks and checks csr blobs (pack.h): the non-zeros of each row of each tile.
#include "pack_columns.h"
#include "pack_common.h"

namespace sc::csr {

// Where each array lies, given the number of non-zeros.
static void lay_out(PackedHeader& h, int64_t nnz) {
  h.nnz = nnz;
  h.prefix_at = sizeof(PackedHeader);
  h.segment_at = align64(h.prefix_at + (h.blocks() + 1) * 8);
  h.row_at = align64(h.segment_at + (h.tiles() * h.blocks() + 1) * 8);
  h.index_at = counts_at(&h);
  if (by_columns(&h)) h.index_at = align64(h.index_at + h.tiles() * h.rows * 6);
  h.value_at = align64(h.index_at + nnz * 2);
  // Kernels read four indices ahead, past the last of them: so no blob ends with its indices.
  h.bytes = align64(h.value_at + std::max<int64_t>(nnz, 4) * value_bytes(h.values));
}

// By columns: whole channels, four at a time, so that padding never exceeds what a row may hold.
static bool valid_tiles(int64_t M, int64_t K, const Tiles& t) {
  const bool columns = t.p == 3 && K % 36 == 0 && t.k_tile % 36 == 0 && t.k_tile + 9 <= kMaxTile;
  return valid_sizes(M, K, t) && (t.p == 0 || columns) && t.q == 0;
}

static int64_t numbers(const PackedHeader& h, const Matrix& m) {
  if (by_columns(&h)) return columns::total(h, m);
  int64_t nnz = 0;
  for (int64_t r = 0; r < m.M; r++) nnz += count_nonzeros(m.w + r * m.ldw, m.K);
  return nnz;
}

static int64_t bytes_of(const Matrix& m, const Tiles& tiles) {
  if (!valid_tiles(m.M, m.K, tiles)) return 0;
  PackedHeader h = header(kCsr, m.M, m.K, tiles);
  lay_out(h, numbers(h, m));
  return h.bytes;
}

// First pass: how many non-zeros each row of each (tile, block) has, and where they will start.
static void count_segments(const PackedHeader& h, const Matrix& m, int64_t* segment,
                           RowEntry* entry, uint16_t* counts) {
  const int64_t blocks = h.blocks(), segments = h.tiles() * blocks;
  for (int64_t s = 0; s < segments; s++) {
    const int64_t t = s / blocks, row0 = s % blocks * h.row_block;
    const int64_t k0 = t * h.k_tile, k = std::min<int64_t>(h.k_tile, h.cols - k0);
    const int64_t rows = std::min<int64_t>(h.row_block, h.rows - row0);
    RowEntry* mine = entry + t * h.rows + row0;
    if (by_columns(&h)) {
      columns::sort_rows(m, row0, rows, k0, k, mine, counts + 3 * (t * h.rows + row0));
    } else {
      for (int64_t r = 0; r < rows; r++)
        mine[r] = {uint16_t(r), uint16_t(count_nonzeros(m.w + (row0 + r) * m.ldw + k0, k))};
      sort_rows(mine, rows);
    }
    segment[s + 1] = segment[s];
    for (int64_t r = 0; r < rows; r++) segment[s + 1] += mine[r].count;
  }
}

// The non-zeros of k numbers, and where they stand, in buffers of k + 1.
static void gather_row(const float* w, int64_t k, std::vector<uint16_t>& indices,
                       std::vector<float>& values) {
  int64_t at = 0;
  for (int64_t i = 0; i < k; i++) {  // no branch: which weights are zero cannot be predicted
    indices[at] = uint16_t(i);
    values[at] = w[i];
    at += w[i] != 0;
  }
}

static void pack_one(const Matrix& m, const Tiles& tiles, void* out) {
  PackedHeader h = header(kCsr, m.M, m.K, tiles);
  const int64_t nnz = numbers(h, m);
  lay_out(h, nnz);
  char* base = static_cast<char*>(out);
  std::memset(base, 0, h.index_at);
  std::memcpy(base, &h, sizeof h);
  auto* segment = section<int64_t>(out, h.segment_at);
  auto* entry = section<RowEntry>(out, h.row_at);
  auto* index = section<uint16_t>(out, h.index_at);
  count_segments(h, m, segment, entry, section<uint16_t>(out, counts_at(&h)));
  sum_blocks(h, segment, section<int64_t>(out, h.prefix_at));

  const int64_t blocks = h.blocks(), segments = h.tiles() * blocks;
  std::vector<uint16_t> indices(h.k_tile + 4);
  std::vector<float> values(h.k_tile + 4);
  for (int64_t s = 0; s < segments; s++) {
    const int64_t t = s / blocks, row0 = s % blocks * h.row_block;
    const int64_t k0 = t * h.k_tile, k = std::min<int64_t>(h.k_tile, m.K - k0);
    const int64_t rows = std::min<int64_t>(h.row_block, m.M - row0);
    const RowEntry* mine = entry + t * m.M + row0;
    int64_t at = segment[s];
    for (int64_t r = 0; r < rows; at += mine[r++].count) {
      const float* from = m.w + (row0 + mine[r].row) * m.ldw + k0;
      if (by_columns(&h)) columns::gather_row(h, from, k, indices, values);
      else gather_row(from, k, indices, values);
      std::memcpy(index + at, indices.data(), mine[r].count * 2);
      write_numbers(base + h.value_at, h.values, at, values.data(), mine[r].count);
    }
  }
  const int64_t index_end = h.index_at + nnz * 2, end = h.value_at + nnz * value_bytes(h.values);
  std::memset(base + index_end, 0, h.value_at - index_end);
  std::memset(base + end, 0, h.bytes - end);
}

static void unpack_one(const PackedHeader* h, float* w_out) {
  const auto* entry = section<RowEntry>(h, h->row_at);
  const auto* index = section<uint16_t>(h, h->index_at);
  const auto* value = section<char>(h, h->value_at);
  int64_t at = 0;
  for (int64_t t = 0; t < h->tiles(); t++)
    for (int64_t m = 0; m < h->rows; m++, entry++) {
      float* row = w_out + (m / h->row_block * h->row_block + entry->row) * h->cols;
      for (int64_t i = 0; i < entry->count; i++, at++) {
        const int64_t k = by_columns(h) ? columns::column_of(h, index[at], h->k_tile) : index[at];
        row[t * h->k_tile + k] += read_number(value, h->values, at);  // padding adds zero
      }
    }
}

static bool segment_ok(const PackedHeader* h, int64_t t, int64_t b, std::vector<char>& seen) {
  const int64_t* segment = section<int64_t>(h, h->segment_at) + t * h->blocks() + b;
  const int64_t row0 = b * h->row_block, rows = std::min<int64_t>(h->row_block, h->rows - row0);
  const int64_t depth = std::min<int64_t>(h->k_tile, h->cols - t * h->k_tile);
  const RowEntry* entry = section<RowEntry>(h, h->row_at) + t * h->rows + row0;
  if (!entries_ok(entry, rows, segment[1] - segment[0], seen)) return false;
  const uint16_t* index = section<uint16_t>(h, h->index_at);
  if (by_columns(h)) {
    const uint16_t* counts = section<uint16_t>(h, counts_at(h)) + 3 * (t * h->rows + row0);
    index += segment[0];
    for (int64_t r = 0; r < rows; index += entry[r++].count)
      if (!columns::row_ok(h, entry[r], counts + 3 * r, index, depth)) return false;
    return true;
  }
  int64_t highest = 0;
  for (int64_t i = segment[0]; i < segment[1]; i++) highest = std::max<int64_t>(highest, index[i]);
  return highest < depth;
}

static bool blob_ok(const void* packed, int64_t bytes) {
  if (!header_ok(packed, bytes, kCsr)) return false;
  const auto* h = static_cast<const PackedHeader*>(packed);
  if (h->nnz > h->rows * h->cols || !valid_tiles(h->rows, h->cols, tiles_of(*h))) return false;
  PackedHeader expected = *h;
  lay_out(expected, h->nnz);
  if (std::memcmp(&expected, h, sizeof *h) != 0) return false;  // offsets follow from the sizes
  if (!segments_ok(h, h->nnz)) return false;
  std::vector<char> seen;
  for (int64_t s = 0; s < h->tiles() * h->blocks(); s++)
    if (!segment_ok(h, s / h->blocks(), s % h->blocks(), seen)) return false;
  return true;
}

static void linear_tiles(const Layer& l, Tiles& tiles) {
  // Panels of about 256 bytes a row, as even as n allows. Dense rows want the panel in L1. Sparse
  // ones read little of it, and pay for each tile they are cut into: long tiles, then, out of L2.
  // With 8 floats a vector, and first caches of 32 KB, narrow panels are between the two: long and
  // small. (Zen 3, 95 % zeros, 64 columns a thread, 768 => 3072 => 768 as a part of 1.00 by 192 KB:
  // 64 KB 0.84, with half the width 0.82; 384 => 1536 => 384: 0.90, 0.85; 96 columns: 0.93, 0.86.)
  const double density = double(l.nnz) / (double(l.M) * double(l.K));
  const bool between = density >= .03 && density < .07;
  const int64_t good = between && l.width == 8 ? 4 : std::min(64 / l.width, 8);
  tiles.panel_vectors = even_panels(l.n, l.width, good, 8);
  const int64_t kilobytes = density >= .15                ? 32
                            : density >= .07              ? 48
                            : between && l.width >= 8 ? 64
                                                          : 192;
  tiles.k_tile = even_tiles(kilobytes, l.K, tiles.panel_vectors * l.width * 4);
  // Long runs of equal counts, whose branches predict, and parts for four threads.
  tiles.row_block = int(std::min<int64_t>(std::max<int64_t>((l.M + 3) / 4, 16), 512));
}

static void conv_tiles(const Layer& l, Tiles& tiles) {
  // Most processors with vectors of 8 floats have first caches of 32 KB (Haswell to Skylake, Zen 1
  // to 3). On Zen 3, 50 % zeros, us: 512 => 512, 14 x 14: 1197 by 56 KB, 770 by 32; 3 x 3, 256
  // channels, 14 x 14: 2142 by 64 channels, 1775 by 32 (docs/benchmarks_limits.md).
  const bool small_cache = l.width == 8;
  // Longer tiles than a linear's: rows of y are a page or so apart, so each visit costs more, and
  // a panel of windows is written here, so it is in cache already. Measured inside ResNet-50: in a
  // loop over one layer, whose branches are known by heart, tiles of L1's size are better.
  const double density = double(l.nnz) / (double(l.M) * double(l.K));
  if (l.taps == 1) {
    // Wide panels of L1's size where they cost no more tiles, or each row of a tile is long: 5 to
    // 12 % of a layer at 50 and 70 % zeros.
    const bool short_rows = l.K * 7 * 64 <= 42 << 10, long_rows = density >= .15 && l.K >= 192;
    const bool wide = l.width == 16 && (short_rows || long_rows);
    if (wide) tiles.panel_vectors = even_panels(l.n, l.width, 7, 8);
    const int64_t most = wide             ? 42
                         : density >= .15 ? (small_cache ? 32 : 56)
                         : density >= .07 ? (small_cache ? 48 : 80)
                         : density >= .03 ? 128
                                          : 192;
    tiles.k_tile = even_tiles(most, l.K, tiles.panel_vectors * l.width * 4);
    return;
  }
  // By columns, tiles whose panels of image rows fill most of a first cache (conv_bands.h), where
  // padding is little: 4.5 zeros for each row of a tile. At stride 2 they are four times as large:
  // 256 channels, 28 x 28, 70 % zeros, 277 us, windows 244.
  const int64_t channels = l.K / 9, fit = !small_cache ? 64 : density >= .15 ? 32 : 48;
  const int64_t count = std::max<int64_t>((channels + fit - 1) / fit, 1);
  const int64_t each = (channels + 4 * count - 1) / (4 * count) * 4;
  if (l.banded && l.K % 36 == 0 && density * 9 * double(each) >= 24) {
    tiles.p = 3;
    tiles.k_tile = int(9 * each);
    return;
  }
  const int64_t vectors = (l.n + l.width - 1) / l.width, good = std::min(64 / l.width, 8);
  if (vectors > 6 * good) tiles.panel_vectors = int(good);
  const int64_t kilobytes =
      l.width > 8 ? (density >= .15 ? 37 : density >= .07 ? 60 : density >= .03 ? 120 : 192)
                  : (density >= .15 ? (small_cache ? 32 : 48) : density >= .07 ? 110 : 192);
  const int64_t most = kilobytes * 1024 / (tiles.panel_vectors * l.width * 4);
  tiles.k_tile = whole_channels(std::min<int64_t>(most, kMaxTile), l.K, l.taps);
}

}  // namespace sc::csr

extern "C" {

int64_t sc_csr_bytes(const sc::Matrix* matrix, const sc::Tiles* tiles) {
  return sc::grouped_bytes(*matrix, *tiles, sc::csr::bytes_of);
}

int sc_csr_pack(const sc::Matrix* matrix, const sc::Tiles* tiles, void* out) {
  return sc::grouped_pack(*matrix, *tiles, out, sc::csr::bytes_of, sc::csr::pack_one);
}

void sc_csr_unpack(const void* packed, float* w_out) {
  sc::unpack_groups(packed, w_out, sc::csr::unpack_one);
}

int sc_csr_check(const void* packed, int64_t bytes, int) {
  return sc::check_groups(packed, bytes, sc::csr::blob_ok);
}

void sc_csr_tiles(const sc::Layer* layer, sc::Tiles* tiles) {
  sc::csr::linear_tiles(*layer, *tiles);
  if (layer->taps > 0) sc::csr::conv_tiles(*layer, *tiles);
}
}
