// Max and average pooling over windows, and over the unequal windows of adaptive pooling.
// Large windows are folded along the lines first, in place, then down the columns.
#pragma once
#include "band.h"
#include "reduce.h"

namespace sc {

// Folds the taps of each output; at[t] is where tap t reads.
template <class Fold>
struct PoolTile {
  const int32_t* at;
  int64_t count;

  template <int R>
  SC_INLINE void run(const float* x, int64_t step, float* out, int64_t to) const {
    V acc[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) acc[r] = splat(Fold::start);
    for (int64_t t = 0; t < count; t++)
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) acc[r] = Fold::combine(acc[r], load(x + at[t] + r * step));
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) store(out + r * to, acc[r]);
  }
};

inline int64_t pool_scratch_floats(const Window& w) {
  const PaddedLines band(w);
  return band.floats() + band.output().floats() + w.taps() + w.out[2];
}

// The taps of a window, and whether they are folded line by line first: `along` taps in place.
struct PoolTaps {
  int64_t along, count;

  PoolTaps(const Window& w, const PaddedLines& band, int32_t* at) : along(0), count(w.taps()) {
    band.find_taps(at);
    const int64_t kw = w.kernel[2], other = w.kernel[0] * w.kernel[1];
    if (w.kernel[0] * w.stride[1] * (kw + 2) + other >= kw * other) return;
    along = kw, count = other;
    for (int64_t t = 0; t < other; t++)
      at[kw + t] = int32_t(band.tap(t / w.kernel[1], t % w.kernel[1], 0));
  }
};

template <class Fold>
void fold_along(const Window& w, const PaddedLines& band, const int32_t* at, int64_t n, float* x) {
  const int64_t rows = band.slots(n);
  for (int64_t q = 0; q < w.kernel[0] * w.stride[1] * rows; q++) {
    float* row = x + q / rows * w.stride[2] * band.plane + q % rows * band.pitch;
    // Only what lies ahead is read, so the results may replace their inputs.
    for (int64_t j = 0; j < w.out[2]; j += W) {
      V acc = load(row + j + at[0]);
      for (int64_t t = 1; t < w.kernel[2]; t++) acc = Fold::combine(acc, load(row + j + at[t]));
      store(row + j, acc);
    }
  }
}

// Lines of folded windows; after(line, n, out) may change those made.
template <class Fold, class After, class Epilogue>
void pool_lines(Team& team, int64_t rows, const Window& w, const float* x, int64_t ldx, float* y,
                int64_t ldy, float* scratch, const After& after, const Epilogue& epilogue) {
  const PaddedLines band(w);
  float* stage = scratch + band.floats();
  int32_t* at = reinterpret_cast<int32_t*>(stage + band.output().floats());
  const PoolTaps taps(w, band, at);
  const auto make = [&](int64_t row, int64_t line, int64_t n, float* out) {
    band.copy(x, rows * ldx, row * ldx, line, n, splat(Fold::start), scratch);
    if (taps.along) fold_along<Fold>(w, band, at, n, scratch);
    band.tiles(n, scratch, out, PoolTile<Fold>{at + taps.along, taps.count});
    after(line, n, out);
  };
  make_lines(team, rows, band.output(), stage, y, ldy, make, epilogue);
}

// y[row] = epilogue(max of the windows of x[row]): a NaN in a window is its maximum; padding is
// not looked at. epilogue: V(V pooled, int64_t row, int64_t col).
template <class Epilogue>
void max_pool(Team& team, int64_t rows, const Window& w, const float* x, int64_t ldx, float* y,
              int64_t ldy, float* scratch, const Epilogue& epilogue) {
  const auto nothing = [](int64_t, int64_t, float*) {};
  pool_lines<PlaneMax>(team, rows, w, x, ldx, y, ldy, scratch, nothing, epilogue);
}

// How many positions of output o's window along dim d count, as torch has it: those in the image,
// or also those in the padding, but never what ceil_mode lets stand out beyond it.
SC_INLINE int64_t window_count(const Window& w, int d, int64_t o, bool with_padding) {
  const int64_t begin = o * w.stride[d] - w.pad[d], end = begin + w.kernel[d];
  const int64_t last = w.in[d] + (with_padding ? w.pad[d] : 0);
  const int64_t first = with_padding ? begin : begin > 0 ? begin : 0;
  return (end < last ? end : last) - first;
}

// y[row] = epilogue(sum of the window / divisor); divisor 0: the number of positions that count.
template <class Epilogue>
void avg_pool(Team& team, int64_t rows, const Window& w, const float* x, int64_t ldx, float* y,
              int64_t ldy, float* scratch, bool count_include_pad, int64_t divisor,
              const Epilogue& epilogue) {
  bool uniform = true;
  for (int d = 0; d < 3; d++)
    for (int64_t o = 0; o < w.out[d]; o++)
      uniform = uniform && window_count(w, d, o, count_include_pad) == w.kernel[d];
  if (divisor != 0 || uniform) {
    const V by = splat(float(divisor ? divisor : w.taps()));
    const auto nothing = [](int64_t, int64_t, float*) {};
    const auto divide = [&](V sum, int64_t row, int64_t col) {
      return epilogue(sum / by, row, col);
    };
    return pool_lines<PlaneSum>(team, rows, w, x, ldx, y, ldy, scratch, nothing, divide);
  }
  float* across = scratch + pool_scratch_floats(w) - w.out[2];
  for (int64_t o = 0; o < w.out[2]; o++)
    across[o] = float(window_count(w, 2, o, count_include_pad));
  const auto divide = [&](int64_t line, int64_t n, float* out) {
    const int64_t z = line / w.out[1] % w.out[0], y0 = line % w.out[1];
    for (int64_t i = 0; i < n; i++) {
      const float count = float(window_count(w, 0, z, count_include_pad) *
                                window_count(w, 1, y0 + i, count_include_pad));
      for (int64_t o = 0; o < w.out[2]; o++) out[i * w.out[2] + o] /= count * across[o];
    }
  };
  pool_lines<PlaneSum>(team, rows, w, x, ldx, y, ldy, scratch, divide, epilogue);
}

// ---- adaptive pooling -------------------------------------------------------------------------

// Shape of an adaptive pooling: leading absent dims are 1. Output o of a dim covers inputs
// [floor(o in / out), ceil((o + 1) in / out)), as in torch.
struct Adaptive {
  int64_t samples;
  int64_t in[3], out[3];

  int64_t begin(int d, int64_t o) const { return o * in[d] / out[d]; }
  int64_t end(int d, int64_t o) const { return ((o + 1) * in[d] + out[d] - 1) / out[d]; }
  int64_t in_area() const { return in[0] * in[1] * in[2]; }
  bool global() const { return out[0] * out[1] * out[2] == 1; }
  Lines lines() const { return {samples * out[0] * out[1], out[1], out[2], 1}; }
};

inline int64_t adaptive_scratch_floats(const Adaptive& a) { return a.lines().floats() + a.in[2]; }

// Line `line` of y: fold the rows of its windows into one, then that one's pieces.
template <class Fold, bool MEAN>
void adaptive_line(const Adaptive& a, const float* x, int64_t line, float* folded, float* out) {
  const int64_t y = line % a.out[1], slice = line / a.out[1];
  const int64_t z = slice % a.out[0], sample = slice / a.out[0], width = a.in[2];
  for (int64_t i = 0; i < width; i++) folded[i] = Fold::start;
  for (int64_t iz = a.begin(0, z); iz < a.end(0, z); iz++)
    for (int64_t iy = a.begin(1, y); iy < a.end(1, y); iy++) {
      const float* from = x + ((sample * a.in[0] + iz) * a.in[1] + iy) * width;
      for (int64_t i = 0; i < width; i++) folded[i] = Fold::combine(folded[i], from[i]);
    }
  const int64_t rows = (a.end(0, z) - a.begin(0, z)) * (a.end(1, y) - a.begin(1, y));
  for (int64_t o = 0; o < a.out[2]; o++) {
    const int64_t begin = a.begin(2, o), end = a.end(2, o);
    float v = Fold::start;
    for (int64_t i = begin; i < end; i++) v = Fold::combine(v, folded[i]);
    out[o] = MEAN ? v / float(rows * (end - begin)) : v;
  }
}

template <class Fold, bool MEAN, class Epilogue>
void adaptive_pool(Team& team, int64_t rows, const Adaptive& a, const float* x, int64_t ldx,
                   float* y, int64_t ldy, float* scratch, const Epilogue& epilogue) {
  if (a.global()) {
    const V by = splat(MEAN ? float(a.in_area()) : 1.f);
    const auto source = [=](int64_t row, int64_t col) { return load(x + row * ldx + col); };
    const auto finish = [&](V v, int64_t row, int64_t s) {
      return epilogue(MEAN ? v / by : v, row, s);
    };
    return reduce_columns<Fold>(team, rows, a.samples, a.in_area(), y, ldy, source, finish);
  }
  const auto make = [&](int64_t row, int64_t line, int64_t, float* out) {
    adaptive_line<Fold, MEAN>(a, x + row * ldx, line, scratch, out);
  };
  make_lines(team, rows, a.lines(), scratch + a.in[2], y, ldy, make, epilogue);
}

// epilogue: V(V pooled, int64_t row, int64_t col); scratch: adaptive_scratch_floats(a).
template <class Epilogue>
void adaptive_avg_pool(Team& team, int64_t rows, const Adaptive& a, const float* x, int64_t ldx,
                       float* y, int64_t ldy, float* scratch, const Epilogue& epilogue) {
  adaptive_pool<PlaneSum, true>(team, rows, a, x, ldx, y, ldy, scratch, epilogue);
}
template <class Epilogue>
void adaptive_max_pool(Team& team, int64_t rows, const Adaptive& a, const float* x, int64_t ldx,
                       float* y, int64_t ldy, float* scratch, const Epilogue& epilogue) {
  adaptive_pool<PlaneMax, false>(team, rows, a, x, ldx, y, ldy, scratch, epilogue);
}

}  // namespace sc
