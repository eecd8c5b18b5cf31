// Fused attention in planes, vectorised along queries: S^T = K^T Q, softmax down its rows,
// O = V S^T.
// Keys come in blocks with an online softmax (Milakov and Gimelshein 2018), so the scratch does not
// grow with the sequence: K and V blocks are packed once for a group of query panels.
#pragma once
#include <type_traits>

#include "math.h"
#include "team.h"

namespace sc {

// Row of feature d of head h: base + (h * head + d * feature) * ld; keys and values: h / group.
// Column of query i of sample b: b * sq + i; of key j: b * sk + j. o overlaps none of the inputs.
struct Attention {
  const float *q, *k, *v;
  float* o;
  int64_t ldq, ldk, ldv, ldo;               // floats between rows
  int64_t q_head, k_head, v_head, o_head;   // rows between heads
  int64_t q_feature, k_feature, v_feature, o_feature;  // rows between features of a head
  int64_t samples, heads, group, sq, sk, d, dv;
  float scale;
  bool causal;  // query i sees keys 0 .. i, whatever sq and sk
  // Additive mask or null: element (b, h, key, query) at b mask_b + h mask_h + key mask_k +
  // query mask_q; strides in floats, 0 broadcasts, mask_q is 0 or 1. With 1 a row is read in whole
  // vectors from query 0 on.
  const float* mask;
  int64_t mask_b, mask_h, mask_k, mask_q;
  // Where threads hold tokens of one sample each: these queries are query0, query0 + 1, ... of it,
  // and key j is column j % part of the planes j / part * part_stride floats after k and v.
  // part = 0: all keys lie in one piece. The last `rest` keys lie from rest_at on, in one piece.
  int64_t query0 = 0, part = 0, part_stride = 0, rest = 0, rest_at = 0;
  // What a query that sees no key gets: zeros, as torch's attention gives, or NaN, as a softmax.
  float unseeing = 0;
};

// kAttentionRows x kAttentionPanel accumulators, kAttentionPanel operands and a broadcast fit.
#if defined(__AVX512F__) || defined(__aarch64__)  // 32 registers
constexpr int kAttentionRows = 6;
constexpr int kAttentionPanel = 4;  // vectors of queries in a panel
#else  // 16 registers
constexpr int kAttentionRows = 6;
constexpr int kAttentionPanel = 2;
#endif
constexpr int kKeyBlock = 128;
constexpr int kKeyStride = kKeyBlock + 16;  // no power of two, so that all sets of L1 are used
constexpr int kAttentionGroup = 16;  // vectors of queries that share packed keys and values

// Floats of scratch each thread needs.
inline int64_t attention_scratch_floats(const Attention& a) {
  const int64_t queries = kAttentionGroup * W;
  return (a.d + a.dv + 2) * queries + (a.d + a.dv) * kKeyStride + kAttentionPanel * W * kKeyBlock +
         16;
}

// Rows of an additive mask at R keys and N vectors of queries.
struct MaskRows {
  const float* at;
  int64_t key;
  bool query;  // one number for each query, not one for all of them

  SC_INLINE V operator()(int r, int j) const {
    const float* row = at + r * key;
    return query ? load(row + j * W) : splat(*row);
  }
};

// Rows whose lines are fetched while scores are computed.
struct Ahead {
  const float* line;
  int64_t step;
};

// out[r][.] = mask(r, .) + sum_d x[d * kKeyStride + r] * y[d][.]: scores of R keys; top = their
// maximum.
template <int R, int N>
SC_INLINE void score_rows(const float* x, const float* y, int64_t d, Ahead ahead,
                          const MaskRows& mask, float* out, V (&top)[N]) {
  V acc[R][N] = {};
  for (int64_t i = 0; i < d; i++, ahead.line += ahead.step) {
    __builtin_prefetch(ahead.line);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const V w = splat(x[i * kKeyStride + r]);
#pragma GCC unroll 4
      for (int j = 0; j < N; j++) acc[r][j] += w * load(y + (i * N + j) * W);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
    for (int j = 0; j < N; j++) {
      const V score = acc[r][j] + mask(r, j);
      store(out + (r * N + j) * W, score);
      top[j] = max_right(score, top[j]);
    }
  }
}

// out[r][.] = out[r][.] * decay + sum_k x[r * kKeyStride + k] * p[k][.]: R features of the output.
template <int R, int N>
SC_INLINE void value_rows(const float* x, const float* p, int64_t keys, float* out, bool first,
                          const V (&decay)[N]) {
  V acc[R][N] = {};
  if (!first) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
      for (int j = 0; j < N; j++) acc[r][j] = load(out + (r * N + j) * W) * decay[j];
    }
  }
  for (int64_t k = 0; k < keys; k++) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const V w = splat(x[r * kKeyStride + k]);
#pragma GCC unroll 4
      for (int j = 0; j < N; j++) acc[r][j] += w * load(p + (k * N + j) * W);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
    for (int j = 0; j < N; j++) store(out + (r * N + j) * W, acc[r][j]);
  }
}

// Calls step.run<R>(i) for runs of R, then 4, 2 and 1 rows that cover 0 .. n-1.
template <class Step>
SC_INLINE void by_rows(int64_t n, const Step& step) {
  int64_t i = 0;
  for (; i + kAttentionRows <= n; i += kAttentionRows) step.template run<kAttentionRows>(i);
  if (i + 4 <= n) step.template run<4>(i), i += 4;
  if (i + 2 <= n) step.template run<2>(i), i += 2;
  if (i < n) step.template run<1>(i);
}

// Floats from the first key of a sample to key j: see `part`.
inline int64_t key_at(const Attention& a, int64_t j) {
  if (j >= a.sk - a.rest) return a.rest_at + j - (a.sk - a.rest);
  return a.part ? j / a.part * a.part_stride + j % a.part : j;
}
// Keys from j on that lie side by side.
inline int64_t keys_side_by_side(const Attention& a, int64_t j) {
  return j >= a.sk - a.rest || !a.part ? a.sk - j : a.part - j % a.part;
}

// The block of keys and values after this one, of the next head if there is none: another thread's
// cache may hold it, so it is fetched in time.
struct NextKeys {
  const Attention& a;
  const float *k, *v;
  int64_t key, lines;

  NextKeys(const Attention& a, int64_t b, int64_t h, int64_t key) : a(a), key(key) {
    const int64_t head = h / a.group;
    k = a.k + head * a.k_head * a.ldk + b * a.sk;
    v = a.v + head * a.v_head * a.ldv + b * a.sk;
    const int64_t keys = key < a.sk ? a.sk - key : 0;
    lines = ((keys < kKeyBlock ? keys : kKeyBlock) + 15) / 16;
  }
  // Line i of a feature: first those of the keys, then those of the values.
  SC_INLINE Ahead line(int64_t i) const {
    const bool values = i >= lines;
    const int64_t column = key_at(a, key + 16 * (values ? i - lines : i));
    if (i >= 2 * lines) return {k, 0};
    return values ? Ahead{v + column, a.v_feature * a.ldv} : Ahead{k + column, a.k_feature * a.ldk};
  }
};

// One (sample, head) and one group of query vectors; everything lives in scratch.
struct AttentionGroup {
  const Attention& a;
  int64_t b, h;
  int64_t first_query;
  float *q, *o, *k, *v, *scores, *top, *sum;

  AttentionGroup(const Attention& a, float* scratch, int64_t b, int64_t h, int64_t first_query)
      : a(a), b(b), h(h), first_query(first_query) {
    const int64_t queries = kAttentionGroup * W;
    k = (float*)((uintptr_t(scratch) + 63) & ~uintptr_t(63));
    v = k + a.d * kKeyStride;
    scores = v + a.dv * kKeyStride;
    q = scores + kKeyBlock * kAttentionPanel * W;
    o = q + a.d * queries;
    top = o + a.dv * queries;
    sum = top + queries;
  }

  int64_t queries_left(int64_t vector) const { return a.sq - (first_query + vector * W); }

  // q[i][.] = scale * the vector's queries; lanes of other samples are never read.
  template <int N>
  void load_queries(int64_t vector) const {
    float* to = q + vector * W * a.d;
    const float* from = a.q + h * a.q_head * a.ldq + b * a.sq + first_query + vector * W;
    for (int64_t i = 0; i < a.d; i++, from += a.q_feature * a.ldq)
      for (int j = 0; j < N; j++) {
        const int64_t left = queries_left(vector + j);
        V x{};
        if (left >= W) {
          x = load(from + j * W);
        } else {
          for (int lane = 0; lane < left; lane++) x[lane] = from[j * W + lane];
        }
        store(to + (i * N + j) * W, x * splat(a.scale));
      }
    for (int j = 0; j < N; j++) {
      store(top + (vector + j) * W, splat(-kInfinity));
      store(sum + (vector + j) * W, V{});
    }
  }

  // to[row][0 .. keys) = from[row][0 .. keys) at a constant stride.
  static void pack(const float* from, int64_t stride, int64_t rows, int64_t keys, float* to) {
    const int64_t whole = keys / W * W;
    for (int64_t r = 0; r < rows; r++, from += stride, to += kKeyStride) {
      for (int64_t i = 0; i < whole; i += W) store(to + i, load(from + i));
      for (int64_t i = whole; i < keys; i++) to[i] = from[i];
    }
  }
  void pack_keys(int64_t key, int64_t keys) const {
    const float* from_k = a.k + h / a.group * a.k_head * a.ldk + b * a.sk;
    const float* from_v = a.v + h / a.group * a.v_head * a.ldv + b * a.sk;
    for (int64_t done = 0, count; done < keys; done += count) {
      const int64_t at = key_at(a, key + done), whole = keys_side_by_side(a, key + done);
      count = keys - done < whole ? keys - done : whole;
      pack(from_k + at, a.k_feature * a.ldk, a.d, count, k + done);
      pack(from_v + at, a.v_feature * a.ldv, a.dv, count, v + done);
    }
  }

  // Hides keys after the query, and takes the maximum anew.
  template <int N>
  void hide_later_keys(int64_t vector, int64_t key, int64_t keys, V (&block_top)[N]) const {
    const int64_t query = a.query0 + first_query + vector * W;
    VI lane;
    for (int i = 0; i < W; i++) lane[i] = i;
    for (int j = 0; j < N; j++) block_top[j] = splat(-kInfinity);
    for (int64_t i = 0; i < keys; i++)
      for (int j = 0; j < N; j++) {
        float* s = scores + (i * N + j) * W;
        const V x = select(lane >= splat_int(int32_t(key + i - query - j * W)), load(s),
                           splat(-kInfinity));
        store(s, x);
        block_top[j] = max_right(x, block_top[j]);
      }
  }

  // The mask of the first query of a vector, at a key.
  MaskRows mask_at(int64_t vector, int64_t key) const {
    static const float none = 0;
    if (!a.mask) return {&none, 0, false};
    const int64_t query = first_query + vector * W;
    return {a.mask + b * a.mask_b + h * a.mask_h + key * a.mask_k + query * a.mask_q, a.mask_k,
            a.mask_q != 0};
  }

  template <int N>
  struct Scores {
    const AttentionGroup& g;
    int64_t vector;
    MaskRows mask;
    const NextKeys& next;
    V (&top)[N];
    template <int R>
    SC_INLINE void run(int64_t i) const {
      score_rows<R, N>(g.k + i, g.q + vector * W * g.a.d, g.a.d, next.line(i / kAttentionRows),
                       {mask.at + i * mask.key, mask.key, mask.query}, g.scores + i * N * W, top);
    }
  };
  template <int N>
  struct Values {
    const AttentionGroup& g;
    int64_t vector, keys;
    bool first;
    const V (&decay)[N];
    template <int R>
    SC_INLINE void run(int64_t i) const {
      value_rows<R, N>(g.v + i * kKeyStride, g.scores, keys,
                       g.o + vector * W * g.a.dv + i * N * W, first, decay);
    }
  };

  // One panel of queries against one block of packed keys.
  template <int N>
  void attend(int64_t vector, int64_t key, int64_t keys, const NextKeys& next) const {
    const int64_t query = a.query0 + first_query + vector * W;
    if (a.causal && key > query + N * W - 1) return;
    if (a.causal && keys > query + N * W - key) keys = query + N * W - key;
    V block_top[N], decay[N], shift[N], total[N] = {};
    for (int j = 0; j < N; j++) block_top[j] = splat(-kInfinity);
    by_rows(keys, Scores<N>{*this, vector, mask_at(vector, key), next, block_top});
    if (a.causal && key + keys - 1 > query) hide_later_keys<N>(vector, key, keys, block_top);
    for (int j = 0; j < N; j++) {
      float* t = top + (vector + j) * W;
      const V now = max_right(block_top[j], load(t));
      shift[j] = select(now == splat(-kInfinity), V{}, now);  // no key seen yet: avoid inf - inf
      decay[j] = exp_nonpositive(load(t) - shift[j]);
      store(t, now);
    }
    for (int64_t i = 0; i < keys; i++) {
#pragma GCC unroll 4
      for (int j = 0; j < N; j++) {
        float* s = scores + (i * N + j) * W;
        const V p = exp_nonpositive(load(s) - shift[j]);
        total[j] += p;
        store(s, p);
      }
    }
    for (int j = 0; j < N; j++) {
      float* s = sum + (vector + j) * W;
      store(s, load(s) * decay[j] + total[j]);
    }
    by_rows(a.dv, Values<N>{*this, vector, keys, key == 0, decay});
  }

  template <int N>
  void store_queries(int64_t vector) const {
    V inverse[N];
    for (int j = 0; j < N; j++) {
      const V s = load(sum + (vector + j) * W), t = load(top + (vector + j) * W);
      inverse[j] = select((t == splat(-kInfinity)) & (s == s), splat(a.unseeing), splat(1.f) / s);
    }
    const float* from = o + vector * W * a.dv;
    float* to = a.o + h * a.o_head * a.ldo + b * a.sq + first_query + vector * W;
    for (int64_t i = 0; i < a.dv; i++, to += a.o_feature * a.ldo)
      for (int j = 0; j < N; j++) {
        const V y = load(from + (i * N + j) * W) * inverse[j];
        if (queries_left(vector + j) >= W) {
          store(to + j * W, y);
        } else {
          store_part(to + j * W, y, int(queries_left(vector + j)));
        }
      }
  }

  // Calls f(first vector, N) for panels of at most kAttentionPanel vectors, as even as can be.
  template <class F>
  SC_INLINE static void panels(int64_t count, const F& f) {
    int64_t i = 0;
    for (int64_t left = (count + kAttentionPanel - 1) / kAttentionPanel; left > 0; left--) {
      const int64_t n = (count - i + left - 1) / left;
      if (kAttentionPanel > 3 && n == 4) f(i, std::integral_constant<int, 4>());
      else if (kAttentionPanel > 2 && n == 3) f(i, std::integral_constant<int, 3>());
      else if (n == 2) f(i, std::integral_constant<int, 2>());
      else f(i, std::integral_constant<int, 1>());
      i += n;
    }
  }

  void run(int64_t count) const {
    panels(count, [&](int64_t i, auto n) { load_queries<n()>(i); });
    const int64_t past = a.query0 + first_query + count * W;
    const int64_t visible = a.causal && past < a.sk ? past : a.sk;
    if (visible <= 0) __builtin_memset(o, 0, sizeof(float) * a.dv * count * W);
    // Blocks of equal length rather than a short last one.
    const int64_t blocks = (visible + kKeyBlock - 1) / kKeyBlock;
    for (int64_t block = 0, key = 0; block < blocks; block++) {
      const int64_t rest = visible - key, even = (rest + blocks - block - 1) / (blocks - block);
      const int64_t rounded = (even + kAttentionRows - 1) / kAttentionRows * kAttentionRows;
      const int64_t most = rest < kKeyBlock ? rest : kKeyBlock;  // even may be all of a block
      const int64_t keys = rounded < most ? rounded : most;
      pack_keys(key, keys);
      const bool same = block + 1 < blocks;
      const NextKeys next(a, b, same ? h : h + 1, same ? key + keys : h + 1 < a.heads ? 0 : a.sk);
      const NextKeys none(a, b, h, a.sk);
      panels(count, [&](int64_t i, auto n) { attend<n()>(i, key, keys, i ? none : next); });
      key += keys;
    }
    panels(count, [&](int64_t i, auto n) { store_queries<n()>(i); });
  }
};

// Where thread `id` of `size` starts in the query vectors of all heads. Without causality the
// vectors cost the same; with it vector v of a head costs v + 1, so v (v + 1) / 2 lie before it.
inline int64_t attention_start(int64_t heads, int64_t per_head, bool causal, int id, int size) {
  if (!causal) return heads * per_head * id / size;
  const int64_t cost = per_head * (per_head + 1) / 2, target = heads * cost * id / size;
  const int64_t rest = target % cost;
  const int64_t vector = int64_t((__builtin_sqrt(8.0 * double(rest) + 1) - 1) / 2);
  return target / cost * per_head + vector;
}

// Query vectors [first, last) of one head of sample b.
inline void attention_of_head(const Attention& a, int64_t b, int64_t h, int64_t first, int64_t last,
                              float* scratch) {
  for (int64_t vector = first; vector < last; vector += kAttentionGroup)
    AttentionGroup(a, scratch, b, h, vector * W).run(min64(kAttentionGroup, last - vector));
}

// All threads of the team; scratch: this thread's own attention_scratch_floats(a) floats.
inline void attention(Team& team, const Attention& a, float* scratch) {
  const int64_t per_head = vectors(a.sq), heads = a.samples * a.heads;
  if (per_head == 0) return;
  const int64_t end = attention_start(heads, per_head, a.causal, team.id + 1, team.size);
  for (int64_t i = attention_start(heads, per_head, a.causal, team.id, team.size); i < end;) {
    const int64_t bh = i / per_head, vector = i % per_head;
    const int64_t last = min64(per_head, vector + end - i);
    attention_of_head(a, bh / a.heads, bh % a.heads, vector, last, scratch);
    i += last - vector;
  }
}

}  // namespace sc
