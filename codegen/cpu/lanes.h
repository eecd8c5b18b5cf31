// Vectors taken apart: every other lane, and values kept in registers.
#pragma once
#include <utility>

#include "vec.h"

namespace sc {

// v, in a register: GCC would fold the load into each of its uses, and loads are what is scarce.
SC_INLINE V in_register(V v) {
#if defined(__AVX512F__) || (defined(__AVX__) && SC_WIDTH <= 8)
  asm("" : "+v"(v));
#elif defined(__aarch64__) && SC_WIDTH == 4
  asm("" : "+w"(v));
#endif
  return v;
}

// Lanes 0, 2, .. and 1, 3, .. of two vectors that lie side by side.
using LaneList = std::make_integer_sequence<int, W>;
template <int... I>
SC_INLINE V even_lanes(V a, V b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, 2 * I...);
}
template <int... I>
SC_INLINE V odd_lanes(V a, V b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (2 * I + 1)...);
}

}  // namespace sc
