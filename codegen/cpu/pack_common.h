// What the packers share: sizes in range, numbers of each type, groups one behind the other, tiles.
// One thread: a BERT-base of 85 million weights packs in 0.1 s.
#pragma once
#include "half.h"
#include "pack.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace sc {

constexpr int64_t kMaxSide = int64_t(1) << 31, kMaxWeights = int64_t(1) << 44;  // no overflow

inline int64_t align64(int64_t bytes) { return (bytes + 63) / 64 * 64; }

inline bool valid_sizes(int64_t M, int64_t K, const Tiles& t) {
  return M > 0 && K > 0 && M < kMaxSide && K < kMaxSide && M * K < kMaxWeights && t.k_tile > 0 &&
         t.k_tile <= kMaxTile && t.panel_vectors > 0 && t.panel_vectors <= kMaxPanel &&
         t.row_block > 0 && t.row_block <= kMaxRowBlock && t.values >= kF32 && t.values <= kBf16;
}

inline Tiles tiles_of(const PackedHeader& h) {
  return {h.k_tile, h.panel_vectors, h.row_block, h.p, h.q, h.values};
}

inline PackedHeader header(PackedFormat format, int64_t M, int64_t K, const Tiles& t) {
  PackedHeader h{};
  h.magic = kPackedMagic;
  h.version = kPackedVersion;
  h.format = format;
  h.k_tile = t.k_tile;
  h.panel_vectors = t.panel_vectors;
  h.row_block = t.row_block;
  h.rows = M;
  h.cols = K;
  h.groups = 1;
  h.values = t.values;
  h.p = t.p;
  h.q = t.q;
  return h;
}

template <class T>
T* section(void* blob, int64_t at) {
  return reinterpret_cast<T*>(static_cast<char*>(blob) + at);
}

// Numbers in the type of the blob, from i on.
inline void write_numbers(void* out, int32_t values, int64_t i, const float* from, int64_t n) {
  if (n == 0) return;
  if (values == kF32) {
    std::memcpy(static_cast<float*>(out) + i, from, n * 4);
    return;
  }
  auto* to = static_cast<uint16_t*>(out) + i;
  for (int64_t j = 0; j < n; j++) to[j] = to_half(from[j], values);
}

inline float read_number(const void* numbers, int32_t values, int64_t i) {
  if (values == kF32) return static_cast<const float*>(numbers)[i];
  return from_half(static_cast<const uint16_t*>(numbers)[i], values);
}

// NaN != 0 holds, so NaN weights are kept; -0.0 is a structural zero.
inline int64_t count_nonzeros(const float* w, int64_t n) {
  int32_t count = 0;
  for (int64_t i = 0; i < n; i++) count += w[i] != 0;
  return count;
}

// Rows of one (tile, block) by descending count: runs of equal trip counts predict well.
inline void sort_rows(RowEntry* entry, int64_t rows) {
  std::stable_sort(entry, entry + rows,
                   [](const RowEntry& a, const RowEntry& b) { return a.count > b.count; });
}

// prefix[b + 1]: numbers in row blocks 0..b; segment: where each (tile, block) starts.
inline void sum_blocks(const PackedHeader& h, const int64_t* segment, int64_t* prefix) {
  const int64_t blocks = h.blocks(), segments = h.tiles() * blocks;
  const int64_t unit = h.format == kBlock ? int64_t(h.p) * h.q : 1;
  std::fill(prefix, prefix + blocks + 1, 0);
  for (int64_t s = 0; s < segments; s++)
    prefix[s % blocks + 1] += (segment[s + 1] - segment[s]) * unit;
  for (int64_t b = 0; b < blocks; b++) prefix[b + 1] += prefix[b];
}

// The segments follow one another, and the prefix sums up their sizes. total: of all of them.
inline bool segments_ok(const PackedHeader* h, int64_t total) {
  const auto* segment = section<int64_t>(h, h->segment_at);
  const auto* prefix = section<int64_t>(h, h->prefix_at);
  const int64_t blocks = h->blocks(), segments = h->tiles() * blocks;
  if (segment[0] != 0 || segment[segments] != total || prefix[0] != 0) return false;
  for (int64_t s = 0; s < segments; s++)
    if (segment[s] > segment[s + 1]) return false;
  std::vector<int64_t> sums(blocks + 1);
  sum_blocks(*h, segment, sums.data());
  return std::equal(sums.begin(), sums.end(), prefix);
}

// Entries of one (tile, block): each row once, counts that add up to `total`.
inline bool entries_ok(const RowEntry* entry, int64_t rows, int64_t total,
                       std::vector<char>& seen) {
  seen.assign(rows, 0);
  for (int64_t r = 0; r < rows; r++) {
    if (entry[r].row >= rows || seen[entry[r].row]++) return false;
    total -= entry[r].count;
  }
  return total == 0;
}

inline bool header_ok(const void* packed, int64_t bytes, PackedFormat format) {
  if (bytes < int64_t(sizeof(PackedHeader))) return false;
  const auto* h = static_cast<const PackedHeader*>(packed);
  return h->magic == kPackedMagic && h->version == kPackedVersion && h->format == format &&
         valid_sizes(h->rows, h->cols, tiles_of(*h)) && h->nnz >= 0 &&
         h->nnz <= kMaxWeights && h->groups > 0 && h->bytes <= bytes;
}

// One group of a weight after the other; 0 where bytes_of refuses one.
//   bytes_of(matrix of the group, tiles) -> int64_t
template <class BytesOf>
int64_t grouped_bytes(const Matrix& all, const Tiles& tiles, const BytesOf& bytes_of) {
  if (all.groups < 1 || all.M < 1 || all.M % all.groups) return 0;
  int64_t sum = 0;
  for (int64_t g = 0; g < all.groups; g++) {
    const int64_t rows = all.M / all.groups;
    const float* w = all.w ? all.w + g * rows * all.ldw : nullptr;
    const int64_t bytes = bytes_of(Matrix{w, rows, all.K, all.ldw, 1}, tiles);
    if (bytes == 0) return 0;
    sum += bytes;
  }
  return sum;
}

//   pack_one(matrix of the group, tiles, out)
template <class BytesOf, class PackOne>
int grouped_pack(const Matrix& all, const Tiles& tiles, void* out, const BytesOf& bytes_of,
                 const PackOne& pack_one) {
  if (grouped_bytes(all, tiles, bytes_of) == 0) return 0;
  auto* to = static_cast<char*>(out);
  for (int64_t g = 0; g < all.groups; g++) {
    const int64_t rows = all.M / all.groups;
    pack_one(Matrix{all.w + g * rows * all.ldw, rows, all.K, all.ldw, 1}, tiles, to);
    auto* h = reinterpret_cast<PackedHeader*>(to);
    h->groups = all.groups;
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

//   unpack_one(header, floats that are zero)
template <class UnpackOne>
void unpack_groups(const void* packed, float* w_out, const UnpackOne& unpack_one) {
  for_each_group(packed, [&](const PackedHeader* h) {
    std::fill(w_out, w_out + h->rows * h->cols, 0.f);
    unpack_one(h, w_out);
    w_out += h->rows * h->cols;
    return true;
  });
}

inline bool same_shape(const PackedHeader* a, const PackedHeader* b) {
  const Tiles s = tiles_of(*a), t = tiles_of(*b);
  return a->groups == b->groups && a->rows == b->rows && a->cols == b->cols &&
         std::memcmp(&s, &t, sizeof s) == 0;
}

// Each group by its own check, given the bytes that are left; and all alike.
//   check(packed, bytes) -> bool
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

// Columns of the fewest tiles whose panels, of `bytes` a row, are at most that large.
inline int even_tiles(int64_t kilobytes, int64_t K, int64_t bytes) {
  const int64_t fit = std::max<int64_t>(kilobytes * 1024 / bytes, 1), tiles = (K + fit - 1) / fit;
  return int(std::min((K + tiles - 1) / tiles + 7, K + 7) / 8 * 8);
}

// Tiles of at most `most` columns that end with a channel, if that is possible, as even as can be.
inline int whole_channels(int64_t most, int64_t K, int64_t taps) {
  if (taps > most || taps < 1) return int(std::max<int64_t>(std::min(most, K), 1));
  const int64_t channels = (K + taps - 1) / taps, fit = most / taps;
  const int64_t tiles = (channels + fit - 1) / fit;
  return int((channels + tiles - 1) / tiles * taps);
}

// Vectors of the panels of n columns, as even as can be, of about `good` and at most `widest`.
inline int even_panels(int64_t n, int width, int64_t good, int64_t widest) {
  const int64_t vectors = ((n > 0 ? n : 128) + width - 1) / width;
  const int64_t panels = std::max((vectors + good / 2 - 1) / good, (vectors + widest - 1) / widest);
  return int((vectors + panels - 1) / std::max<int64_t>(panels, 1));
}

// The tiles of csr, with columns in whole units; of rows of a panel, not by columns of a kernel.
inline void csr_like_tiles(const Layer& layer, int unit, Tiles& tiles) {
  Layer plain = layer;
  Tiles csr = tiles;
  csr.p = 0;
  plain.banded = 0;
  sc_csr_tiles(&plain, &csr);
  tiles.k_tile = (csr.k_tile + unit - 1) / unit * unit;
  tiles.panel_vectors = csr.panel_vectors;
  tiles.row_block = csr.row_block;
}

}  // namespace sc
