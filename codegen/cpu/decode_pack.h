// Weights for few columns: packing them, and the choice between the kinds of rows.
#pragma once
#include <cstdint>

extern "C" {
// The kind (decode_blob.h) that should take least time for a weight of so many non-zeros, its
// numbers stored as `values` (0: fp32, 1: fp16, 2: bf16).
int sc_decode_kind(int64_t M, int64_t K, int64_t nnz, int values);
// w: fp32 [M, K], rows ldw floats apart. 0: sizes, kind or values out of range, or a number that
// `values` cannot hold (above its range, or not finite: those are fp32's).
int64_t sc_decode_bytes(const float* w, int64_t M, int64_t K, int64_t ldw, int kind, int values);
int sc_decode_pack(const float* w, int64_t M, int64_t K, int64_t ldw, int kind, int values,
                   void* out);
// A dense fp32 weight that stays where it is, without gaps, K a multiple of 64; it must outlive the
// blob.
int64_t sc_decode_refer_bytes(int64_t M);
void sc_decode_refer(const float* w, int64_t M, int64_t K, void* out);
void sc_decode_unpack(const void* packed, float* w_out);
// 1: all offsets, counts and columns are in bounds. Does not look at `run`.
int sc_decode_check(const void* packed, int64_t bytes);
// Enters the kernels of this library: to be called for a blob from anywhere else, after the check.
void sc_decode_bind(void* packed);
// fp32 -> the nearest number of `values` (1 or 2), ties to even, and back; what they cannot hold
// stays as it is.
void sc_round_values(const float* from, int64_t n, int values, float* to);
}
