// One column of activations, row-major: what lies between the linears of a decoding step.
// Everything here is small beside the weights; a call reads its input whole in every thread where
// that spares a wait.
#pragma once
#include "decode.h"
#include "epilogues.h"
#include "math.h"

namespace sc {

// This thread's part of n numbers, in whole vectors.
SC_INLINE int64_t part_of(const Team& team, int64_t i, int64_t n) {
  return i == team.size ? n : vectors(n) * i / team.size * W;
}

// y = f((x - mean) / sqrt(var + eps), reads...); without `centred` the mean is taken as 0.
template <class F, class... Reads>
void norm_row(Team& team, int64_t n, float eps, bool centred, const float* x, float* y, const F& f,
              const Reads&... reads) {
  V sums = {};
  int64_t i = 0;
  float mean = 0, square = 0;
  if (centred) {
    for (; i + W <= n; i += W) sums += load(x + i);
    for (; i < n; i++) mean += x[i];
    for (int j = 0; j < W; j++) mean += sums[j];
    mean /= float(n);
  }
  sums = V{};
  for (i = 0; i + W <= n; i += W) {
    const V away = load(x + i) - splat(mean);
    sums += away * away;
  }
  for (; i < n; i++) square += (x[i] - mean) * (x[i] - mean);
  for (int j = 0; j < W; j++) square += sums[j];
  const float scale = 1.f / __builtin_sqrtf(square / float(n) + eps);

  const int64_t end = part_of(team, team.id + 1, n);
  for (i = part_of(team, team.id, n); i + W <= end; i += W)
    store(y + i, f((load(x + i) - splat(mean)) * splat(scale), reads.vector(i)...));
  for (; i < end; i++) y[i] = f((x[i] - mean) * scale, reads.at(i)...);
}

// As rotary.h, x and y [heads][d_head], cos and sin [rotated].
inline void rotate_row(Team& team, int64_t heads, int64_t d_head, int64_t rotated, const float* x,
                       const float* cos, const float* sin, float* y, bool interleaved) {
  const int64_t half = rotated / 2;
  for (int64_t h = team.first(heads); h < team.last(heads); h++) {
    const float* from = x + h * d_head;
    float* to = y + h * d_head;
    for (int64_t d = 0; d < rotated && interleaved; d += 2) {
      to[d] = from[d] * cos[d] - from[d + 1] * sin[d];
      to[d + 1] = from[d + 1] * cos[d + 1] + from[d] * sin[d + 1];
    }
    for (int64_t d = 0; d < half && !interleaved; d++) {
      to[d] = from[d] * cos[d] - from[d + half] * sin[d];
      to[d + half] = from[d + half] * cos[d + half] + from[d] * sin[d + half];
    }
    for (int64_t d = rotated; d < d_head; d++) to[d] = from[d];
  }
}

// softmax(q k^T scale + mask) v of one query. q [heads][d], k [groups][keys][d], v [groups][keys][dv],
// y [heads][dv]. mask: bool (true: attend), float (added), or null; `head_stride` from one head's
// to the next. A query that may attend to nothing gives zeros, or NaN if `nan_rows`.
struct OneQuery {
  int64_t heads, groups, keys, d, dv;
  float scale;
  bool nan_rows;
  int64_t head_stride;
};

inline int64_t attend_row_scratch_floats(int64_t keys) { return keys + W; }

SC_INLINE float dot(const float* a, const float* b, int64_t n) {
  V sum[2] = {};
  int64_t i = 0;
  for (; i + 2 * W <= n; i += 2 * W) {
    sum[0] += load(a + i) * load(b + i);
    sum[1] += load(a + i + W) * load(b + i + W);
  }
  for (; i + W <= n; i += W) sum[0] += load(a + i) * load(b + i);
  sum[0] += sum[1];
  float total = 0;
  for (; i < n; i++) total += a[i] * b[i];
  float part[W];
  store(part, sum[0]);
  for (int wide = W / 2; wide > 0; wide /= 2)
    for (int j = 0; j < wide; j++) part[j] += part[j + wide];
  return total + part[0];
}

SC_INLINE float masked(float score, const bool* mask, int64_t s) {
  return mask[s] ? score : -__builtin_inff();
}
SC_INLINE float masked(float score, const float* mask, int64_t s) { return score + mask[s]; }

// p[s] = exp(p[s] - most); gives their sum. A NaN among them reaches it.
SC_INLINE float exponentials(float* p, int64_t n, float most) {
  float sum = 0;
  V sums = {};
  int64_t s = 0;
  for (; s + W <= n; s += W) {
    const V e = exp(load(p + s) - splat(most));
    store(p + s, e);
    sums += e;
  }
  if (s < n) {
    const V e = exp(load(p + s) - splat(most));
    for (int64_t i = 0; s + i < n; i++) sum += p[s + i] = e[i];
  }
  for (int i = 0; i < W; i++) sum += sums[i];
  return sum;
}

// to[0..dv) = sum of p[s] v[s], times `scale`.
SC_INLINE void weigh(const float* p, const float* v, int64_t keys, int64_t dv, float scale,
                     float* to) {
  int64_t i = 0;
  for (; i + 4 * W <= dv; i += 4 * W) {
    V sum[4] = {};
    for (int64_t s = 0; s < keys; s++)
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) sum[j] += splat(p[s]) * load(v + s * dv + i + j * W);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) store(to + i + j * W, sum[j] * splat(scale));
  }
  for (; i + W <= dv; i += W) {
    V sum = {};
    for (int64_t s = 0; s < keys; s++) sum += splat(p[s]) * load(v + s * dv + i);
    store(to + i, sum * splat(scale));
  }
  for (; i < dv; i++) {
    float sum = 0;
    for (int64_t s = 0; s < keys; s++) sum += p[s] * v[s * dv + i];
    to[i] = sum * scale;
  }
}

// mask: a pointer to bool or float, or nullptr. scratch: attend_row_scratch_floats.
template <class Mask>
void attend_row(Team& team, const OneQuery& a, const float* q, const float* k, const float* v,
                const Mask* mask, float* y, float* scratch) {
  for (int64_t h = team.first(a.heads); h < team.last(a.heads); h++) {
    const int64_t g = h / (a.heads / a.groups);
    const float *keys = k + g * a.keys * a.d, *query = q + h * a.d;
    float most = -__builtin_inff();
    bool nan = false;
    for (int64_t s = 0; s < a.keys; s++) {
      float score = dot(query, keys + s * a.d, a.d) * a.scale;
      if (mask) score = masked(score, mask + h * a.head_stride, s);
      nan |= score != score;
      most = score > most ? score : most;
      scratch[s] = score;
    }
    float* to = y + h * a.dv;
    if (most == -__builtin_inff() && !nan) {
      for (int64_t i = 0; i < a.dv; i++) to[i] = a.nan_rows ? __builtin_nanf("") : 0.f;
      continue;
    }
    const float sum = exponentials(scratch, a.keys, most);
    weigh(scratch, v + g * a.keys * a.dv, a.keys, a.dv, 1.f / sum, to);
  }
}

}  // namespace sc
