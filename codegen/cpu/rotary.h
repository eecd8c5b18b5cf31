// Rotary position embedding in planes (Su et al. 2021): pairs of features of each head are turned by
// an angle that depends on the column's position.
#pragma once
#include "pointwise.h"

namespace sc {

// Row of feature d of head h: h * d_head + d; the first `rotated` (even) features of a head turn, the
// others are copied. cos, sin: planes of `rotated` rows with the same n columns. x may not be y.
// Halves (Hugging Face): feature d and its partner d +- rotated / 2;
// interleaved (GPT-J): features 2 i and 2 i + 1. The first of a pair: x cos - partner sin; the
// second: x cos + partner sin, each with its own row of cos and sin.
struct Rotary {
  int64_t heads, d_head, rotated;
  const float *x, *cos, *sin;
  float* y;
  int64_t ldx, ldcos, ldsin, ldy;
  bool interleaved;
};

inline void rotary(Team& team, const Rotary& r, int64_t n) {
  const int64_t half = r.rotated / 2;
  share_of_plane(team, r.heads * r.d_head, n, [&](int64_t row, int64_t first, int64_t last) {
    const int64_t d = row % r.d_head;
    const float* x = r.x + row * r.ldx;
    float* y = r.y + row * r.ldy;
    if (d >= r.rotated) {
      for (int64_t i = first; i < last; i += W) store(y + i, load(x + i));
      return;
    }
    const bool leads = r.interleaved ? d % 2 == 0 : d < half;
    const int64_t away = r.interleaved ? 1 : half;
    const float* partner = x + (leads ? away : -away) * r.ldx;
    const float *cos = r.cos + d * r.ldcos, *sin = r.sin + d * r.ldsin;
    const V sign = splat(leads ? -1.f : 1.f);
    for (int64_t i = first; i < last; i += W)
      store(y + i, load(x + i) * load(cos + i) + sign * load(partner + i) * load(sin + i));
  });
}

}  // namespace sc
