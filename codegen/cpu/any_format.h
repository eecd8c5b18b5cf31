// The kernel of whatever format a blob has, for programs that meet any: tests and benchmarks. A
// generated unit names its kernels, and instantiates no others.
#pragma once
#include "conv.h"
#include "linear.h"

namespace sc {

struct AnyFormat {
  const char* name;
  int32_t p, q;
  int64_t (*bytes)(const Matrix*, const Tiles*);
  int (*pack)(const Matrix*, const Tiles*, void*);
  void (*unpack)(const void*, float*);
  int (*check)(const void*, int64_t, int);
  void (*tiles)(const Layer*, Tiles*);
};

#define SC_FORMAT(family) sc_##family##_bytes, sc_##family##_pack, sc_##family##_unpack, \
                          sc_##family##_check, sc_##family##_tiles
constexpr AnyFormat kAnyFormat[] = {
    {"csr", 0, 0, SC_FORMAT(csr)},        {"dense", 0, 0, SC_FORMAT(dense)},
    {"bitmap", 0, 0, SC_FORMAT(bitmap)},  {"block_4x1", 4, 1, SC_FORMAT(block)},
    {"block_8x1", 8, 1, SC_FORMAT(block)}, {"block_16x1", 16, 1, SC_FORMAT(block)},
    {"block_32x1", 32, 1, SC_FORMAT(block)}, {"block_1x4", 1, 4, SC_FORMAT(block)},
    {"block_4x4", 4, 4, SC_FORMAT(block)}, {"block_8x8", 8, 8, SC_FORMAT(block)},
    {"sorted_8x1", 8, 1, SC_FORMAT(sorted)}, {"sorted_4x4", 4, 4, SC_FORMAT(sorted)},
    {"block_1x16", 1, 16, SC_FORMAT(block)}, {"nm_1_2", 1, 2, SC_FORMAT(nm)},
    {"nm_2_4", 2, 4, SC_FORMAT(nm)},      {"nm_1_4", 1, 4, SC_FORMAT(nm)},
    {"nm_3_7", 3, 7, SC_FORMAT(nm)},      {"nm_4_8", 4, 8, SC_FORMAT(nm)},
    {"nm_2_16", 2, 16, SC_FORMAT(nm)},    {"nm_5_20", 5, 20, SC_FORMAT(nm)},
    {"rows", 1, 0, SC_FORMAT(compact)},   {"columns", 0, 1, SC_FORMAT(compact)},
    {"rows_csr", 1, 0, SC_FORMAT(split)}, {"columns_csr", 0, 1, SC_FORMAT(split)},
    {"nm_2_4_csr", 2, 4, SC_FORMAT(split)},
};
#undef SC_FORMAT

// Blocks of 1 row and 4 or 16 columns, or of more rows and 1, 4 or 8.
// Calls kernel(apply of the blob's format), apply being one of apply_csr(h, share, source, y, ldy,
// n, scratch, epilogue) and its like.
template <class Kernel>
void with_format(const PackedHeader* h, const Kernel& kernel) {
  const auto apply = [&](auto apply) { kernel(apply); };
#define SC_APPLY(call)                                                                      \
  apply([](const PackedHeader* h, const Share& share, const auto& source, float* y, int64_t ldy, \
           int64_t n, float* scratch, const auto& e) {                                      \
    (void)n;                                                                                \
    call;                                                                                   \
  })
#define SC_BLOCK(R, C) SC_APPLY((apply_block<R, C>(h, share, source, y, ldy, scratch, e)))
  if (h->format == kCsr) return SC_APPLY(apply_csr(h, share, source, y, ldy, scratch, e));
  if (h->format == kBitmap) return SC_APPLY(apply_bitmap(h, share, source, y, ldy, scratch, e));
  if (h->format == kDense) return SC_APPLY(apply_dense(h, share, source, y, ldy, n, scratch, e));
  if (h->format == kBlock && h->p == 1) return h->q == 4 ? SC_BLOCK(1, 4) : SC_BLOCK(1, 16);
  if (h->format == kBlock && h->q == 1) return SC_BLOCK(4, 1);
  if (h->format == kBlock) return h->q == 4 ? SC_BLOCK(4, 4) : SC_BLOCK(4, 8);
  if (h->format == kCompact) return SC_APPLY(apply_compact(h, share, source, y, ldy, scratch, e));
  if (h->format == kSplit && h->q > 1)
    return SC_APPLY(apply_split<true>(h, share, source, y, ldy, scratch, e));
  if (h->format == kSplit)
    return SC_APPLY(apply_split<false>(h, share, source, y, ldy, scratch, e));
  SC_APPLY(apply_nm(h, share, source, y, ldy, scratch, e));
#undef SC_BLOCK
#undef SC_APPLY
}

// As linear_csr, for any blob but rows.
template <class Epilogue>
void linear_any(Team& team, const void* packed, const float* x, int64_t ldx, float* y, int64_t ldy,
                int64_t n, float* scratch, const Epilogue& epilogue) {
  const auto* h = static_cast<const PackedHeader*>(packed);
  with_format(h, [&](const auto& apply) {
    apply(h, divide(team, h, vectors(n)), PlainRows{x, ldx}, y, ldy, n, scratch, epilogue);
  });
}

// As conv_csr.
template <class Epilogue>
void conv_any(Team& team, const void* packed, const Window& w, const float* x, int64_t ldx,
              float* y, int64_t ldy, float* scratch, const Epilogue& epilogue) {
  const auto* header = static_cast<const PackedHeader*>(packed);
  if (header->format == kCsr) return conv_csr(team, packed, w, x, ldx, y, ldy, scratch, epilogue);
  if (header->format == kBlock && header->p >= kBlockRows) {
    if (header->q == 1)
      return conv_block<4, 1>(team, packed, w, x, ldx, y, ldy, scratch, epilogue);
    if (header->q == 4)
      return conv_block<4, 4>(team, packed, w, x, ldx, y, ldy, scratch, epilogue);
    return conv_block<4, 8>(team, packed, w, x, ldx, y, ldy, scratch, epilogue);
  }
  with_window(team, packed, w, x, ldx, scratch,
              [&](const PackedHeader* h, const Share& share, const auto& source) {
    with_format(h, [&](const auto& apply) {
      apply(h, share, source, y, ldy, w.out_columns(), scratch, epilogue);
    });
  });
}

}  // namespace sc
