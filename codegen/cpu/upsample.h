// Resampling of images by the nearest pixel or linearly between neighbours, with torch's rules, in
// float as torch has them. Which pixels a column reads and their shares stand in tables, found once
// per call; lines are blended first, then their columns: one load and one shuffle for a vector of
// them, unless the image shrinks so much that these lie farther apart than a vector is long.
#pragma once
#include "stage.h"
#include "window.h"

namespace sc {

// A resampling's shape: leading absent dims are 1. scale: the framework's scale factor of a dim, 0
// where it goes by the sizes.
struct Resample {
  int64_t samples;
  int64_t in[3], out[3];
  double scale[3];

  int64_t in_area() const { return in[0] * in[1] * in[2]; }
  // Inputs per output.
  float step(int d) const {
    return scale[d] > 0 ? float(1.0 / scale[d]) : float(in[d]) / float(out[d]);
  }
  Lines lines() const { return {samples * out[0] * out[1], out[1], out[2], 1}; }
};

// ---- nearest ----------------------------------------------------------------------------------

// exact: the nearest centre ("nearest-exact"); else torch's older rule, floor(o * step).
SC_INLINE int64_t nearest(const Resample& r, int d, int64_t o, bool exact) {
  const float at = (exact ? float(o) + 0.5f : float(o)) * r.step(d);
  const int64_t i = int64_t(__builtin_floorf(at));
  return i < r.in[d] ? i : r.in[d] - 1;
}

// For each vector of a line its first column's input; for each lane how far behind that it reads.
struct Columns {
  int32_t* base;
  int32_t* lane;
  bool near = true;  // never W or more

  Columns(float* scratch, int64_t width)
      : base(reinterpret_cast<int32_t*>(scratch)), lane(base + vectors(width)) {}
  static int64_t floats(int64_t width) { return vectors(width) * (W + 1); }

  // find: the input of a column; columns behind the last are as the last.
  template <class Find>
  void fill(int64_t width, const Find& find) {
    for (int64_t o = 0; o < vectors(width) * W; o++) {
      const int32_t i = int32_t(find(o < width ? o : width - 1));
      if (o % W == 0) base[o / W] = i;
      lane[o] = i - base[o / W];
      near = near && lane[o] < W;
    }
  }

  // The inputs of vector v of a line at x, of which `readable` floats are there.
  SC_INLINE V operator()(const float* x, int64_t v, int64_t readable) const {
    const float* from = x + base[v];
    if (near && base[v] + W <= readable) return permute(load(from), load_int(lane + v * W));
    V r{};
    for (int i = 0; i < W; i++) r[i] = from[lane[v * W + i]];
    return r;
  }
};

inline int64_t nearest_scratch_floats(const Resample& r) {
  return r.lines().floats() + Columns::floats(r.out[2]);
}

// y[row][o] = epilogue(x[row][nearest(o)]). epilogue: V(V x, int64_t row, int64_t col).
// scratch: nearest_scratch_floats(r) of this thread's.
template <class Epilogue>
void upsample_nearest(Team& team, int64_t rows, const Resample& r, bool exact, const float* x,
                      int64_t ldx, float* y, int64_t ldy, float* scratch,
                      const Epilogue& epilogue) {
  Columns columns(scratch, r.out[2]);
  columns.fill(r.out[2], [&](int64_t o) { return nearest(r, 2, o, exact); });
  const auto make = [&](int64_t row, int64_t line, int64_t, float* out) {
    const int64_t oy = line % r.out[1], slice = line / r.out[1];
    const int64_t iz = nearest(r, 0, slice % r.out[0], exact), iy = nearest(r, 1, oy, exact);
    const int64_t at =
        row * ldx + ((slice / r.out[0] * r.in[0] + iz) * r.in[1] + iy) * r.in[2];
    for (int64_t v = 0; v < vectors(r.out[2]); v++)
      store(out + v * W, columns(x + at, v, rows * ldx - at));
  };
  float* stage = scratch + Columns::floats(r.out[2]);
  make_lines(team, rows, r.lines(), stage, y, ldy, make, epilogue);
}

// ---- linear -----------------------------------------------------------------------------------

// Between pixels i and i + 1, `share` of the second; there is none behind the last one.
struct Between {
  int64_t i;
  float share;
};
SC_INLINE Between between(const Resample& r, int d, int64_t o, bool align_corners) {
  float at;
  if (align_corners) {
    at = r.out[d] > 1 ? float(r.in[d] - 1) / float(r.out[d] - 1) * float(o) : 0.f;
  } else {
    at = r.step(d) * (float(o) + 0.5f) - 0.5f;
    at = at < 0 ? 0.f : at;
  }
  int64_t i = int64_t(at);
  i = i < r.in[d] - 1 ? i : r.in[d] - 1;
  const float share = at - float(i);
  return {i, share < 1 ? share : 1.f};
}

inline int64_t bilinear_scratch_floats(const Resample& r) {
  return r.lines().floats() + Columns::floats(r.out[2]) + vectors(r.out[2]) * W + r.in[2] + 2 * W;
}

// y[row][o] = epilogue(the 2 or 4 pixels around o, blended), for lines and images (depth 1).
// epilogue: V(V x, int64_t row, int64_t col). scratch: bilinear_scratch_floats(r) of this thread's.
template <class Epilogue>
void upsample_bilinear(Team& team, int64_t rows, const Resample& r, bool align_corners,
                       const float* x, int64_t ldx, float* y, int64_t ldy, float* scratch,
                       const Epilogue& epilogue) {
  const int64_t width = r.in[2], count = vectors(r.out[2]);
  Columns columns(scratch, r.out[2]);
  columns.fill(r.out[2], [&](int64_t o) { return between(r, 2, o, align_corners).i; });
  float* share = scratch + Columns::floats(r.out[2]);
  for (int64_t o = 0; o < count * W; o++)
    share[o] = o < r.out[2] ? between(r, 2, o, align_corners).share : 0.f;
  float* blended = share + count * W;
  const auto make = [&](int64_t row, int64_t line, int64_t, float* out) {
    const Between b = between(r, 1, line % r.out[1], align_corners);
    const float* above = x + row * ldx + (line / r.out[1] * r.in[1] + b.i) * width;
    const float* below = b.i < r.in[1] - 1 ? above + width : above;
    for (int64_t i = 0; i < width; i++)
      blended[i] = (1 - b.share) * above[i] + b.share * below[i];
    blended[width] = blended[width - 1];
    for (int64_t v = 0; v < count; v++) {
      const V second = load(share + v * W);
      const V left = columns(blended, v, width + 2 * W - 1);
      const V right = columns(blended + 1, v, width + 2 * W - 1);
      store(out + v * W, (splat(1.f) - second) * left + second * right);
    }
  };
  make_lines(team, rows, r.lines(), blended + width + 2 * W, y, ldy, make, epilogue);
}

}  // namespace sc
