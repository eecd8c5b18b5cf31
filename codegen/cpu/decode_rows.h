// Few columns of activations: sums of whole rows of a weight, vectorised along the weight.
// At one column every number is used once, so memory decides: the fewest bytes win, if expanding
// them keeps up. Numbers are fetched far ahead, since each is read once and in order.
#pragma once
#include "decode_blob.h"
#include "decode_expand.h"

namespace sc {

constexpr int kFarAhead = 8192;  // bytes

SC_INLINE void fetch_far(const void* p) {
  __builtin_prefetch(static_cast<const char*>(p) + kFarAhead);
}

SC_INLINE float lanes_sum(V v) {
  float part[W];
  store(part, v);
  for (int n = W / 2; n > 0; n /= 2)
    for (int i = 0; i < n; i++) part[i] += part[i + n];
  return part[0];
}

// Independent sums hide the latency of the multiply-add.
constexpr int chains(int columns) { return columns >= 4 ? 1 : columns == 2 ? 2 : 4; }

template <int C, int A>
SC_INLINE void write_sums(const V (&acc)[A][C], float* sums) {
#pragma GCC unroll 8
  for (int c = 0; c < C; c++) {
    V sum = acc[0][c];
#pragma GCC unroll 4
    for (int a = 1; a < A; a++) sum += acc[a][c];
    sums[c] = lanes_sum(sum);
  }
}

// x: [C][padded], zeros behind the last column of the weight.
template <class T, int C>
SC_INLINE void dense_row(const T* value, int64_t padded, const float* x, float* sums) {
  constexpr int A = chains(C);
  V acc[A][C] = {};
  for (int64_t k = 0; k < padded; k += A * W) {
    fetch_far(value + k);
#pragma GCC unroll 4
    for (int a = 0; a < A; a++) {
      const V w = numbers(value + k + a * W);
#pragma GCC unroll 8
      for (int c = 0; c < C; c++) acc[a][c] += w * load(x + c * padded + k + a * W);
    }
  }
  write_sums(acc, sums);
}

// The mask of part `c` of a word of 64 columns, W columns to a part.
SC_INLINE uint32_t mask_at(const uint64_t* word, int c) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(word);
  uint32_t mask = 0;
  if constexpr (W == 16) __builtin_memcpy(&mask, bytes + 2 * c, 4);  // broadcast from memory
  else if constexpr (W == 8) mask = bytes[c];
  else mask = bytes[c / 2] >> c % 2 * 4 & 15;
  return mask;
}

template <class T, int C>
SC_INLINE void bitmap_row(const uint64_t* bits, const T* value, int64_t padded, const float* x,
                          const LaneBits& lanes, float* sums) {
  constexpr int A = chains(C);
  V acc[A][C] = {};
  for (int64_t k = 0; k < padded; k += 64, bits++) {
    fetch_far(value);
    fetch_far(reinterpret_cast<const char*>(value) + 64);
#pragma GCC unroll 16
    for (int part = 0; part < 64 / W; part++) {
      const uint32_t mask = mask_at(bits, part);
      const V w = expand(value, expansion(mask, lanes));
      value += __builtin_popcount(W == 16 ? mask & 0xffff : mask);
#pragma GCC unroll 8
      for (int c = 0; c < C; c++) acc[part % A][c] += w * load(x + c * padded + k + part * W);
    }
  }
  write_sums(acc, sums);
}

// One column: eight numbers of x picked by their indices. Eight also with wider vectors: building
// one from single loads costs more than what it saves.
constexpr int kPicked = W < 8 ? W : 8;
typedef float Picked __attribute__((vector_size(kPicked * 4), aligned(4), may_alias));

SC_INLINE Picked picked_numbers(const float* p) { return *(const Picked*)p; }
template <class T>
SC_INLINE Picked picked_numbers(const T* p) {
  using From = FromUpper<T>;
  typedef uint16_t Stored __attribute__((vector_size(kPicked * 2), aligned(2), may_alias));
  typedef int32_t Ints __attribute__((vector_size(kPicked * 4), aligned(4), may_alias));
  const Ints upper = __builtin_convertvector(*(const Stored*)p, Ints) << 16;
  return From::scaled((Picked)(From::placed(upper) & From::kKept));
}

SC_INLINE Picked pick(const uint16_t* index, const float* x) {
  Picked found;
#pragma GCC unroll 2
  for (int i = 0; i < kPicked; i += 4) {  // four indices are one load
    uint64_t four;
    __builtin_memcpy(&four, index + i, 8);
    found[i] = x[four & 0xffff];
    found[i + 1] = x[four >> 16 & 0xffff];
    found[i + 2] = x[four >> 32 & 0xffff];
    found[i + 3] = x[four >> 48];
  }
  return found;
}

template <class T>
SC_INLINE float picked_row(const uint16_t* index, const T* value, int64_t count, const float* x) {
  Picked acc[2] = {};
  int64_t i = 0;
  for (; i + 2 * kPicked <= count; i += 2 * kPicked) {
    fetch_far(index + i);
    fetch_far(value + i);
#pragma GCC unroll 2
    for (int a = 0; a < 2; a++)
      acc[a] += picked_numbers(value + i + a * kPicked) * pick(index + i + a * kPicked, x);
  }
  float sum = 0;
  for (; i < count; i++) sum += number(value[i]) * x[index[i]];
  acc[0] += acc[1];
  for (int lane = 0; lane < kPicked; lane++) sum += acc[0][lane];
  return sum;
}

// Several columns. x: [column of the weight][C], so that a non-zero meets all of them at once.
template <class T, int C>
SC_INLINE void index_row(const uint16_t* index, const T* value, int64_t count, const float* x,
                         float* sums) {
  if constexpr (C == 1) {
    sums[0] = picked_row(index, value, count, x);
  } else {
    typedef float Columns __attribute__((vector_size(C * 4), aligned(4), may_alias));
    Columns acc[4] = {};
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
      fetch_far(index + i);
      fetch_far(value + i);
#pragma GCC unroll 4
      for (int a = 0; a < 4; a++)
        acc[a] += number(value[i + a]) * *(const Columns*)(x + index[i + a] * int64_t(C));
    }
    for (; i < count; i++) acc[0] += number(value[i]) * *(const Columns*)(x + index[i] * int64_t(C));
    *(Columns*)sums = (acc[0] + acc[1]) + (acc[2] + acc[3]);
  }
}

template <class T, int C>
void dense_rows(const DecodeHeader* h, int64_t row0, int64_t row1, const float* x, float* sums) {
  const auto* value = h->section<T>(h->value_at) + row0 * h->padded();
  for (int64_t r = row0; r < row1; r++, sums += C, value += h->padded())
    dense_row<T, C>(value, h->padded(), x, sums);
}

template <class T, int C>
void bitmap_rows(const DecodeHeader* h, int64_t row0, int64_t row1, const float* x, float* sums) {
  const auto* start = h->section<int64_t>(h->start_at);
  const auto* bits = h->section<uint64_t>(h->index_at) + row0 * h->words();
  const LaneBits lanes;
  for (int64_t r = row0; r < row1; r++, sums += C, bits += h->words())
    bitmap_row<T, C>(bits, h->section<T>(h->value_at) + start[r], h->padded(), x, lanes, sums);
}

template <class T, int C>
void index_rows(const DecodeHeader* h, int64_t row0, int64_t row1, const float* x, float* sums) {
  const auto* start = h->section<int64_t>(h->start_at);
  for (int64_t r = row0; r < row1; r++, sums += C)
    index_row<T, C>(h->section<uint16_t>(h->index_at) + start[r],
                    h->section<T>(h->value_at) + start[r], start[r + 1] - start[r], x, sums);
}

template <class T>
void bind_run(DecodeHeader* h) {
  using Four_ = DecodeRun[4];
  const Four_ dense = {dense_rows<T, 1>, dense_rows<T, 2>, dense_rows<T, 4>, dense_rows<T, 8>};
  const Four_ bitmap = {bitmap_rows<T, 1>, bitmap_rows<T, 2>, bitmap_rows<T, 4>, bitmap_rows<T, 8>};
  const Four_ index = {index_rows<T, 1>, index_rows<T, 2>, index_rows<T, 4>, index_rows<T, 8>};
  for (int i = 0; i < 4; i++)
    h->run[i] = h->kind == kEachNumber ? dense[i] : h->kind == kBitmapped ? bitmap[i] : index[i];
  h->width = W;
}

}  // namespace sc
