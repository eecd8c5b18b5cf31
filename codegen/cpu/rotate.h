// Rotary embeddings as generated code calls them.
#pragma once
#include "rotary.h"

namespace sc {

inline void rotate(Team& team, int64_t heads, int64_t d_head, int64_t rotated, const float* x,
                   int64_t ldx, const float* cos, int64_t ldcos, const float* sin, int64_t ldsin,
                   float* y, int64_t ldy, bool interleaved, int64_t n) {
  rotary(team, Rotary{heads, d_head, rotated, x, cos, sin, y, ldx, ldcos, ldsin, ldy, interleaved},
         n);
}

}  // namespace sc
