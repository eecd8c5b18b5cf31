// Attention on planes as generated code calls it: heads one after another in the rows, features
// inside a head.
#pragma once
#include "attention.h"
#include "relayout.h"

namespace sc {

inline int64_t attend_scratch_floats(int64_t d, int64_t dv) {
  Attention a{};
  a.d = d;
  a.dv = dv;
  return attention_scratch_floats(a);
}

// Keys: sk of each sample; key_part, key_stride: where threads hold keys each (see Attention).
inline void attend(Team& team, const float* q, int64_t ldq, const float* k, int64_t ldk,
                   const float* v, int64_t ldv, float* o, int64_t ldo, int64_t samples,
                   int64_t heads, int64_t group, int64_t sq, int64_t sk, int64_t d, int64_t dv,
                   float scale, bool causal, bool nan_rows, const float* mask, int64_t mask_b, int64_t mask_h,
                   int64_t mask_k, int64_t mask_q, int64_t mask_period, int64_t query0,
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
  a.mask_period = mask_period;
  a.query0 = query0, a.part = key_part, a.part_stride = key_stride;
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
