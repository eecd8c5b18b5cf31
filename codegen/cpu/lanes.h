// Vectors taken apart: lanes in another order, and values kept in registers.
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

using LaneList = std::make_integer_sequence<int, W>;

// Lanes 0, 2, .. and 1, 3, .. of a and b, which lie side by side, four lanes at a time: lanes 4 l and
// 4 l + 1 of the result are of a, the next two of b. One instruction each.
template <int... I>
SC_INLINE V even_fours(V a, V b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (I / 4 * 4 + I % 2 * 2 + I % 4 / 2 * W)...);
}
template <int... I>
SC_INLINE V odd_fours(V a, V b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (I / 4 * 4 + I % 2 * 2 + 1 + I % 4 / 2 * W)...);
}
// From that order into the plain one, and back.
template <int... I>
SC_INLINE V from_fours(V v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (I % (W / 2) / 2 * 4 + I % 2 + I / (W / 2) * 2)...);
}
template <int... I>
SC_INLINE VI to_fours(VI v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (I / 4 * 2 + I % 2 + I % 4 / 2 * (W / 2))...);
}

// Lanes 0, 2, .. and 1, 3, .. of two vectors that lie side by side. GCC finds the shorter way with
// AVX2 (two instructions, not three) only when told.
template <int... I>
SC_INLINE V even_lanes(V a, V b, std::integer_sequence<int, I...> list) {
  if constexpr (W == 8) return from_fours(even_fours(a, b, list), list);
  return __builtin_shufflevector(a, b, 2 * I...);
}
template <int... I>
SC_INLINE V odd_lanes(V a, V b, std::integer_sequence<int, I...> list) {
  if constexpr (W == 8) return from_fours(odd_fours(a, b, list), list);
  return __builtin_shufflevector(a, b, (2 * I + 1)...);
}

// Lane l of the result is lane lane[l] mod W of v.
SC_INLINE V permute(V v, VI lane) {
#if defined(__clang__)
  V out;
  for (int l = 0; l < W; l++) out[l] = v[lane[l] & (W - 1)];
  return out;
#else
  return __builtin_shuffle(v, lane);
#endif
}

// Lane l of the result is lane lane[l] mod 2W of a and b in a row.
SC_INLINE V permute(V a, V b, VI lane) {
#if defined(__clang__)
  V out;
  for (int l = 0; l < W; l++) out[l] = lane[l] & W ? b[lane[l] & (W - 1)] : a[lane[l] & (W - 1)];
  return out;
#else
  return __builtin_shuffle(a, b, lane);
#endif
}

}  // namespace sc
