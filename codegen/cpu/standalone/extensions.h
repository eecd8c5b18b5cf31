// Extensions that a compiler may use by itself: name in the compiler's macro, name for the CPU.
#pragma once

#if defined(__x86_64__)
#define SC_FEATURES(X)                                                                        \
  X(SSE3, sse3) X(SSSE3, ssse3) X(SSE4_1, sse4.1) X(SSE4_2, sse4.2) X(SSE4A, sse4a)           \
  X(POPCNT, popcnt) X(LZCNT, lzcnt) X(BMI, bmi) X(BMI2, bmi2) X(AVX, avx) X(AVX2, avx2)       \
  X(FMA, fma) X(FMA4, fma4) X(XOP, xop) X(F16C, f16c) X(AVX512F, avx512f)                     \
  X(AVX512VL, avx512vl) X(AVX512BW, avx512bw) X(AVX512DQ, avx512dq) X(AVX512CD, avx512cd)     \
  X(AVX512IFMA, avx512ifma) X(AVX512VBMI, avx512vbmi) X(AVX512VBMI2, avx512vbmi2)             \
  X(AVX512VNNI, avx512vnni) X(AVX512BITALG, avx512bitalg)                                     \
  X(AVX512VPOPCNTDQ, avx512vpopcntdq) X(AVX512BF16, avx512bf16) X(GFNI, gfni)                 \
  X(VPCLMULQDQ, vpclmulqdq)
#else
#define SC_FEATURES(X)  // what the base instruction set has is enough
#endif
