// How weights are stored: fp32, fp16 (F16) or bf16 (Bf16); what kernels compute with is fp32.
// fp16 by integer steps that every ISA has: its bits, sign extended and shifted into place, are an
// fp32 of 2^-112 times the value, subnormals included. Infinities and NaN are never stored so.
#pragma once
#include "half.h"
#include "vec.h"

namespace sc {

typedef uint16_t Halves __attribute__((vector_size(W * 2), aligned(2), may_alias));
typedef uint16_t TwiceHalves __attribute__((vector_size(W * 4), aligned(2), may_alias));
typedef uint32_t VU __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t FourInts __attribute__((vector_size(16), aligned(4), may_alias));
typedef uint16_t FourHalves __attribute__((vector_size(8), aligned(2), may_alias));

// What stands in the upper half of each lane (anything in the lower one) as fp32.
template <class T>
struct FromUpper;
template <>
struct FromUpper<Bf16> {
  static constexpr int32_t kKept = int32_t(0xffff0000);
  template <class Ints>
  static SC_INLINE Ints placed(Ints upper) { return upper; }
  template <class Floats>
  static SC_INLINE Floats scaled(Floats v) { return v; }
};
template <>
struct FromUpper<F16> {
  static constexpr int32_t kKept = int32_t(0x8fffe000);
  template <class Ints>
  static SC_INLINE Ints placed(Ints upper) { return upper >> 3; }
  template <class Floats>
  static SC_INLINE Floats scaled(Floats v) { return v * 0x1p112f; }
};

SC_INLINE float number(float v) { return v; }
template <class T>
SC_INLINE float number(T v) {
  using From = FromUpper<T>;
  const int32_t bits = From::placed(int32_t(uint32_t(v.bits) << 16)) & From::kKept;
  float f;
  __builtin_memcpy(&f, &bits, 4);
  return From::scaled(f);
}

// W halves into the upper halves of W lanes. (One permutation of a vector twice as wide takes 11
// times as long: it is made in memory, and a wide load waits for the narrow store before it.)
SC_INLINE VI upper_halves(const void* p) {
  return (VI)(__builtin_convertvector(*(const Halves*)p, VU) << 16);
}

// W numbers as a vector.
SC_INLINE V numbers(const float* p) { return load(p); }
template <class T>
SC_INLINE V numbers(const T* p) {
  using From = FromUpper<T>;
  return From::scaled((V)(From::placed(upper_halves(p)) & From::kKept));
}

// Four numbers.
SC_INLINE Four four_numbers(const float* p) { return *(const Four*)p; }
template <class T>
SC_INLINE Four four_numbers(const T* p) {
  using From = FromUpper<T>;
  const auto upper = (FourInts)(__builtin_convertvector(*(const FourHalves*)p, FourInts) << 16);
  return From::scaled((Four)(From::placed(upper) & From::kKept));
}

}  // namespace sc
