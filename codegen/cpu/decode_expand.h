// Expands packed numbers into the lanes that a bitmap names: lane j takes number
// popcount(mask & (2^j - 1)), other lanes 0. One shuffle, whose indices are counted where the ISA
// counts bits in vectors, and looked up where it does not.
#pragma once
#include "value.h"

namespace sc {

constexpr int kTableLanes = W == 4 ? 4 : 8;

// For each mask of kTableLanes lanes, the number that each lane takes; -1: none.
struct RankTable {
  int32_t rank[1 << kTableLanes][kTableLanes];

  constexpr RankTable() : rank() {
    for (int mask = 0; mask < 1 << kTableLanes; mask++)
      for (int lane = 0, next = 0; lane < kTableLanes; lane++)
        rank[mask][lane] = mask >> lane & 1 ? next++ : -1;
  }
};
alignas(64) constexpr RankTable kRanks;

// Which number each lane takes, and which lanes take one (all bits set).
struct Expansion {
  VI rank, taken;
};

struct LaneBits {
  VI bit, below;

  SC_INLINE LaneBits() {
    for (int i = 0; i < W; i++) bit[i] = 1 << i, below[i] = (1 << i) - 1;
  }
};

// mask: of W lanes; with W == 16 its upper bits may be anything.
SC_INLINE Expansion expansion(uint32_t mask, const LaneBits& lanes) {
  if constexpr (W == 16) {
    const VI taken = (lanes.bit & int32_t(mask)) != 0;
#ifdef __AVX512VPOPCNTDQ__
    VI rank = lanes.below & int32_t(mask);
    for (int i = 0; i < W; i++) rank[i] = __builtin_popcount(rank[i]);
    return {rank, taken};
#else
    const int low = mask & 255, high = mask >> 8 & 255, count = __builtin_popcount(low);
    VI rank, first = {};
    __builtin_memcpy(&rank, kRanks.rank[low], 32);
    __builtin_memcpy(reinterpret_cast<char*>(&rank) + 32, kRanks.rank[high], W * 4 - 32);
    for (int i = 8; i < W; i++) first[i] = count;
    return {rank + first, taken};
#endif
  } else {
    VI rank;
    __builtin_memcpy(&rank, kRanks.rank[mask], W * 4);
    return {rank, rank >= 0};
  }
}

SC_INLINE V expand(const float* p, const Expansion& e) {
  return select(e.taken, __builtin_shuffle(load(p), e.rank), V{});
}

template <class T>
SC_INLINE V expand(const T* p, const Expansion& e) {
#ifdef __AVX512BW__
  if constexpr (W == 16) {  // halves move before they are converted: one permutation for both
    using From = FromUpper<T>;
    const auto order = (TwiceHalves)(e.rank << 16);
    const auto upper = (VI)__builtin_shuffle(*(const TwiceHalves*)p, order);
    const VI bits = From::placed(upper) & From::kKept;
    return From::scaled((V)(e.taken ? bits : VI{}));
  }
#endif
  return select(e.taken, __builtin_shuffle(numbers(p), e.rank), V{});
}

}  // namespace sc
