// The packed weight: one blob that describes itself, the same on every machine of its byte order.
// A header of plain integers, then 64-byte aligned arrays at byte offsets counted from the header,
// so that a blob can be mapped from a file and laid behind others in one weight stream.
//   csr:   [k tile][row block][row, sorted by count][non-zero]: a 16-bit row of the tile, an fp32
//   dense: [k tile][row block][k][row of the block]: fp32, missing rows of the last block zero
//   rows:  where each row block lies in memory, fp32 row-major; made where it is used
#pragma once
#include <cstdint>

namespace sc {

constexpr uint32_t kPackedMagic = 0x4b504353;  // "SCPK", little endian
constexpr uint32_t kPackedVersion = 2;
enum PackedFormat : uint32_t { kCsr = 1, kDense = 2, kRows = 3 };

constexpr int kMaxTile = 65535;      // indices and counts are 16 bits
constexpr int kMaxRowBlock = 65535;  // so is the place of a row in its block
constexpr int kMaxPanel = 16;        // vectors

// Rows that share each loaded vector of x in the dense kernel: with 2 (3 for width 4) vectors they
// fill the registers of the ISA.
constexpr int dense_rows(int width) { return width == 16 ? 12 : width == 8 ? 6 : 8; }

struct PackedHeader {
  uint32_t magic, version, format;
  int32_t k_tile;         // columns of the weight (rows of x) per tile
  int32_t panel_vectors;  // the widest panel of x worth copying, in vectors
  int32_t row_block;      // rows sorted together (csr); rows sharing a loaded x (dense)
  int64_t rows, cols, nnz;
  int64_t bytes;  // of this matrix, a multiple of 64
  // csr: int64[blocks + 1], non-zeros before each row block (all tiles): what threads divide by
  // rows: int64[blocks], bytes from the header to each row block
  int64_t prefix_at;
  // csr: int64[tiles * blocks + 1], the first non-zero of each (tile, block)
  int64_t segment_at;
  int64_t row_at;    // csr: RowEntry[tiles * rows], tile by tile
  int64_t index_at;  // csr: uint16[nnz], row within the k tile
  int64_t value_at;  // fp32[nnz], or the dense array
  // A grouped weight is this many matrices of the same sizes and tiles, one behind the other.
  int64_t groups;
  int64_t reserved[3];

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

// Panels of x that are copied together and then serve a whole row group: half of a small L2.
constexpr int64_t kPanelGroupBytes = 256 << 10;

inline int64_t group_vectors(const PackedHeader* h, int width) {
  const int64_t tile = h->k_tile < h->cols ? h->k_tile : h->cols;
  const int64_t fit = kPanelGroupBytes / (tile * width * 4);
  return fit > h->panel_vectors ? fit : h->panel_vectors;
}

}  // namespace sc

extern "C" {
// w: fp32 [M, K], rows ldw floats apart. `out`: 64-byte aligned, as many bytes as the first says.
// All return 0, or no bytes, for sizes or tiles out of range. A format is a set of functions of
// these names and arguments, sc_<format>_...; some need not look at all of them.
int64_t sc_csr_packed_bytes(const float* w, int64_t M, int64_t K, int64_t ldw, int k_tile,
                            int panel_vectors, int row_block);
int sc_csr_pack(const float* w, int64_t M, int64_t K, int64_t ldw, int k_tile, int panel_vectors,
                int row_block, void* out);
void sc_csr_unpack(const void* packed, float* w_out);
int sc_csr_check(const void* packed, int64_t bytes);  // 1: every offset, row and index is in bounds

int64_t sc_dense_packed_bytes(const float* w, int64_t M, int64_t K, int64_t ldw, int k_tile,
                              int panel_vectors, int row_block);
int sc_dense_pack(const float* w, int64_t M, int64_t K, int64_t ldw, int k_tile, int panel_vectors,
                  int row_block, void* out);
void sc_dense_unpack(const void* packed, float* w_out);
// `width`: the kernels' floats per vector, since the rows of a dense block are those of a kernel.
int sc_dense_check(const void* packed, int64_t bytes, int width);

// The same for a grouped weight [M, K], M / groups rows to each group, which read their own K rows
// of x. Unpacking and checking take grouped blobs as they are. groups must divide M.
int64_t sc_csr_grouped_bytes(const float* w, int64_t M, int64_t K, int64_t ldw, int64_t groups,
                             int k_tile, int panel_vectors, int row_block);
int sc_csr_grouped_pack(const float* w, int64_t M, int64_t K, int64_t ldw, int64_t groups,
                        int k_tile, int panel_vectors, int row_block, void* out);
int64_t sc_dense_grouped_bytes(const float* w, int64_t M, int64_t K, int64_t ldw, int64_t groups,
                               int k_tile, int panel_vectors, int row_block);
int sc_dense_grouped_pack(const float* w, int64_t M, int64_t K, int64_t ldw, int64_t groups,
                          int k_tile, int panel_vectors, int row_block, void* out);

// A dense weight that stays where it is: pieces one below the other, each [rows[i], K] without gaps.
// Row blocks across a seam, or short ones, are copied behind the table. The pieces must outlive it.
int64_t sc_rows_packed_bytes(const int64_t* rows, int64_t pieces, int64_t K, int row_block);
int sc_rows_pack(const float* const* piece, const int64_t* rows, int64_t pieces, int64_t K,
                 int k_tile, int panel_vectors, int row_block, void* out);

// Tiles measured good for `width` floats per vector (4, 8 or 16). n: the columns expected, 0 if
// unknown; the blob then still serves any number.
void sc_csr_default_tiles(int64_t M, int64_t K, int64_t nnz, int64_t n, int width, int* k_tile,
                          int* panel_vectors, int* row_block);
void sc_dense_default_tiles(int64_t M, int64_t K, int64_t nnz, int64_t n, int width, int* k_tile,
                            int* panel_vectors, int* row_block);
// The same for a convolution: `taps` columns of the weight belong to each channel; M, K and nnz are
// those of one group; n: output columns.
void sc_csr_conv_tiles(int64_t M, int64_t K, int64_t nnz, int64_t n, int64_t taps, int width,
                       int* k_tile, int* panel_vectors, int* row_block);
void sc_dense_conv_tiles(int64_t M, int64_t K, int64_t nnz, int64_t n, int64_t taps, int width,
                         int* k_tile, int* panel_vectors, int* row_block);
// Floats of 64-byte aligned scratch that each thread needs to apply this weight.
int64_t sc_linear_scratch_floats(const void* packed, int width);
}
