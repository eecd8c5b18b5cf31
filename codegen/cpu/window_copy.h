// How one tap of a window is read from a plane, for several channels in a row: shifted vectors
// where neighbours in the output are neighbours in the input, else a few loads and shuffles a
// vector.
#pragma once
#include "lanes.h"

namespace sc {

constexpr int kPieces = 6;  // shuffles for one vector; beyond, lane by lane
constexpr int kPairs = 3;   // the same where each is of two vectors

SC_INLINE VI load_int(const int32_t* p) { return *(const VI*)p; }
SC_INLINE void store_int(int32_t* p, VI v) { *(VI*)p = v; }

SC_INLINE V and_mask(V v, VI mask) { return (V)((VI)v & mask); }

// One output vector's way into x, before the tap's offset: lanes with in[i] come from the vector
// (or the pair of vectors) at at[i], shuffled. Later pieces override earlier ones.
// count -1: lane[0] holds each lane's column.
struct Pieces {
  int32_t count, pairs, at[kPieces];
  VI lane[kPieces], in[kPieces];

  // W neighbours.
  SC_INLINE void set(int32_t column) {
    count = 1, pairs = 0, at[0] = column;
    for (int l = 0; l < W; l++) lane[0][l] = l;
  }

  // Pairs where they halve the pieces: a shuffle of two vectors is as fast as one of one.
  SC_INLINE void find(const int32_t* column, bool may_pair) {
    cut(column, W);
    const int32_t singles = count;
    if (!may_pair || singles == 1) return;
    cut(column, 2 * W);
    if (count > 0 && count <= kPairs && (singles < 0 || 2 * count <= singles)) pairs = 1;
    else cut(column, W);
  }

  // Under a tap `offset` further on, so that no load leaves [0, ldx).
  SC_INLINE void clamp(int32_t offset, int64_t ldx) {
    const auto high = int32_t(ldx - (pairs ? 2 * W : W));
    if (count < 0) lane[0] += offset;
    for (int i = 0; i < count; i++) {
      const int32_t moved = at[i] + offset;
      at[i] = moved < 0 ? 0 : moved > high ? high : moved;
      lane[i] += moved - at[i];
    }
  }

 private:
  SC_INLINE void cut(const int32_t* column, int32_t reach) {
    int32_t lanes[kPieces][W] = {}, ins[kPieces][W] = {}, open = 0;
    count = pairs = 0;
    for (int l = 0; l < W; l++) {
      if (count == 0 || column[l] < open || column[l] >= open + reach) {
        if (count == kPieces) {
          count = -1;
          lane[0] = load_int(column);
          return;
        }
        open = at[count++] = column[l];
      }
      lanes[count - 1][l] = column[l] - open;
      ins[count - 1][l] = -1;
    }
    for (int i = 0; i < count; i++) lane[i] = load_int(lanes[i]), in[i] = load_int(ins[i]);
  }
};

// Writes one vector of `count` rows, `step` floats apart.
template <int N, bool pairs>
void join_pieces(const float* from, int64_t ldx, const Pieces& p, VI inside, float* out,
                 int64_t step, int64_t count) {
  VI lane[N], in[N];
  const float* at[N];
#pragma GCC unroll 8
  for (int i = 0; i < N; i++) lane[i] = p.lane[i], in[i] = p.in[i], at[i] = from + p.at[i];
  for (int64_t c = 0; c < count; c++, out += step) {
    V v = {};
#pragma GCC unroll 8
    for (int i = 0; i < N; i++) {
      const float* here = at[i] + c * ldx;
      const V one = pairs ? permute(load(here), load(here + W), lane[i])
                          : permute(load(here), lane[i]);
      v = i ? select(in[i], one, v) : one;
    }
    store(out, and_mask(v, inside));
  }
}

using JoinPieces = void (*)(const float*, int64_t, const Pieces&, VI, float*, int64_t, int64_t);

template <int N = 1>
SC_INLINE JoinPieces piece_kernel(const Pieces& p) {
  if constexpr (N < kPieces)
    if (p.count != N) return piece_kernel<N + 1>(p);
  if constexpr (N <= kPairs)
    if (p.pairs) return join_pieces<N, true>;
  return join_pieces<N, false>;
}

SC_INLINE void gather_lanes(const float* from, int64_t ldx, const Pieces& p, VI inside, float* out,
                            int64_t step, int64_t count) {
  for (; count > 0; count--, from += ldx, out += step)
    for (int l = 0; l < W; l++) out[l] = inside[l] ? from[p.lane[0][l]] : 0.f;
}

// Writes `count` rows of NB vectors, `step` floats apart, from column `start` on. A load of 64
// bytes that crosses a cache line takes longer than two that do not and a shuffle: a quarter of
// the whole copy.
template <int NB, bool masked>
void shift_rows(const float* from, int64_t ldx, int64_t start, const VI* mask, float* out,
                int64_t step, int64_t count) {
  const int64_t apart = W == 16 ? start & (W - 1) : 0;
  VI keep[NB], lane;
  for (int l = 0; l < W; l++) lane[l] = int32_t(apart) + l;
#pragma GCC unroll 16
  for (int j = 0; j < NB; j++) keep[j] = masked ? mask[j] : VI{};
  from += start - apart;
  if (apart) {
    for (; count > 0; count--, from += ldx, out += step) {
      V low = load(from);
#pragma GCC unroll 16
      for (int j = 0; j < NB; j++) {
        const V high = load(from + (j + 1) * W), v = permute(low, high, lane);
        store(out + j * W, masked ? and_mask(v, keep[j]) : v);
        low = high;
      }
    }
    return;
  }
  for (; count > 0; count--, from += ldx, out += step) {
#pragma GCC unroll 16
    for (int j = 0; j < NB; j++) {
      const V v = load(from + j * W);
      store(out + j * W, masked ? and_mask(v, keep[j]) : v);
    }
  }
}

using ShiftRows = void (*)(const float*, int64_t, int64_t, const VI*, float*, int64_t, int64_t);

template <bool masked, int NB = 1>
SC_INLINE ShiftRows shift_kernel(int64_t vectors) {
  if constexpr (NB < 8)
    if (vectors != NB) return shift_kernel<masked, NB + 1>(vectors);
  return shift_rows<NB, masked>;
}

}  // namespace sc
