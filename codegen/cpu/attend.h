// Attention on planes as generated code calls it: heads one after another in the rows, features
// inside a head.
#pragma once
#include "attention.h"
#include "relayout.h"
#include "rest.h"

namespace sc {

inline int64_t attend_scratch_floats(int64_t d, int64_t dv) {
  Attention a{};
  a.d = d;
  a.dv = dv;
  return attention_scratch_floats(a);
}

// A thread's own queries, and for its part of the heads those of the rest behind them. keys_too:
// whether keys lie so as well.
inline void attend_rest(const Rest& rest, Attention a, bool keys_too, float* scratch) {
  if (keys_too) a.rest = rest.columns, a.rest_at = rest.id * rest.stride + a.part;
  const int64_t own = a.sq, h0 = a.heads * rest.id / rest.size;
  const int64_t h1 = a.heads * (rest.id + 1) / rest.size;
  const bool apart = a.causal || a.mask_q;  // then it matters where in the sample a query is
  for (int64_t h = 0; h < a.heads; h++) {
    a.sq = own + (h0 <= h && h < h1 && !apart ? rest.columns : 0);
    attention_of_head(a, 0, h, 0, vectors(a.sq), scratch);
  }
  if (apart) {
    Attention last = a;
    last.q += own, last.o += own, last.sq = rest.columns, last.query0 = rest.start;
    last.mask += a.mask_q * (rest.start - a.query0);
    for (int64_t h = h0; h < h1; h++) attention_of_head(last, 0, h, 0, vectors(last.sq), scratch);
  }
  give_rest(rest, a.o, a.ldo, h0 * a.dv, h1 * a.dv, own);
}

// Keys: sk of each sample; key_part, key_stride: where threads hold keys each (see Attention).
inline void attend(Team& team, const float* q, int64_t ldq, const float* k, int64_t ldk,
                   const float* v, int64_t ldv, float* o, int64_t ldo, int64_t samples,
                   int64_t heads, int64_t group, int64_t sq, int64_t sk, int64_t d, int64_t dv,
                   float scale, bool causal, bool nan_rows, const float* mask, int64_t mask_b,
                   int64_t mask_h, int64_t mask_k, int64_t mask_q, int64_t query0,
                   int64_t key_part, int64_t key_stride, float* scratch) {
  Attention a{};
  a.q = q, a.k = k, a.v = v, a.o = o;
  a.ldq = ldq, a.ldk = ldk, a.ldv = ldv, a.ldo = ldo;
  a.q_head = a.k_head = d;
  a.v_head = a.o_head = dv;
  a.q_feature = a.k_feature = a.v_feature = a.o_feature = 1;
  a.samples = samples, a.heads = heads, a.group = group, a.sq = sq, a.sk = sk, a.d = d, a.dv = dv;
  a.scale = scale, a.causal = causal;
  a.unseeing = nan_rows ? __builtin_nanf("") : 0;
  a.mask = mask, a.mask_b = mask_b, a.mask_h = mask_h, a.mask_k = mask_k, a.mask_q = mask_q;
  a.query0 = query0, a.part = key_part, a.part_stride = key_stride;
  if (team.rest.columns) return attend_rest(team.rest, a, key_part > 0, scratch);
  attention(team, a, scratch);
}

// A boolean or additive mask, row-major, as additive planes (see Attention).
inline void mask_to_planes(Team& team, const bool* src, const Strided& s, int64_t n, float* dst,
                           int64_t ld) {
  strided_to_planes<bool, ToAdditive>(team, src, s, n, dst, ld);
}
inline void mask_to_planes(Team& team, const float* src, const Strided& s, int64_t n, float* dst,
                           int64_t ld) {
  strided_to_planes<float, ToFloat>(team, src, s, n, dst, ld);
}

}  // namespace sc
