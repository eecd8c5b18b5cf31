// The one vector type of all kernels: W floats, W set per ISA by -DSC_WIDTH=4|8|16.
// GCC/Clang vector extensions only, so the same source serves NEON, AVX2 and AVX-512;
// <immintrin.h> stays out because parsing it alone costs more than compiling a kernel.
#pragma once
#include <cstdint>

#ifndef SC_WIDTH
#error "compile with -DSC_WIDTH=4, 8 or 16 (floats per vector)"
#endif
#define SC_INLINE inline __attribute__((always_inline))

namespace sc {

constexpr int W = SC_WIDTH;
// aligned(4): loads and stores are unaligned ones, which cost nothing on aligned data.
typedef float V __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef int32_t VI __attribute__((vector_size(W * 4), aligned(4), may_alias));

SC_INLINE V load(const float* p) { return *(const V*)p; }
SC_INLINE void store(float* p, V v) { *(V*)p = v; }
SC_INLINE V splat(float f) { return f - V{}; }
SC_INLINE VI splat_int(int32_t i) { return i - VI{}; }
SC_INLINE V select(VI mask, V a, V b) { return mask ? a : b; }

// The first n lanes only: for the last vector of a row whose neighbour is somebody else's.
SC_INLINE void store_part(float* p, V v, int n) {
  for (int i = 0; i < n; i++) p[i] = v[i];
}

SC_INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

// Number of vectors that cover n floats.
SC_INLINE int64_t vectors(int64_t n) { return (n + W - 1) / W; }

}  // namespace sc
