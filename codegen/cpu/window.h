// Convolutions as panels: row k = channel * taps + tap of the panel is the input under that tap of
// the kernel, zero where the tap lies outside the image. Output column p reads input column
// base[p] + offset(tap), for every kind of convolution, if the mask of (p, tap) allows it:
// so what a panel needs is found once (pieces of x and a mask per tap) and serves all channels.
#pragma once
#include "tiles.h"
#include "window_copy.h"

namespace sc {

// A convolution's shape. Leading spatial dims that are absent are 1, their stride and dilation too,
// their pad 0. Columns of x: samples * in, of y: samples * out; fewer than 2^31 of either.
// transposed: output o reads input i where o = i * stride - pad + tap * dilation.
struct Window {
  int64_t samples;
  int64_t in[3], out[3], kernel[3], stride[3], dilation[3], pad[3];
  bool transposed;

  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  int64_t in_columns() const { return samples * in[0] * in[1] * in[2]; }
  int64_t out_columns() const { return samples * out[0] * out[1] * out[2]; }
  bool strided() const { return stride[0] > 1 || stride[1] > 1 || stride[2] > 1; }
  // base[p] is p + constant: tap by tap, neighbours in y are neighbours in x.
  bool shifted() const {
    return !strided() && in[1] == out[1] && in[2] == out[2] && (samples == 1 || in[0] == out[0]);
  }
  // y[p] reads x[p] and nothing else.
  bool plain() const {
    return taps() == 1 && shifted() && in[0] == out[0] && !pad[0] && !pad[1] && !pad[2];
  }
};

// What a tap asks of a whole panel.
constexpr int32_t kMasked = 1;    // some lanes lie outside the image
constexpr int32_t kClamped = 2;   // some vectors leave the plane's row in memory
constexpr int32_t kOutside = 4;   // nothing lies inside

constexpr int64_t kChannels = 16;  // whose windows are read tap by tap, out of L1
constexpr int64_t kFewChannels = 4;  // up to which a strided panel is made vector by vector

// The places of a panel's columns: per spatial dim the input coordinate under tap 0 (for transposed
// ones: the quotient by the stride, and all remainders in one number).
struct Places {
  static constexpr int64_t kMost = 8 * W;  // columns of a panel
  int32_t q[3][kMost], remainder[kMost], base[kMost];
  int32_t low[3], high[3];

  SC_INLINE void find(const Window& w, int64_t first, int64_t last, int64_t end) {
    for (int d = 0; d < 3; d++) low[d] = INT32_MAX, high[d] = INT32_MIN;
    const int64_t o2 = w.out[2], o1 = w.out[1], o0 = w.out[0];
    int64_t x = first % o2, y = first / o2 % o1, z = first / (o2 * o1) % o0;
    int64_t sample = first / (o2 * o1 * o0);
    const int64_t known = min64(last, end);
    for (int64_t p = first; p < known;) {
      const int64_t run = min64(o2 - x, known - p);
      fill_run(w, sample, z, y, x, p - first, run);
      p += run, x = 0;
      if (++y == o1) {
        y = 0;
        if (++z == o0) z = 0, sample++;
      }
    }
    for (int64_t i = known - first; i < last - first; i++) {  // nobody looks at these
      for (int d = 0; d < 3; d++) q[d][i] = q[d][i - 1];
      base[i] = base[i - 1], remainder[i] = remainder[i - 1];
    }
  }

 private:
  SC_INLINE void fill_run(const Window& w, int64_t sample, int64_t z, int64_t y, int64_t x,
                          int64_t at, int64_t run) {
    int64_t rest = 0;
    const int32_t q0 = start(w, 0, z, rest), q1 = start(w, 1, y, rest);
    const auto row = int32_t(((sample * w.in[0] + q0) * w.in[1] + q1) * w.in[2]);
    for (int64_t i = 0; i < run; i++) q[0][at + i] = q0, q[1][at + i] = q1;
    if (w.transposed) {
      for (int64_t i = 0; i < run; i++) {
        int64_t own = rest;
        q[2][at + i] = start(w, 2, x + i, own);
        remainder[at + i] = int32_t(own);
      }
    } else {
      const auto stride = int32_t(w.stride[2]), begin = int32_t(x * w.stride[2] - w.pad[2]);
      for (int32_t i = 0; i < run; i++) q[2][at + i] = begin + i * stride, remainder[at + i] = 0;
    }
    for (int64_t i = 0; i < run; i++) base[at + i] = row + q[2][at + i];
    include(0, q0, q0), include(1, q1, q1), include(2, q[2][at], q[2][at + run - 1]);
  }

  static SC_INLINE int32_t start(const Window& w, int d, int64_t o, int64_t& remainder) {
    if (!w.transposed) return int32_t(o * w.stride[d] - w.pad[d]);
    remainder = remainder * w.stride[d] + (o + w.pad[d]) % w.stride[d];
    return int32_t((o + w.pad[d]) / w.stride[d]);
  }

  SC_INLINE void include(int d, int32_t a, int32_t b) {
    low[d] = a < low[d] ? a : low[d];
    high[d] = b > high[d] ? b : high[d];
  }
};

// A tap relative to tap 0, in the terms of Places.
struct Tap {
  int32_t shift[3], remainder, offset;

  Tap(const Window& w, int64_t tap) : remainder(0), offset(0) {
    const int64_t k[3] = {tap / (w.kernel[1] * w.kernel[2]), tap / w.kernel[2] % w.kernel[1],
                          tap % w.kernel[2]};
    for (int d = 0; d < 3; d++) {
      const int64_t far = k[d] * w.dilation[d];
      shift[d] = int32_t(w.transposed ? -(far / w.stride[d]) : far);
      if (w.transposed) remainder = int32_t(remainder * w.stride[d] + far % w.stride[d]);
      offset = int32_t(offset * w.in[d] + shift[d]);
    }
  }
};

// The panel source of a convolution. Its memory holds, for each vector of a group of panels, the
// pieces, and for each tap a mask and (once for each panel) a kind.
class WindowSource {
 public:
  static int64_t memory_floats(const Window& w, int64_t group_vectors) {
    const int64_t taps = w.taps();
    return group_vectors * (taps * (W + 1) + int64_t(sizeof(Pieces) / 4)) +
           taps * int64_t(sizeof(Tap) / 4);
  }

  WindowSource(const Window& w, const PackedHeader* h, const float* x, int64_t ldx,
               int64_t group_channels, int64_t group_vectors, float* memory)
      : w(w), by_taps(by_columns(h) ? h : nullptr), x(x), ldx(ldx),
        group_channels(group_channels), taps(w.taps()),
        base(0), shifted(w.shifted()), phased(w.transposed && w.strided()),
        mask((VI*)memory), pieces((Pieces*)(mask + group_vectors * taps)),
        kind((int32_t*)(pieces + group_vectors)), tap((Tap*)(kind + group_vectors * taps)) {
    for (int64_t t = 0; t < taps; t++) tap[t] = Tap(w, t);
    base = 0;
    for (int d = 0; d < 3; d++) base = base * w.in[d] + (w.transposed ? w.pad[d] : -w.pad[d]);
  }

  void prepare(int64_t place, int64_t v0, int64_t v1) const {
    Places at;
    at.find(w, v0 * W, v1 * W, w.out_columns());
    const int64_t wide = v1 - v0;
    int64_t first = at.base[0], last = at.base[0] + wide * W;  // columns read under tap 0
    if (!shifted) find_pieces(at, wide, pieces + place, first, last);
    if (inside(at, first, last)) {
      for (int64_t t = 0; t < taps; t++) kind[place * taps + t] = 0;
      return;
    }
    for (int64_t t = 0; t < taps; t++) {
      int32_t& k = kind[place * taps + t];
      k = kind_of(at, tap[t]);
      if (k == kOutside) continue;
      if (first + tap[t].offset < 0 || last + tap[t].offset > ldx) k |= kClamped;
      if (k) fill_mask(at, tap[t], wide, mask + place * taps + t * wide);
    }
  }

  void copy(int64_t g, int64_t k0, int64_t rows, int64_t place, int64_t v0, int64_t v1,
            float* out) const {
    if (by_taps) return copy_by_taps(g, k0 / taps, rows / taps, place, v0, v1, out);
    const int64_t k1 = k0 + rows, c1 = (k1 + taps - 1) / taps, step = taps * (v1 - v0) * W;
    if (!shifted && rows <= kFewChannels * taps && k0 % taps == 0 && rows % taps == 0 &&
        in_pieces(place, v1 - v0))
      return copy_pieces(x + (g * group_channels + k0 / taps) * ldx, place, v0, v1, rows / taps,
                         out);
    for (int64_t c = k0 / taps; c < c1; c += kChannels)
      for (int64_t t = 0; t < taps; t++) {
        const int64_t from = c * taps + t < k0 ? c + 1 : c;
        int64_t to = min64(c + kChannels, c1);
        if ((to - 1) * taps + t >= k1) to--;
        if (from >= to) continue;
        copy_tap(x + (g * group_channels + from) * ldx, t, place, v0, v1, step, to - from,
                 out + (from * taps + t - k0) * (v1 - v0) * W);
      }
  }

 private:
  const Window& w;
  const PackedHeader* by_taps;  // a weight whose panels hold channels tap by tap; or null
  const float* x;
  int64_t ldx, group_channels, taps, base;
  bool shifted, phased;
  VI* mask;
  Pieces* pieces;
  int32_t* kind;
  Tap* tap;

  void copy_by_taps(int64_t g, int64_t c0, int64_t channels, int64_t place, int64_t v0, int64_t v1,
                    float* out) const {
    const int64_t row = (v1 - v0) * W;
    for (int64_t c = 0; c < channels; c += kChannels)
      for (int64_t t = 0; t < taps; t++)
        copy_tap(x + (g * group_channels + c0 + c) * ldx, t, place, v0, v1, row,
                 min64(kChannels, channels - c), out + panel_row(by_taps, c, t) * row);
  }

  void find_pieces(const Places& at, int64_t wide, Pieces* out, int64_t& first,
                   int64_t& last) const {
    first = INT32_MAX, last = INT32_MIN;
    for (int64_t j = 0; j < wide; j++) {
      Pieces& p = out[j];
      p.find(at.base + j * W, ldx >= 2 * W);
      if (p.count < 0) first = INT32_MIN;  // lane by lane, as if all were clamped
      for (int i = 0; i < p.count; i++) {
        const int64_t end = p.at[i] + (p.pairs ? 2 * W : W);
        first = min64(first, p.at[i]);
        last = last > end ? last : end;
      }
    }
  }

  // No tap leaves the image, or memory, anywhere in the panel.
  SC_INLINE bool inside(const Places& at, int64_t first, int64_t last) const {
    const Tap &one = tap[0], &other = tap[taps - 1];  // the farthest apart, in every dimension
    const bool back = w.transposed;
    const Tap &low = back ? other : one, &high = back ? one : other;
    for (int d = 0; d < 3; d++)
      if (at.low[d] + low.shift[d] < 0 || int64_t(at.high[d]) + high.shift[d] >= w.in[d])
        return false;
    return !phased && first + low.offset >= 0 && last + high.offset <= ldx;
  }

  SC_INLINE int32_t kind_of(const Places& at, const Tap& tap) const {
    int32_t kind = phased ? kMasked : 0;
    for (int d = 0; d < 3; d++) {
      const int64_t low = int64_t(at.low[d]) + tap.shift[d];
      const int64_t high = int64_t(at.high[d]) + tap.shift[d];
      if (high < 0 || low >= w.in[d]) return kOutside;
      if (low < 0 || high >= w.in[d]) kind = kMasked;
    }
    return kind;
  }

  SC_INLINE void fill_mask(const Places& at, const Tap& tap, int64_t wide, VI* out) const {
    typedef uint32_t VU __attribute__((vector_size(W * 4), aligned(4), may_alias));
    const VU in0 = VU{} + uint32_t(w.in[0]), in1 = VU{} + uint32_t(w.in[1]);
    const VU in2 = VU{} + uint32_t(w.in[2]);
    for (int64_t j = 0; j < wide; j++) {
      VI inside = (VU)(load_int(at.q[0] + j * W) + tap.shift[0]) < in0;
      inside &= (VU)(load_int(at.q[1] + j * W) + tap.shift[1]) < in1;
      inside &= (VU)(load_int(at.q[2] + j * W) + tap.shift[2]) < in2;
      if (phased) inside &= load_int(at.remainder + j * W) == splat_int(tap.remainder);
      out[j] = inside;
    }
  }

  SC_INLINE bool in_pieces(int64_t place, int64_t wide) const {
    for (int64_t j = 0; j < wide; j++)
      if (pieces[place + j].count < 0) return false;
    return true;
  }

  // All taps of some channels, vector by vector: what a vector is made of is then loaded once.
  SC_INLINE void copy_pieces(const float* from, int64_t place, int64_t v0, int64_t v1,
                             int64_t channels, float* out) const {
    const int64_t wide = v1 - v0;
    for (int64_t j = 0; j < wide; j++) {
      const auto join = taps_kernel(pieces[place + j]);
      (this->*join)(from, place, wide, j, channels, out + j * W);
    }
    for (int64_t t = 0; t < taps; t++)
      if (kind[place * taps + t] != kOutside && kind[place * taps + t] & kClamped)
        copy_tap(from, t, place, v0, v1, taps * wide * W, channels, out + t * wide * W);
  }

  using JoinTaps = void (WindowSource::*)(const float*, int64_t, int64_t, int64_t, int64_t,
                                          float*) const;

  template <int N = 1>
  static SC_INLINE JoinTaps taps_kernel(const Pieces& p) {
    if constexpr (N < kPieces)
      if (p.count != N) return taps_kernel<N + 1>(p);
    if constexpr (N <= kPairs)
      if (p.pairs) return &WindowSource::join_taps<N, true>;
    return &WindowSource::join_taps<N, false>;
  }

  // Vector j of a panel under every tap that is not clamped, for several channels.
  template <int N, bool pairs>
  void join_taps(const float* from, int64_t place, int64_t wide, int64_t j, int64_t channels,
                 float* out) const {
    const Pieces& p = pieces[place + j];
    const int32_t* kinds = kind + place * taps;
    const VI* keep = mask + place * taps + j;
    VI lane[N], in[N];
    int64_t at[N];
#pragma GCC unroll 8
    for (int i = 0; i < N; i++) lane[i] = p.lane[i], in[i] = p.in[i], at[i] = p.at[i];
    for (int64_t c = 0; c < channels; c++, from += ldx)
      for (int64_t t = 0; t < taps; t++, out += wide * W) {
        const int32_t k = kinds[t];
        if (k == kOutside) store(out, V{});
        if (k & (kOutside | kClamped)) continue;
        V v = {};
#pragma GCC unroll 8
        for (int i = 0; i < N; i++) {
          const float* here = from + at[i] + tap[t].offset;
          const V one = pairs ? permute(load(here), load(here + W), lane[i])
                              : permute(load(here), lane[i]);
          v = i ? select(in[i], one, v) : one;
        }
        store(out, k & kMasked ? and_mask(v, keep[t * wide]) : v);
      }
  }

  // One tap of `count` channels, whose rows of the panel lie `step` floats apart.
  SC_INLINE void copy_tap(const float* from, int64_t t, int64_t place, int64_t v0, int64_t v1,
                          int64_t step, int64_t count, float* out) const {
    const int64_t wide = v1 - v0;
    const int32_t k = kind[place * taps + t];
    const VI* keep = mask + place * taps + t * wide;
    if (k == kOutside) {
      for (int64_t c = 0; c < count; c++)
        for (int64_t j = 0; j < wide; j++) store(out + c * step + j * W, V{});
      return;
    }
    if (shifted && !(k & kClamped)) {
      const auto rows = k & kMasked ? shift_kernel<true>(wide) : shift_kernel<false>(wide);
      return rows(from, ldx, v0 * W + base + tap[t].offset, keep, out, step, count);
    }
    for (int64_t j = 0; j < wide; j++, out += W) {
      const VI inside = k ? keep[j] : ~VI{};
      if (!(k & kClamped)) {
        const Pieces& p = pieces[place + j];
        piece_kernel(p)(from + tap[t].offset, ldx, p, inside, out, step, count);
        continue;
      }
      Pieces own;
      if (shifted) own.set(int32_t((v0 + j) * W + base));
      else own = pieces[place + j];
      own.clamp(tap[t].offset, ldx);
      if (own.count < 0) gather_lanes(from, ldx, own, inside, out, step, count);
      else piece_kernel(own)(from, ldx, own, inside, out, step, count);
    }
  }
};

}  // namespace sc
