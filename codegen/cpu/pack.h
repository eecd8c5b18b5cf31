// The packed weight: one blob that describes itself, the same on every machine of its byte order.
// A header of plain integers, then 64-byte aligned arrays at byte offsets counted from the header,
// so that a blob can be mapped from a file and laid behind others in one weight stream.
//   csr:    [k tile][row block][row, sorted by count][non-zero]: a 16-bit row of the tile, a number;
//           with p = 3 by columns of a 3 x 3 kernel (pack_columns.h)
//   dense:  [k tile][row block][k][row of the block]: fp32, missing rows of the last block zero
//   rows:   where each row block lies in memory, fp32 row-major; made where it is used
//   block:  [k tile][row block][block row, sorted by count][group of rows][block][column][row]
//   nm:     [k tile][row][entry]: p entries for each q columns, padded with zeros
//   bitmap: csr, with a bit for each number of the tile instead of indices
//   compact: [k tile][row block][four rows][column][row]: rows or columns that hold a non-zero
//   split:  two blobs, compact or nm and then csr, of the same tiles; the weight is their sum
#pragma once
#include <cstdint>

namespace sc {

constexpr uint32_t kPackedMagic = 0x4b504353;  // "SCPK", little endian
constexpr uint32_t kPackedVersion = 3;
enum PackedFormat : uint32_t { kCsr = 1, kDense = 2, kRows = 3, kBlock = 4, kNm = 5, kBitmap = 6,
                               kCompact = 7, kSplit = 8 };
enum ValueType : int32_t { kF32 = 0, kF16 = 1, kBf16 = 2 };

constexpr int kMaxTile = 65535;      // indices and counts are 16 bits
constexpr int kMaxRowBlock = 65535;  // so is the place of a row in its block
constexpr int kMaxPanel = 16;        // vectors

constexpr int64_t value_bytes(int32_t values) { return values == kF32 ? 4 : 2; }

// Rows that share each loaded vector of x in the dense kernel: with 2 (3 for width 4) vectors they
// fill the registers of the ISA.
constexpr int dense_rows(int width) { return width == 16 ? 12 : width == 8 ? 6 : 8; }

// Rows that share each loaded vector of x in the block kernel: all of a block's, or four at a time.
constexpr int kBlockRows = 4;
constexpr int64_t block_group(int64_t p) { return p < kBlockRows ? 1 : kBlockRows; }

// Values of an index within a group of M columns: a power of two.
constexpr int64_t nm_slots(int64_t M) { return M <= 2 ? 2 : 2 * nm_slots((M + 1) / 2); }

struct PackedHeader {
  uint32_t magic, version, format;
  int32_t k_tile;         // columns of the weight (rows of x) per tile
  int32_t panel_vectors;  // the widest panel of x worth copying, in vectors
  int32_t row_block;      // rows sorted together (csr); rows sharing a loaded x (dense)
  int64_t rows, cols, nnz;
  int64_t bytes;  // of this matrix (split: of all groups), a multiple of 64
  // csr, block, bitmap, compact, split: int64[blocks + 1], numbers before each row block (all
  // tiles): what threads divide by; rows: int64[blocks], bytes from the header to each row block
  int64_t prefix_at;
  // csr, block, bitmap: int64[tiles * blocks + 1], the first number of each (tile, block); of block
  // in units of p * q numbers; compact: int64[tiles + 1], the first of the columns of each tile
  int64_t segment_at;
  int64_t row_at;    // RowEntry of each row (block row) of each tile, tile by tile
  // csr: uint16[nnz], row within the k tile; block: uint16[nnz / (p q)]; compact: uint16[columns];
  // split: the first blob
  int64_t index_at;
  int64_t value_at;  // numbers of type `values`; split: the second blob
  // A grouped weight is this many matrices of the same sizes and tiles, one behind the other; split:
  // so is each of its two blobs.
  int64_t groups;
  int32_t values;  // ValueType
  // block: rows and columns of a block; nm: N and M; csr: p = 3 or 0; compact: 1 for what is left
  // out, rows or columns; split: those of the first part
  int32_t p, q;
  int32_t reserved;
  // block, compact: int32[rows], the row of the weight that each stored row is; or 0
  int64_t order_at;

  int64_t blocks() const { return (rows + row_block - 1) / row_block; }
  int64_t tiles() const { return (cols + k_tile - 1) / k_tile; }
};
static_assert(sizeof(PackedHeader) == 128, "the header is part of the file format");

struct RowEntry {
  uint16_t row;    // within its row block
  uint16_t count;  // non-zeros within the k tile
};

template <class T>
inline const T* section(const PackedHeader* h, int64_t at) {
  return reinterpret_cast<const T*>(reinterpret_cast<const char*>(h) + at);
}

// csr by columns of a 3 x 3 kernel: uint16[3] for each row entry, its numbers under each dx; and
// the row of a panel for the tap of a channel, all channels of a tap together, the taps dx by dx.
// One row more than channels: at a power of two their vectors would share the sets of a cache.
inline bool by_columns(const PackedHeader* h) { return h->format == kCsr && h->p == 3; }
inline int64_t counts_at(const PackedHeader* h) {
  return (h->row_at + h->tiles() * h->rows * int64_t(sizeof(RowEntry)) + 63) / 64 * 64;
}
inline int64_t panel_row(const PackedHeader* h, int64_t channel, int64_t tap) {
  return (tap % 3 * 3 + tap / 3) * (h->k_tile / 9 + 1) + channel;
}
// Rows of the panels of a tile of `depth` columns.
inline int64_t panel_rows(const PackedHeader* h, int64_t depth) {
  return by_columns(h) ? h->k_tile + 9 : depth;
}

// Rows of row blocks [b0, b1) of a compact blob that are stored.
inline int64_t live_rows(const PackedHeader* h, int64_t b0, int64_t b1) {
  const int64_t* prefix = section<int64_t>(h, h->prefix_at);
  const int64_t columns = section<int64_t>(h, h->segment_at)[h->tiles()];
  return columns ? (prefix[b1] - prefix[b0]) / columns : 0;
}

// Panels of x that are copied together and then serve a whole row group: half of a small L2.
constexpr int64_t kPanelGroupBytes = 256 << 10;

inline int64_t group_vectors(const PackedHeader* h, int width) {
  const int64_t tile = h->k_tile < h->cols ? h->k_tile : h->cols;
  const int64_t fit = kPanelGroupBytes / (tile * width * 4);
  return fit > h->panel_vectors ? fit : h->panel_vectors;
}

// Where things lie in an nm blob: rows of `entries` numbers, and of words of 32 bits with their
// columns within their groups, `bits` each.
struct NmShape {
  int64_t slots, bits, per_word;
  const PackedHeader* h;

  explicit NmShape(const PackedHeader* h)
      : slots(nm_slots(h->q)), bits(63 - __builtin_clzll(slots)), per_word(32 / bits), h(h) {}
  // Entries of a row, and words of its indices, in tiles [t0, t1).
  int64_t entries(int64_t t0, int64_t t1) const {
    const int64_t k = t1 * h->k_tile < h->cols ? t1 * h->k_tile : h->cols;
    return (k - t0 * h->k_tile + h->q - 1) / h->q * h->p;
  }
  int64_t words(int64_t t0, int64_t t1) const {
    const int64_t whole = (entries(0, 1) + per_word - 1) / per_word;
    const int64_t last = (entries(t1 - 1, t1) + per_word - 1) / per_word;
    return t1 == t0 ? 0 : (t1 - t0 - 1) * whole + last;
  }
  // Where those of a row in a tile begin.
  int64_t number_at(int64_t t, int64_t row) const {
    return entries(0, t) * h->rows + row * entries(t, t + 1);
  }
  int64_t word_at(int64_t t, int64_t row) const {
    return words(0, t) * h->rows + row * words(t, t + 1);
  }
};

// Words of the mask of a row of a bitmap blob in tiles [0, t).
inline int64_t bitmap_words(const PackedHeader* h, int64_t t) {
  const int64_t k = t * h->k_tile < h->cols ? t * h->k_tile : h->cols;
  return (k + 63) / 64;
}

// Floats that a kernel needs beside the panels it copied: for indices made from bits, for a dense
// block converted to fp32.
inline int64_t own_floats(const PackedHeader* h) {
  if (h->format == kNm) {
    const NmShape shape(h);
    const int64_t row = shape.words(0, 1) * shape.per_word;
    return h->row_block + ((h->row_block + 1) * row + 1) / 2 + 16;  // 16 indices more, twice
  }
  const int64_t tile = h->k_tile < h->cols ? h->k_tile : h->cols;
  if (h->format == kDense && h->values != kF32) return tile * h->row_block;
  return h->format == kBitmap ? (int64_t(h->row_block) * tile + 1) / 2 + 4 : 0;  // 8 written ahead
}

// Floats of scratch that a thread needs to apply a weight: its panels, and its own.
inline int64_t applied_floats(const PackedHeader* h, int width) {
  if (h->format == kSplit) {
    const int64_t first = applied_floats(section<PackedHeader>(h, h->index_at), width);
    const int64_t rest = applied_floats(section<PackedHeader>(h, h->value_at), width);
    return first > rest ? first : rest;
  }
  const int64_t depth = panel_rows(h, h->k_tile < h->cols ? h->k_tile : h->cols);
  return group_vectors(h, width) * depth * width + own_floats(h);
}

// Whether threads divide rows by the numbers in them.
inline bool counts_work(const PackedHeader* h) {
  return h->format == kCsr || h->format == kBlock || h->format == kBitmap ||
         h->format == kCompact || h->format == kSplit;
}

// A weight to pack: fp32 [M, K], rows ldw floats apart. groups: M / groups rows to each, which read
// their own K rows of x.
struct Matrix {
  const float* w;
  int64_t M, K, ldw, groups;
};

// How to pack it. values: ValueType; p, q: as in the header.
struct Tiles {
  int32_t k_tile, panel_vectors, row_block, p, q, values;
};

// What tiles are chosen for. M, K, nnz: of one group; n: columns expected, 0 if unknown (a blob
// serves any number); taps: of a convolution, whose channels have so many columns each, 0 for a
// linear; width: the kernels' floats per vector, 4, 8 or 16; banded: whether bands of image rows
// serve the convolution (conv_bands.h).
struct Layer {
  int64_t M, K, nnz, n, taps;
  int32_t width, banded;
};

}  // namespace sc

extern "C" {
// A format is a set of five functions of these names and arguments.
//   bytes: of the blob; 0 for sizes, tiles or numbers that the format refuses
//   pack: writes so many bytes, 64-byte aligned; 0 where bytes is
//   unpack: writes [M, K] as fp32 without gaps
//   check: 1 where every offset, row and index is in bounds
//   tiles: sets k_tile, panel_vectors and row_block to what was measured good
#define SC_PACKED_FORMAT(name)                                                 \
  int64_t sc_##name##_bytes(const sc::Matrix* matrix, const sc::Tiles* tiles);        \
  int sc_##name##_pack(const sc::Matrix* matrix, const sc::Tiles* tiles, void* out);  \
  void sc_##name##_unpack(const void* packed, float* w_out);                          \
  int sc_##name##_check(const void* packed, int64_t bytes, int width);                \
  void sc_##name##_tiles(const sc::Layer* layer, sc::Tiles* tiles);
SC_PACKED_FORMAT(csr)
SC_PACKED_FORMAT(dense)
SC_PACKED_FORMAT(block)
SC_PACKED_FORMAT(sorted)  // block, its rows put in an order that fills blocks
SC_PACKED_FORMAT(nm)
SC_PACKED_FORMAT(bitmap)
SC_PACKED_FORMAT(compact)
SC_PACKED_FORMAT(split)
#undef SC_PACKED_FORMAT

// A dense weight that stays where it is: pieces one below the other, each [rows[i], K] without gaps.
// Row blocks across a seam, or short ones, are copied behind the table. The pieces must outlive it.
int64_t sc_rows_packed_bytes(const int64_t* rows, int64_t pieces, int64_t K, int row_block);
int sc_rows_pack(const float* const* piece, const int64_t* rows, int64_t pieces, int64_t K,
                 int k_tile, int panel_vectors, int row_block, void* out);

// Floats of 64-byte aligned scratch that each thread needs to apply this weight.
int64_t sc_linear_scratch_floats(const void* packed, int width);
}
