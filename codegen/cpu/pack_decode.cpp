// Packs, unpacks and checks the blobs of decode_blob.h, and enters this library's kernels in them.
#include "decode_pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "decode_rows.h"
#include "half.h"

using namespace sc;

namespace {

constexpr int64_t kMostSide = int64_t(1) << 31, kMostIndexed = 1 << 16;

int64_t whole_line(int64_t bytes) { return (bytes + 63) / 64 * 64; }
int64_t bytes_of(int values) { return values == 0 ? 4 : 2; }

void put_number(void* to, int64_t i, int values, float v) {
  if (values == 0) static_cast<float*>(to)[i] = v;
  else static_cast<uint16_t*>(to)[i] = to_half(v, values);
}

float get_number(const void* from, int64_t i, int values) {
  if (values == 0) return static_cast<const float*>(from)[i];
  return from_half(static_cast<const uint16_t*>(from)[i], values);
}

bool decode_sizes_ok(int64_t M, int64_t K, int kind, int values) {
  if (M < 1 || K < 1 || M >= kMostSide || K >= kMostSide || M * K >= int64_t(1) << 44) return false;
  if (kind == kIndexed && K > kMostIndexed) return false;
  return kind >= kEachNumber && kind <= kIndexed && values >= 0 && values <= 2;
}

DecodeHeader decode_header(int64_t M, int64_t K, int64_t nnz, int kind, int values) {
  DecodeHeader h{};
  h.magic = kDecodeMagic;
  h.version = kDecodeVersion;
  h.format = kDecode;
  h.kind = kind;
  h.values = values;
  h.rows = M;
  h.cols = K;
  h.nnz = nnz;
  h.start_at = sizeof h;
  h.index_at = whole_line(h.start_at + (M + 1) * 8);
  const int64_t index = kind == kBitmapped ? M * h.words() * 8 : kind == kIndexed ? nnz * 2 : 0;
  const int64_t stored = kind == kEachNumber ? M * h.padded() : nnz;
  h.value_at = whole_line(h.index_at + index + (index ? kDecodeSlack : 0));
  h.bytes = whole_line(h.value_at + stored * bytes_of(values) + kDecodeSlack);
  return h;
}

int64_t decode_nonzeros(const float* w, int64_t M, int64_t K, int64_t ldw) {
  int64_t nnz = 0;
  for (int64_t m = 0; m < M; m++) {
    int32_t count = 0;  // as 32 bits it vectorises
    for (int64_t k = 0; k < K; k++) count += w[m * ldw + k] != 0;
    nnz += count;
  }
  return nnz;
}

// One row; gives the numbers stored. No branch: which weights are zero cannot be predicted.
int64_t pack_decode_row(const DecodeHeader& h, char* base, int64_t m, int64_t at, const float* w) {
  void* value = base + h.value_at;
  if (h.kind == kEachNumber) {
    for (int64_t k = 0; k < h.cols; k++) put_number(value, at + k, h.values, w[k]);
    return h.padded();
  }
  auto* bits = reinterpret_cast<uint64_t*>(base + h.index_at) + m * h.words();
  auto* index = reinterpret_cast<uint16_t*>(base + h.index_at);
  const int64_t first = at;
  for (int64_t k = 0; k < h.cols; k++) {
    const bool there = w[k] != 0;
    put_number(value, at, h.values, w[k]);
    if (h.kind == kBitmapped) bits[k / 64] |= uint64_t(there) << (k % 64);
    else index[at] = uint16_t(k);
    at += there;
  }
  return at - first;
}

bool decode_ok(const DecodeHeader* h, int64_t bytes) {
  if (bytes < int64_t(sizeof *h) || h->magic != kDecodeMagic || h->version != kDecodeVersion ||
      h->format != kDecode || !decode_sizes_ok(h->rows, h->cols, h->kind, h->values) ||
      h->nnz < 0 || h->nnz > h->rows * h->cols || h->bytes > bytes)
    return false;
  const DecodeHeader want = decode_header(h->rows, h->cols, h->nnz, h->kind, h->values);
  if (want.bytes != h->bytes || want.start_at != h->start_at || want.index_at != h->index_at ||
      want.value_at != h->value_at)
    return false;
  const auto* start = h->section<int64_t>(h->start_at);
  const int64_t stored = h->kind == kEachNumber ? h->rows * h->padded() : h->nnz;
  if (start[0] != 0 || start[h->rows] != stored) return false;
  for (int64_t m = 0; m < h->rows; m++)
    if (start[m] > start[m + 1]) return false;
  return true;
}

// Columns inside the weight, and as many of them as each row has numbers.
bool decode_columns_ok(const DecodeHeader* h) {
  const auto* start = h->section<int64_t>(h->start_at);
  if (h->kind == kIndexed) {
    const auto* index = h->section<uint16_t>(h->index_at);
    return std::all_of(index, index + h->nnz, [&](uint16_t k) { return k < h->cols; });
  }
  if (h->kind == kEachNumber) {
    for (int64_t m = 0; m <= h->rows; m++)
      if (start[m] != m * h->padded()) return false;
    return true;
  }
  const auto* bits = h->section<uint64_t>(h->index_at);
  const int64_t tail = h->cols % 64;
  for (int64_t m = 0; m < h->rows; m++, bits += h->words()) {
    int64_t count = 0;
    for (int64_t i = 0; i < h->words(); i++) count += __builtin_popcountll(bits[i]);
    if (count != start[m + 1] - start[m] || (tail && bits[h->words() - 1] >> tail)) return false;
  }
  return true;
}

}  // namespace

extern "C" {

int sc_decode_kind(int64_t M, int64_t K, int64_t nnz, int values) {
  // Measured on 4096 x 11008 (Zen 5, two threads): where two kinds take the same time.
  const double density = double(nnz) / (double(M) * double(K));
  const double index = W == 16 ? (values ? .32 : .22) : W == 8 ? (values ? 1. : .27) : .5;
  const double dense = values ? .9 : .8;
  if (density >= dense) return kEachNumber;
  return density < index && K <= kMostIndexed ? kIndexed : kBitmapped;
}

int64_t sc_decode_bytes(const float* w, int64_t M, int64_t K, int64_t ldw, int kind, int values) {
  if (!decode_sizes_ok(M, K, kind, values)) return 0;
  for (int64_t m = 0; m < M; m++)
    if (!storable(w + m * ldw, K, values)) return 0;
  return decode_header(M, K, decode_nonzeros(w, M, K, ldw), kind, values).bytes;
}

int sc_decode_pack(const float* w, int64_t M, int64_t K, int64_t ldw, int kind, int values,
                   void* out) {
  if (!decode_sizes_ok(M, K, kind, values)) return 0;
  const DecodeHeader h =
      decode_header(M, K, decode_nonzeros(w, M, K, ldw), kind, values);
  auto* base = static_cast<char*>(out);
  std::memset(base, 0, h.bytes);
  std::memcpy(base, &h, sizeof h);
  auto* start = reinterpret_cast<int64_t*>(base + h.start_at);
  for (int64_t m = 0; m < M; m++) {
    if (!storable(w + m * ldw, K, values)) return 0;
    start[m + 1] = start[m] + pack_decode_row(h, base, m, start[m], w + m * ldw);
  }
  // The last row wrote one number behind the last non-zero.
  const int64_t used = h.value_at + start[M] * bytes_of(values);
  std::memset(base + used, 0, h.bytes - used);
  sc_decode_bind(out);
  return 1;
}

int64_t sc_decode_refer_bytes(int64_t M) { return whole_line(sizeof(DecodeHeader) + (M + 1) * 8); }

void sc_decode_refer(const float* w, int64_t M, int64_t K, void* out) {
  DecodeHeader h = decode_header(M, K, M * K, kEachNumber, 0);
  h.value_at = reinterpret_cast<const char*>(w) - static_cast<const char*>(out);
  h.bytes = sc_decode_refer_bytes(M);
  std::memcpy(out, &h, sizeof h);
  auto* start = reinterpret_cast<int64_t*>(static_cast<char*>(out) + h.start_at);
  for (int64_t m = 0; m <= M; m++) start[m] = m * K;
  sc_decode_bind(out);
}

void sc_decode_unpack(const void* packed, float* w_out) {
  const auto* h = static_cast<const DecodeHeader*>(packed);
  const auto* start = h->section<int64_t>(h->start_at);
  const auto* bits = h->section<uint64_t>(h->index_at);
  const auto* index = h->section<uint16_t>(h->index_at);
  const void* value = h->section<char>(h->value_at);
  std::fill(w_out, w_out + h->rows * h->cols, 0.f);
  for (int64_t m = 0; m < h->rows; m++, w_out += h->cols, bits += h->words()) {
    int64_t at = start[m];
    if (h->kind == kIndexed) {
      for (; at < start[m + 1]; at++) w_out[index[at]] = get_number(value, at, h->values);
      continue;
    }
    for (int64_t k = 0; k < h->cols; k++)
      if (h->kind == kEachNumber || bits[k / 64] >> (k % 64) & 1)
        w_out[k] = get_number(value, at++, h->values);
  }
}

int sc_decode_check(const void* packed, int64_t bytes) {
  const auto* h = static_cast<const DecodeHeader*>(packed);
  return decode_ok(h, bytes) && decode_columns_ok(h);
}

void sc_decode_bind(void* packed) {
  auto* h = static_cast<DecodeHeader*>(packed);
  if (h->values == 0) bind_run<float>(h);
  else if (h->values == 1) bind_run<F16>(h);
  else bind_run<Bf16>(h);
}

void sc_round_values(const float* from, int64_t n, int values, float* to) {
  for (int64_t i = 0; i < n; i++) {
    const bool fits = std::fabs(from[i]) < least_refused(values);
    to[i] = fits ? from_half(to_half(from[i], values), values) : from[i];
  }
}
}
