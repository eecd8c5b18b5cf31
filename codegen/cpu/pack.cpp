// Packs, unpacks and checks the weight blobs described in pack.h. Stands alone: no vector width.
// One thread: a BERT-base of 85 million weights packs in 0.1 s.
#include "pack.h"

#include <algorithm>
#include <cstring>
#include <vector>

using namespace sc;

namespace {

constexpr int64_t kMaxSide = int64_t(1) << 31, kMaxWeights = int64_t(1) << 44;  // no overflow

int64_t align64(int64_t bytes) { return (bytes + 63) / 64 * 64; }

bool valid_tiles(int64_t M, int64_t K, int k_tile, int panel_vectors, int row_block) {
  return M > 0 && K > 0 && M < kMaxSide && K < kMaxSide && M * K < kMaxWeights && k_tile > 0 &&
         k_tile <= kMaxTile && panel_vectors > 0 && panel_vectors <= kMaxPanel && row_block > 0 &&
         row_block <= kMaxRowBlock;
}

PackedHeader header(PackedFormat format, int64_t M, int64_t K, int k_tile, int panel_vectors,
                    int row_block) {
  PackedHeader h{};
  h.magic = kPackedMagic;
  h.version = kPackedVersion;
  h.format = format;
  h.k_tile = k_tile;
  h.panel_vectors = panel_vectors;
  h.row_block = row_block;
  h.rows = M;
  h.cols = K;
  h.groups = 1;
  return h;
}

// Where each array lies, given the number of non-zeros.
void lay_out_csr(PackedHeader& h, int64_t nnz) {
  h.nnz = nnz;
  h.prefix_at = sizeof(PackedHeader);
  h.segment_at = align64(h.prefix_at + (h.blocks() + 1) * 8);
  h.row_at = align64(h.segment_at + (h.tiles() * h.blocks() + 1) * 8);
  h.index_at = align64(h.row_at + h.tiles() * h.rows * int64_t(sizeof(RowEntry)));
  h.value_at = align64(h.index_at + nnz * 2);
  h.bytes = align64(h.value_at + nnz * 4);
}

void lay_out_dense(PackedHeader& h) {
  h.nnz = h.rows * h.cols;
  h.value_at = sizeof(PackedHeader);
  // A kernel may load a whole vector where a block's last row begins.
  h.bytes = align64(h.value_at + h.blocks() * h.row_block * h.cols * 4 + 16);
}

// NaN != 0 holds, so NaN weights are kept; -0.0 is a structural zero.
int64_t count_nonzeros(const float* w, int64_t n) {
  int32_t count = 0;
  for (int64_t i = 0; i < n; i++) count += w[i] != 0;
  return count;
}

int64_t count_all(const float* w, int64_t M, int64_t K, int64_t ldw) {
  int64_t nnz = 0;
  for (int64_t m = 0; m < M; m++) nnz += count_nonzeros(w + m * ldw, K);
  return nnz;
}

// Rows of one (tile, block) by descending count: runs of equal trip counts predict well.
void sort_rows(RowEntry* entry, int64_t rows) {
  std::stable_sort(entry, entry + rows,
                   [](const RowEntry& a, const RowEntry& b) { return a.count > b.count; });
}

// First pass: how many non-zeros each row of each (tile, block) has, and where they will start.
void count_segments(const PackedHeader& h, const float* w, int64_t ldw, int64_t* prefix,
                    int64_t* segment, RowEntry* entry) {
  const int64_t blocks = h.blocks(), segments = h.tiles() * blocks;
  for (int64_t s = 0; s < segments; s++) {
    const int64_t t = s / blocks, row0 = s % blocks * h.row_block;
    const int64_t k0 = t * h.k_tile, k = std::min<int64_t>(h.k_tile, h.cols - k0);
    const int64_t rows = std::min<int64_t>(h.row_block, h.rows - row0);
    RowEntry* mine = entry + t * h.rows + row0;
    segment[s + 1] = segment[s];
    for (int64_t r = 0; r < rows; r++) {
      const int64_t count = count_nonzeros(w + (row0 + r) * ldw + k0, k);
      mine[r] = {uint16_t(r), uint16_t(count)};
      segment[s + 1] += count;
    }
    sort_rows(mine, rows);
    prefix[s % blocks + 1] += segment[s + 1] - segment[s];
  }
  for (int64_t b = 0; b < blocks; b++) prefix[b + 1] += prefix[b];
}

void write_row(const float* w, int64_t k, uint16_t* index, float* value, int64_t count,
               std::vector<uint16_t>& indices, std::vector<float>& values) {
  int64_t at = 0;
  for (int64_t i = 0; i < k; i++) {  // no branch: which weights are zero cannot be predicted
    indices[at] = uint16_t(i);
    values[at] = w[i];
    at += w[i] != 0;
  }
  std::memcpy(index, indices.data(), count * 2);
  std::memcpy(value, values.data(), count * 4);
}

bool header_ok(const void* packed, int64_t bytes, PackedFormat format) {
  if (bytes < int64_t(sizeof(PackedHeader))) return false;
  const auto* h = static_cast<const PackedHeader*>(packed);
  return h->magic == kPackedMagic && h->version == kPackedVersion && h->format == format &&
         valid_tiles(h->rows, h->cols, h->k_tile, h->panel_vectors, h->row_block) &&
         h->nnz >= 0 && h->nnz <= h->rows * h->cols && h->groups > 0 && h->bytes <= bytes;
}

using BytesOf = int64_t (*)(const float*, int64_t, int64_t, int64_t, int, int, int);
using Pack = int (*)(const float*, int64_t, int64_t, int64_t, int, int, int, void*);

// 0 if a group is refused.
int64_t grouped_bytes(BytesOf bytes_of, const float* w, int64_t M, int64_t K, int64_t ldw,
                      int64_t groups, int k_tile, int panel_vectors, int row_block) {
  if (groups < 1 || M < 1 || M % groups) return 0;
  int64_t sum = 0;
  for (int64_t g = 0; g < groups; g++) {
    const int64_t rows = M / groups;
    const int64_t bytes = bytes_of(w ? w + g * rows * ldw : w, rows, K, ldw, k_tile, panel_vectors,
                                   row_block);
    if (bytes == 0) return 0;
    sum += bytes;
  }
  return sum;
}

int grouped_pack(Pack pack, const float* w, int64_t M, int64_t K, int64_t ldw, int64_t groups,
                 int k_tile, int panel_vectors, int row_block, void* out) {
  if (groups < 1 || M < 1 || M % groups) return 0;
  auto* to = static_cast<char*>(out);
  for (int64_t g = 0; g < groups; g++) {
    const int64_t rows = M / groups;
    if (!pack(w + g * rows * ldw, rows, K, ldw, k_tile, panel_vectors, row_block, to)) return 0;
    auto* h = reinterpret_cast<PackedHeader*>(to);
    h->groups = groups;
    to += h->bytes;
  }
  return 1;
}

// Calls each(header of the group) until one says no; 1 if none does.
template <class Each>
int for_each_group(const void* packed, const Each& each) {
  const auto* h = static_cast<const PackedHeader*>(packed);
  for (int64_t g = 0, groups = h->groups; g < groups; g++) {
    if (!each(h)) return 0;
    h = section<PackedHeader>(h, h->bytes);
  }
  return 1;
}

bool same_shape(const PackedHeader* a, const PackedHeader* b) {
  return a->groups == b->groups && a->rows == b->rows && a->cols == b->cols &&
         a->k_tile == b->k_tile && a->panel_vectors == b->panel_vectors &&
         a->row_block == b->row_block;
}

// Each group by its own check, given the bytes that are left; and all alike.
template <class Check>
int check_groups(const void* packed, int64_t bytes, const Check& check) {
  if (!check(packed, bytes)) return 0;
  const auto* first = static_cast<const PackedHeader*>(packed);
  return for_each_group(packed, [&](const PackedHeader* h) {
    const int64_t left = bytes - (reinterpret_cast<const char*>(h) -
                                  static_cast<const char*>(packed));
    return check(h, left) && same_shape(first, h);
  });
}

void unpack_csr(const PackedHeader* h, float* w_out) {
  const auto* entry = section<RowEntry>(h, h->row_at);
  const auto* index = section<uint16_t>(h, h->index_at);
  const auto* value = section<float>(h, h->value_at);
  std::fill(w_out, w_out + h->rows * h->cols, 0.f);
  for (int64_t t = 0; t < h->tiles(); t++)
    for (int64_t m = 0; m < h->rows; m++, entry++) {
      const int64_t row = m / h->row_block * h->row_block + entry->row;
      for (int64_t i = 0; i < entry->count; i++)
        w_out[row * h->cols + t * h->k_tile + *index++] = *value++;
    }
}

void unpack_dense(const PackedHeader* h, float* w_out) {
  const auto* value = section<float>(h, h->value_at);
  const int64_t padded = h->blocks() * h->row_block;
  for (int64_t m = 0; m < h->rows; m++)
    for (int64_t k = 0; k < h->cols; k++) {
      const int64_t k0 = k / h->k_tile * h->k_tile, r = m % h->row_block;
      const int64_t depth = std::min<int64_t>(h->k_tile, h->cols - k0);
      w_out[m * h->cols + k] = value[k0 * padded + (m - r) * depth + (k - k0) * h->row_block + r];
    }
}

// Rows of one (tile, block): each once, counts that add up, indices inside the tile.
bool segment_ok(const PackedHeader* h, int64_t t, int64_t b, std::vector<char>& seen) {
  const int64_t* segment = section<int64_t>(h, h->segment_at) + t * h->blocks() + b;
  const int64_t row0 = b * h->row_block, rows = std::min<int64_t>(h->row_block, h->rows - row0);
  const int64_t depth = std::min<int64_t>(h->k_tile, h->cols - t * h->k_tile);
  const RowEntry* entry = section<RowEntry>(h, h->row_at) + t * h->rows + row0;
  std::fill(seen.begin(), seen.end(), 0);
  int64_t sum = 0;
  for (int64_t r = 0; r < rows; r++) {
    if (entry[r].row >= rows || seen[entry[r].row]++) return false;
    sum += entry[r].count;
  }
  if (sum != segment[1] - segment[0]) return false;
  const uint16_t* index = section<uint16_t>(h, h->index_at);
  int64_t highest = 0;
  for (int64_t i = segment[0]; i < segment[1]; i++) highest = std::max<int64_t>(highest, index[i]);
  return highest < depth;
}

bool csr_ok(const void* packed, int64_t bytes) {
  if (!header_ok(packed, bytes, kCsr)) return false;
  const auto* h = static_cast<const PackedHeader*>(packed);
  PackedHeader expected = *h;
  lay_out_csr(expected, h->nnz);
  if (std::memcmp(&expected, h, sizeof *h) != 0) return false;  // offsets follow from the sizes
  const auto* segment = section<int64_t>(h, h->segment_at);
  const auto* prefix = section<int64_t>(h, h->prefix_at);
  const int64_t blocks = h->blocks(), segments = h->tiles() * blocks;
  if (segment[0] != 0 || segment[segments] != h->nnz || prefix[0] != 0) return false;
  for (int64_t s = 0; s < segments; s++)
    if (segment[s] > segment[s + 1]) return false;
  for (int64_t b = 0; b < blocks; b++) {
    int64_t sum = 0;
    for (int64_t t = 0; t < h->tiles(); t++)
      sum += segment[t * blocks + b + 1] - segment[t * blocks + b];
    if (prefix[b + 1] - prefix[b] != sum) return false;
  }
  std::vector<char> seen(h->row_block);
  for (int64_t s = 0; s < segments; s++)
    if (!segment_ok(h, s / blocks, s % blocks, seen)) return false;
  return true;
}

// Calls each(block, piece, row of the piece) for row blocks that lie inside one piece, and
// copied(block) for others. Gives the number of rows; 0 where a piece has none.
template <class Each, class Copied>
int64_t for_each_block(const int64_t* rows, int64_t pieces, int row_block, const Each& each,
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

// Columns of the fewest tiles whose panels, of `bytes` a row, are at most that large.
int even_tiles(int64_t kilobytes, int64_t K, int64_t bytes) {
  const int64_t fit = std::max<int64_t>(kilobytes * 1024 / bytes, 1), tiles = (K + fit - 1) / fit;
  return int(std::min((K + tiles - 1) / tiles + 7, K + 7) / 8 * 8);
}

// Tiles of at most `most` columns that end with a channel, if that is possible, as even as can be.
int whole_channels(int64_t most, int64_t K, int64_t taps) {
  if (taps > most || taps < 1) return int(std::max<int64_t>(std::min(most, K), 1));
  const int64_t channels = (K + taps - 1) / taps, fit = most / taps;
  const int64_t tiles = (channels + fit - 1) / fit;
  return int((channels + tiles - 1) / tiles * taps);
}

}  // namespace

extern "C" {

int64_t sc_csr_packed_bytes(const float* w, int64_t M, int64_t K, int64_t ldw, int k_tile,
                            int panel_vectors, int row_block) {
  if (!valid_tiles(M, K, k_tile, panel_vectors, row_block)) return 0;
  PackedHeader h = header(kCsr, M, K, k_tile, panel_vectors, row_block);
  lay_out_csr(h, count_all(w, M, K, ldw));
  return h.bytes;
}

int sc_csr_pack(const float* w, int64_t M, int64_t K, int64_t ldw, int k_tile, int panel_vectors,
                int row_block, void* out) {
  if (!valid_tiles(M, K, k_tile, panel_vectors, row_block)) return 0;
  PackedHeader h = header(kCsr, M, K, k_tile, panel_vectors, row_block);
  lay_out_csr(h, count_all(w, M, K, ldw));
  char* base = static_cast<char*>(out);
  std::memset(base, 0, h.index_at);
  std::memcpy(base, &h, sizeof h);
  auto* prefix = reinterpret_cast<int64_t*>(base + h.prefix_at);
  auto* segment = reinterpret_cast<int64_t*>(base + h.segment_at);
  auto* entry = reinterpret_cast<RowEntry*>(base + h.row_at);
  auto* index = reinterpret_cast<uint16_t*>(base + h.index_at);
  auto* value = reinterpret_cast<float*>(base + h.value_at);
  count_segments(h, w, ldw, prefix, segment, entry);

  const int64_t blocks = h.blocks(), segments = h.tiles() * blocks;
  std::vector<uint16_t> indices(k_tile + 1);
  std::vector<float> values(k_tile + 1);
  for (int64_t s = 0; s < segments; s++) {
    const int64_t t = s / blocks, row0 = s % blocks * row_block;
    const int64_t k0 = t * k_tile, k = std::min<int64_t>(k_tile, K - k0);
    const int64_t rows = std::min<int64_t>(row_block, M - row0);
    const RowEntry* mine = entry + t * M + row0;
    int64_t at = segment[s];
    for (int64_t r = 0; r < rows; at += mine[r++].count)
      write_row(w + (row0 + mine[r].row) * ldw + k0, k, index + at, value + at, mine[r].count,
                indices, values);
  }
  std::memset(base + h.index_at + h.nnz * 2, 0, h.value_at - h.index_at - h.nnz * 2);
  std::memset(base + h.value_at + h.nnz * 4, 0, h.bytes - h.value_at - h.nnz * 4);
  return 1;
}

void sc_csr_unpack(const void* packed, float* w_out) {
  for_each_group(packed, [&](const PackedHeader* h) {
    unpack_csr(h, w_out);
    w_out += h->rows * h->cols;
    return true;
  });
}

int sc_csr_check(const void* packed, int64_t bytes) {
  return check_groups(packed, bytes, csr_ok);
}

int64_t sc_dense_packed_bytes(const float*, int64_t M, int64_t K, int64_t, int k_tile,
                              int panel_vectors, int row_block) {
  if (!valid_tiles(M, K, k_tile, panel_vectors, row_block)) return 0;
  PackedHeader h = header(kDense, M, K, k_tile, panel_vectors, row_block);
  lay_out_dense(h);
  return h.bytes;
}

int sc_dense_pack(const float* w, int64_t M, int64_t K, int64_t ldw, int k_tile, int panel_vectors,
                  int row_block, void* out) {
  if (!valid_tiles(M, K, k_tile, panel_vectors, row_block)) return 0;
  PackedHeader h = header(kDense, M, K, k_tile, panel_vectors, row_block);
  lay_out_dense(h);
  std::memcpy(out, &h, sizeof h);
  const int64_t blocks = h.blocks(), padded = blocks * row_block, used = padded * K * 4;
  auto* value = reinterpret_cast<float*>(static_cast<char*>(out) + h.value_at);
  std::memset(static_cast<char*>(out) + h.value_at + used, 0, h.bytes - h.value_at - used);
  for (int64_t b = 0; b < blocks; b++)
    for (int64_t t = 0; t < h.tiles(); t++) {
      const int64_t k0 = t * k_tile, depth = std::min<int64_t>(k_tile, K - k0);
      float* to = value + k0 * padded + b * row_block * depth;
      for (int64_t k = 0; k < depth; k++)
        for (int64_t r = 0; r < row_block; r++) {
          const int64_t m = b * row_block + r;
          to[k * row_block + r] = m < M ? w[m * ldw + k0 + k] : 0.f;
        }
    }
  return 1;
}

void sc_dense_unpack(const void* packed, float* w_out) {
  for_each_group(packed, [&](const PackedHeader* h) {
    unpack_dense(h, w_out);
    w_out += h->rows * h->cols;
    return true;
  });
}

int sc_dense_check(const void* packed, int64_t bytes, int width) {
  return check_groups(packed, bytes, [&](const void* one, int64_t left) {
    if (!header_ok(one, left, kDense)) return false;
    PackedHeader expected = *static_cast<const PackedHeader*>(one);
    if (expected.row_block != dense_rows(width)) return false;
    lay_out_dense(expected);
    return std::memcmp(&expected, one, sizeof expected) == 0;
  });
}

int64_t sc_csr_grouped_bytes(const float* w, int64_t M, int64_t K, int64_t ldw, int64_t groups,
                             int k_tile, int panel_vectors, int row_block) {
  return grouped_bytes(sc_csr_packed_bytes, w, M, K, ldw, groups, k_tile, panel_vectors, row_block);
}

int sc_csr_grouped_pack(const float* w, int64_t M, int64_t K, int64_t ldw, int64_t groups,
                        int k_tile, int panel_vectors, int row_block, void* out) {
  return grouped_pack(sc_csr_pack, w, M, K, ldw, groups, k_tile, panel_vectors, row_block, out);
}

int64_t sc_dense_grouped_bytes(const float* w, int64_t M, int64_t K, int64_t ldw, int64_t groups,
                             int k_tile, int panel_vectors, int row_block) {
  return grouped_bytes(sc_dense_packed_bytes, w, M, K, ldw, groups, k_tile, panel_vectors,
                       row_block);
}

int sc_dense_grouped_pack(const float* w, int64_t M, int64_t K, int64_t ldw, int64_t groups,
                        int k_tile, int panel_vectors, int row_block, void* out) {
  return grouped_pack(sc_dense_pack, w, M, K, ldw, groups, k_tile, panel_vectors, row_block, out);
}

int64_t sc_rows_packed_bytes(const int64_t* rows, int64_t pieces, int64_t K, int row_block) {
  if (K < 1 || K >= kMaxSide || row_block < 1 || row_block > kMaxRowBlock) return 0;
  int64_t copies = 0;
  const int64_t M = for_each_block(rows, pieces, row_block, [](int64_t, int64_t, int64_t) {},
                                   [&](int64_t) { copies++; });
  if (M == 0) return 0;
  const int64_t blocks = (M + row_block - 1) / row_block;
  return align64(int64_t(sizeof(PackedHeader)) + blocks * 8) + align64(copies * row_block * K * 4);
}

int sc_rows_pack(const float* const* piece, const int64_t* rows, int64_t pieces, int64_t K,
                 int k_tile, int panel_vectors, int row_block, void* out) {
  const int64_t bytes = sc_rows_packed_bytes(rows, pieces, K, row_block);
  int64_t M = 0;
  for (int64_t i = 0; i < pieces; i++) M += rows[i];
  if (bytes == 0 || !valid_tiles(M, K, k_tile, panel_vectors, row_block)) return 0;
  PackedHeader h = header(kRows, M, K, k_tile, panel_vectors, row_block);
  h.nnz = M * K;
  h.prefix_at = sizeof(PackedHeader);
  h.value_at = align64(h.prefix_at + h.blocks() * 8);
  h.bytes = bytes;
  auto* base = static_cast<char*>(out);
  std::memset(base, 0, bytes);
  std::memcpy(base, &h, sizeof h);
  auto* place = reinterpret_cast<int64_t*>(base + h.prefix_at);
  auto* copy = reinterpret_cast<float*>(base + h.value_at);
  const auto there = [&](int64_t block, int64_t i, int64_t row) {
    place[block] = reinterpret_cast<const char*>(piece[i] + row * K) - base;
  };
  for_each_block(rows, pieces, row_block, there, [&](int64_t block) {
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

void sc_csr_default_tiles(int64_t M, int64_t K, int64_t nnz, int64_t n, int width, int* k_tile,
                          int* panel_vectors, int* row_block) {
  // Panels of about 256 bytes a row, as even as n allows.
  const int64_t vectors = ((n > 0 ? n : 128) + width - 1) / width;
  const int64_t good = std::min(64 / width, 8), widest = 8;
  const int64_t panels = std::max((vectors + good / 2 - 1) / good, (vectors + widest - 1) / widest);
  const int64_t panel = (vectors + panels - 1) / panels;
  // Dense rows want the panel in L1. Sparse ones read little of it, and pay for each tile they
  // are cut into: long tiles, then, out of L2.
  const double density = double(nnz) / (double(M) * double(K));
  const int64_t kilobytes = density >= .15                 ? 32
                            : density >= .07               ? 48
                            : density >= .03 && width > 8 ? 64
                                                           : 192;
  *k_tile = even_tiles(kilobytes, K, panel * width * 4);
  *panel_vectors = int(panel);
  // Long runs of equal counts, whose branches predict, and parts for four threads.
  *row_block = int(std::min<int64_t>(std::max<int64_t>((M + 3) / 4, 16), 512));
}

void sc_dense_default_tiles(int64_t, int64_t K, int64_t, int64_t, int width, int* k_tile,
                            int* panel_vectors, int* row_block) {
  *k_tile = int(std::min<int64_t>(K, 384));
  *panel_vectors = width == 4 ? 3 : 2;
  *row_block = dense_rows(width);
}

void sc_csr_conv_tiles(int64_t M, int64_t K, int64_t nnz, int64_t n, int64_t taps, int width,
                       int* k_tile, int* panel_vectors, int* row_block) {
  sc_csr_default_tiles(M, K, nnz, n, width, k_tile, panel_vectors, row_block);
  // Longer tiles than a linear's: rows of y are a page or so apart, so each visit costs more, and
  // a panel of windows is written here, so it is in cache already. Measured inside ResNet-50: in a
  // loop over one layer, whose branches are known by heart, tiles of L1's size are better.
  const double density = double(nnz) / (double(M) * double(K));
  if (taps <= 1) {
    const int64_t most = density >= .15 ? 56 : density >= .07 ? 80 : density >= .03 ? 128 : 192;
    *k_tile = even_tiles(most, K, *panel_vectors * width * 4);
    return;
  }
  const int64_t vectors = (n + width - 1) / width, good = std::min(64 / width, 8);
  if (vectors > 6 * good) *panel_vectors = int(good);
  const int64_t kilobytes =
      width > 8 ? (density >= .15 ? 37 : density >= .07 ? 60 : density >= .03 ? 120 : 192)
                : (density >= .15 ? 48 : density >= .07 ? 110 : 192);
  const int64_t most = kilobytes * 1024 / (*panel_vectors * width * 4);
  *k_tile = whole_channels(std::min<int64_t>(most, kMaxTile), K, taps);
}

void sc_dense_conv_tiles(int64_t M, int64_t K, int64_t nnz, int64_t n, int64_t taps, int width,
                         int* k_tile, int* panel_vectors, int* row_block) {
  sc_dense_default_tiles(M, K, nnz, n, width, k_tile, panel_vectors, row_block);
  *k_tile = whole_channels(taps > 1 ? 640 : *k_tile, K, taps);
}

int64_t sc_linear_scratch_floats(const void* packed, int width) {
  const auto* h = static_cast<const PackedHeader*>(packed);
  return group_vectors(h, width) * std::min<int64_t>(h->k_tile, h->cols) * width;
}
}
