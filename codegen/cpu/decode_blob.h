// A weight for few columns of activations: rows whole, one behind the other, as three kinds.
//   dense:  all numbers, rows padded to 64
//   bitmap: a bit for each column, in words of 64; the non-zeros
//   index:  a 16-bit column for each non-zero; the non-zeros
// Numbers are fp32, fp16 or bf16 (value.h). The blob describes itself; `run` is entered by the
// library that packs it or takes it over from a file, and never believed.
#pragma once
#include <cstdint>

namespace sc {

constexpr uint32_t kDecodeMagic = 0x4b504353;  // as other packed weights: the format tells
constexpr uint32_t kDecodeVersion = 1;
constexpr uint32_t kDecode = 64;  // where a packed weight has its format
constexpr int kFewColumns = 8;    // the most that these kernels compute at a time
constexpr int64_t kDecodeSlack = 128;  // bytes that kernels may read behind each array

enum DecodeKind : int32_t { kEachNumber = 0, kBitmapped = 1, kIndexed = 2 };

struct DecodeHeader;
// sums[row - row0][C] of rows [row0, row1), C columns of x.
using DecodeRun = void (*)(const DecodeHeader*, int64_t row0, int64_t row1, const float* x,
                           float* sums);

struct DecodeHeader {
  uint32_t magic, version, format;
  int32_t kind;
  int32_t values;  // 0: fp32, 1: fp16, 2: bf16
  int32_t width;   // floats per vector of the kernels in `run`
  int64_t rows, cols, nnz;
  int64_t bytes;  // a multiple of 64
  int64_t start_at;  // int64[rows + 1]: numbers stored before each row
  int64_t index_at;  // bitmap: uint64[rows][words]; index: uint16[nnz]
  int64_t value_at;
  DecodeRun run[4];  // for 1, 2, 4 and 8 columns
  int64_t reserved[2];

  int64_t words() const { return (cols + 63) / 64; }
  int64_t padded() const { return words() * 64; }
  template <class T>
  const T* section(int64_t at) const {
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(this) + at);
  }
};
static_assert(sizeof(DecodeHeader) == 128, "the header is part of the file format");

inline bool is_decode(const void* packed) {
  return static_cast<const uint32_t*>(packed)[2] == kDecode;
}

// The columns that a kernel computes for n of them: 1, 2, 4 or 8; and its place in `run`.
inline int decode_kernel(int64_t n) { return n <= 1 ? 0 : n == 2 ? 1 : n <= 4 ? 2 : 3; }

}  // namespace sc
