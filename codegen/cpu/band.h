// The input of a few output lines, copied with its borders, so that every tap of a window is one
// vector load at a fixed distance. Strided windows read from phases: columns (and rows) 0, s, 2s ..
// of the bordered image lie together, so that neighbouring outputs read neighbouring floats.
#pragma once
#include "lanes.h"
#include "reduce.h"
#include "stage.h"
#include "window.h"

namespace sc {

// Floats of a band that leave room in a 32 KB L1 for the lines made from it.
constexpr int64_t kBandFloats = 4096;
// Output lines of a tile: the heights of common images are its multiples.
constexpr int kTileLines = 7;

struct PaddedLines {
  const Window& w;
  int64_t pitch;  // floats between rows of a phase
  int64_t lines;  // output lines at a time
  int64_t plane;  // floats between phases

  explicit PaddedLines(const Window& w) : w(w) {
    pitch = vectors(w.out[2] + (w.kernel[2] - 1) * w.dilation[2] / w.stride[2]) * W;
    lines = w.out[1];
    if (floats() > kBandFloats) {
      lines = lines < kTileLines ? lines : kTileLines;
      while (floats_of(lines + kTileLines) <= kBandFloats) lines += kTileLines;
    }
    plane = plane_of(lines);
  }

  int64_t slots(int64_t n) const { return n + (w.kernel[1] - 1) * w.dilation[1] / w.stride[1]; }
  int64_t plane_of(int64_t n) const { return slots(n) * pitch + 2 * W; }
  int64_t floats_of(int64_t n) const {
    return plane_of(n) * w.kernel[0] * w.stride[1] * w.stride[2] + 2 * W;
  }
  int64_t floats() const { return floats_of(lines); }

  // Where the tap's input of the band's first output stands.
  int64_t tap(int64_t kz, int64_t ky, int64_t kx) const {
    const int64_t y = ky * w.dilation[1], x = kx * w.dilation[2];
    const int64_t phase = (kz * w.stride[1] + y % w.stride[1]) * w.stride[2] + x % w.stride[2];
    return phase * plane + y / w.stride[1] * pitch + x / w.stride[2];
  }

  void find_taps(int32_t* at) const {
    for (int64_t kz = 0; kz < w.kernel[0]; kz++)
      for (int64_t ky = 0; ky < w.kernel[1]; ky++)
        for (int64_t kx = 0; kx < w.kernel[2]; kx++) *at++ = int32_t(tap(kz, ky, kx));
  }

  // Makes n lines at out from a band at x, up to 7 vectors at a time: below each other, or, where
  // an image has one line, side by side. tile.run<R>(x, x_step, out, out_step).
  template <class Tile>
  void tiles(int64_t n, const float* x, float* out, const Tile& tile) const {
    const int64_t across = vectors(w.out[2]);
    if (w.out[1] == 1) {
      tile_column(across, x, W, out, W, tile);
    } else {
      // From the last column on: what a line writes behind its end is overwritten by the next.
      for (int64_t j = across - 1; j >= 0; j--)
        tile_column(n, x + j * W, pitch, out + j * W, w.out[2], tile);
    }
  }

  Lines output() const { return {w.samples * w.out[0] * w.out[1], w.out[1], w.out[2], lines}; }

  // The band of output lines [line, line + n) of image x[row]; `total` floats of x may be read.
  void copy(const float* x, int64_t total, int64_t row_start, int64_t line, int64_t n, V border,
            float* out) const {
    // Divisions would take as long as a small image.
    const int64_t slice = line < w.out[1] ? 0 : line / w.out[1], y0 = line - slice * w.out[1];
    const int64_t sample = w.out[0] == 1 ? slice : slice / w.out[0];
    const int64_t z = slice - sample * w.out[0];
    const int64_t rows = (n - 1) * w.stride[1] + (w.kernel[1] - 1) * w.dilation[1] + 1;
    const int64_t phase = w.stride[2] * plane;
    for (int64_t kz = 0; kz < w.kernel[0]; kz++) {
      const int64_t iz = z * w.stride[0] - w.pad[0] + kz * w.dilation[0];
      const int64_t top = iz < 0 || iz >= w.in[0] ? w.in[1] : y0 * w.stride[1] - w.pad[1];
      const int64_t image = row_start + (sample * w.in[0] + iz) * w.in[1] * w.in[2];
      Rows to{out + kz * w.stride[1] * phase, phase, w.stride[1] * phase - pitch, w.stride[1]};
      const int64_t r0 = min64(rows, top < 0 ? -top : 0), r1 = min64(rows, w.in[1] - top);
      for (int64_t r = 0; r < r0; r++, to.next()) fill_row(border, to.at);
      const Source first{x, total, image + (top + r0) * w.in[2], w.in[2], border};
      if (w.stride[2] == 1) {
        copy_rows<1>(first, r1 - r0, to);
      } else if (w.stride[2] == 2) {
        copy_rows<2>(first, r1 - r0, to);
      } else {
        for (Source line = first; line.at < image + (top + r1) * w.in[2]; line.at += w.in[2]) {
          gather_row(line, to.at);
          to.next();
        }
      }
      for (int64_t r = r1 > r0 ? r1 : r0; r < rows; r++, to.next()) fill_row(border, to.at);
    }
  }

 private:
  template <class Tile>
  SC_INLINE static void tile_column(int64_t n, const float* x, int64_t step, float* out, int64_t to,
                                    const Tile& tile) {
    for (; n >= kTileLines; n -= kTileLines, x += kTileLines * step, out += kTileLines * to)
      tile.template run<kTileLines>(x, step, out, to);
    if (n >= 4) tile.template run<4>(x, step, out, to), x += 4 * step, out += 4 * to, n -= 4;
    if (n >= 2) tile.template run<2>(x, step, out, to), x += 2 * step, out += 2 * to, n -= 2;
    if (n >= 1) tile.template run<1>(x, step, out, to);
  }

  // One line of x: `at` floats from its start, of which `total` may be read.
  struct Source {
    const float* x;
    int64_t total, at, width;
    V border;

    SC_INLINE bool whole(int64_t from) const { return from >= 0 && from + W <= width; }
    SC_INLINE bool outside(int64_t from) const { return from + W <= 0 || from >= width; }
    SC_INLINE VI inside(int64_t from) const {
      const VI column = lane_numbers() + splat_int(int32_t(from));
      return (column >= splat_int(0)) & (column < splat_int(int32_t(width)));
    }

    // Columns [from, from + W) of the line, the border where it has none.
    SC_INLINE V operator()(int64_t from) const {
      if (whole(from)) return load(x + at + from);
      if (outside(from)) return border;
      if (at + from >= 0 && at + from + W <= total)
        return select(inside(from), load(x + at + from), border);
      V v = border;
      for (int i = 0; i < W; i++)
        if (from + i >= 0 && from + i < width) v[i] = x[at + from + i];
      return v;
    }
  };

  // Where rows of the image go, one phase after the other.
  struct Rows {
    float* at;
    int64_t phase, wrap, count;
    int64_t left = count;

    SC_INLINE void next() {
      at += phase;
      if (--left == 0) at -= wrap, left = count;
    }
  };

  SC_INLINE void fill_row(V border, float* to) const {
    for (int64_t q = 0; q < w.stride[2]; q++)
      for (int64_t j = 0; j < pitch; j += W) store(to + q * plane + j, border);
  }

  // Any stride, float by float.
  void gather_row(const Source& source, float* to) const {
    const float border = source.border[0];
    for (int64_t q = 0; q < w.stride[2]; q++)
      for (int64_t j = 0; j < pitch; j++) {
        const int64_t from = j * w.stride[2] + q - w.pad[2];
        const bool in = from >= 0 && from < source.width;
        to[q * plane + j] = in ? source.x[source.at + from] : border;
      }
  }

  template <int S>
  SC_INLINE static void put(const V (&v)[S], float* to, int64_t plane) {
    if constexpr (S == 1) {
      store(to, v[0]);
    } else {
      store(to, even_lanes(v[0], v[1], LaneList()));
      store(to + plane, odd_lanes(v[0], v[1], LaneList()));
    }
  }

  // n lines from `line` on, stride S. Only the first and the last vectors of a line may meet its
  // ends: these go by masks, found once, where all that is loaded may be read.
  template <int S>
  SC_INLINE void copy_rows(Source line, int64_t n, Rows& to) const {
    const int64_t pad = w.pad[2], width = line.width, wide = pitch, far = plane;
    const int64_t count = min64(wide, (width + pad + S * W - 1) / (S * W) * W);
    const int64_t tail = count - W;  // where the last ones go
    VI in_head[S], in_tail[S];
    for (int s = 0; s < S; s++) {
      in_head[s] = line.inside(s * W - pad);
      in_tail[s] = line.inside(S * tail + s * W - pad);
    }
    for (int64_t r = 0; r < n; r++, line.at += width, to.next()) {
      V v[S];
      const int64_t start = line.at - pad;
      if (pad > S * W || start < 0 || start + S * count > line.total) {
        for (int64_t j = 0; j < wide; j += W) {
          for (int s = 0; s < S; s++) v[s] = line(S * j + s * W - pad);
          put<S>(v, to.at + j, far);
        }
        continue;
      }
      const float* from = line.x + start;
      for (int s = 0; s < S; s++) v[s] = select(in_head[s], load(from + s * W), line.border);
      put<S>(v, to.at, far);
      for (int64_t j = W; j < tail; j += W) {
        for (int s = 0; s < S; s++) v[s] = load(from + S * j + s * W);
        put<S>(v, to.at + j, far);
      }
      if (tail > 0) {
        for (int s = 0; s < S; s++)
          v[s] = select(in_tail[s], load(from + S * tail + s * W), line.border);
        put<S>(v, to.at + tail, far);
      }
      for (int s = 0; s < S; s++) v[s] = line.border;
      for (int64_t j = count; j < wide; j += W) put<S>(v, to.at + j, far);
    }
  }
};

}  // namespace sc
