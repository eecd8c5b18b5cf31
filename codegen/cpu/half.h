// fp16 and bf16 as bits, one number at a time: for packers and for tensors at a segment's border.
#pragma once
#include <cstdint>

namespace sc {

struct F16 {
  uint16_t bits;
};
struct Bf16 {
  uint16_t bits;
};

inline uint32_t bits_of(float v) {
  uint32_t bits;
  __builtin_memcpy(&bits, &v, 4);
  return bits;
}
inline float of_bits(uint32_t bits) {
  float v;
  __builtin_memcpy(&v, &bits, 4);
  return v;
}

// Nearest fp16, ties to even, of a size below 65520.
inline uint16_t to_fp16(float v) {
  const uint32_t bits = bits_of(v), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude < 113u << 23)  // subnormal: whole multiples of 2^-24
    return uint16_t(sign | uint32_t(__builtin_nearbyintf(__builtin_fabsf(v) * 0x1p24f)));
  return uint16_t(sign | ((magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13));
}

// Nearest bf16, ties to even, of anything but NaN.
inline uint16_t to_bf16(float v) {
  const uint32_t bits = bits_of(v);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float from_bf16(uint16_t half) { return of_bits(uint32_t(half) << 16); }

// Of a finite one.
inline float from_fp16(uint16_t half) {
  return of_bits((uint32_t(half) & 0x8000) << 16 | (uint32_t(half) & 0x7fff) << 13) * 0x1p112f;
}

// `values`: 1 fp16, 2 bf16.
inline uint16_t to_half(float v, int values) { return values == 1 ? to_fp16(v) : to_bf16(v); }
inline float from_half(uint16_t bits, int values) {
  return values == 1 ? from_fp16(bits) : from_bf16(bits);
}

// What the type can hold lies below: from here on a number rounds to infinity.
inline float least_refused(int values) { return values == 1 ? 65520.f : 0x1.ffp127f; }

inline bool storable(const float* w, int64_t n, int values) {
  if (values == 0) return true;
  const float least = least_refused(values);
  bool fits = true;
  for (int64_t i = 0; i < n; i++) fits &= __builtin_fabsf(w[i]) < least;  // false for NaN
  return fits;
}

// Any number, infinities and NaN too.
inline float widened(F16 v) {
  const uint32_t sign = (uint32_t(v.bits) & 0x8000) << 16, rest = v.bits & 0x7fff;
  return rest >= 0x7c00 ? of_bits(sign | 0x7f800000 | (rest & 0x3ff) << 13) : from_fp16(v.bits);
}
inline float widened(Bf16 v) { return from_bf16(v.bits); }

inline void narrow(float v, F16& to) {
  const uint32_t sign = bits_of(v) >> 16 & 0x8000;
  if (v != v) to.bits = uint16_t(sign | 0x7e00);
  else to.bits = __builtin_fabsf(v) < 65520.f ? to_fp16(v) : uint16_t(sign | 0x7c00);
}
inline void narrow(float v, Bf16& to) {
  to.bits = v != v ? uint16_t(bits_of(v) >> 16 & 0x8000) | 0x7fc0 : to_bf16(v);
}

}  // namespace sc
