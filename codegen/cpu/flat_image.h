// Images laid flat for convolutions in blocks of stride 1 (conv_flat.h): their rows one behind the
// other, a border of zeros apart, so that a tap is a distance and one copy serves all taps:
//   y[o] = sum_(c, dy, dx) w[c, dy, dx] x_c[o + dy * pitch + dx],  o = row * pitch + column.
// Positions of the border are computed and dropped.
#pragma once
#include "linear_block.h"
#include "window.h"

namespace sc {

constexpr int kFlatWide = 48;             // most vectors of an image row
constexpr int64_t kFlatBytes = 256 << 10;  // of the panels of one tile
constexpr int64_t kFlatSums = 1 << 19;     // of the sums between tiles
// A last vector of so few positions is not worth four vectors of sums, one for each row: a corner
// is one vector of these positions in four rows. With 16 registers there is no room for it.
constexpr int kCorner = W / kBlockRows;
constexpr bool kCorners = W == 16;

struct FlatImage {
  int64_t pitch, used, whole;  // floats between rows; positions, and vectors of them
  int64_t down, reach;         // rows, and floats, between the first tap and the last
  bool corner;                 // behind the vectors

  explicit FlatImage(const Window& w) {
    const int64_t wide = w.in[2] + w.pad[2];
    pitch = wide > w.out[2] ? wide : w.out[2];
    used = (w.out[1] - 1) * pitch + w.out[2];
    corner = kCorners && used > W && used % W && used % W <= kCorner;
    whole = corner ? used / W : vectors(used);
    down = (w.kernel[1] - 1) * w.dilation[1];
    reach = down * pitch + (w.kernel[2] - 1) * w.dilation[2];
  }
};

// What is done at a time: vectors of an image, in panels that the kernel takes whole.
struct FlatBands {
  int64_t panel, wide;      // vectors
  int64_t channels, plane;  // of a tile; floats of each

  FlatBands(const PackedHeader* h, const Window& w, const FlatImage& f) {
    const int64_t widest = h->q == 1 ? kBlockPanel<4, 1> : kBlockPanel<4, 4>;
    channels = min64(h->k_tile, h->cols) / w.taps();
    int64_t panels = (f.whole + widest - 1) / widest;
    panel = (f.whole + panels - 1) / panels;
    panels = (f.whole + panel - 1) / panel;
    int64_t fit = kFlatBytes / (4 * channels) - f.reach - 2 * f.pitch - 2 * W;
    if (h->tiles() > 1) fit = min64(fit, kFlatSums / (4 * h->rows) - W);
    const int64_t most = fit > panel * W ? fit / (panel * W) : 1;
    const int64_t count = (panels + most - 1) / most;
    wide = (panels + count - 1) / count * panel;
    plane = plane_of(w, f, count > 1 ? f.pitch - 1 : 0);
  }
  int64_t pitch() const { return (wide + 1) * W; }  // of the sums, between rows

 private:
  // begin: most positions before the band in its first row of the image.
  int64_t plane_of(const Window& w, const FlatImage& f, int64_t begin) const {
    const int64_t end = begin + (wide + f.corner) * W;
    const int64_t rows = min64((end - 1) / f.pitch + 1, w.out[1]) + f.down;
    const int64_t read = end + f.reach;
    const int64_t written = w.pad[2] + (rows - 1) * f.pitch + vectors(f.pitch) * W;
    int64_t lines = ((read > written ? read : written) + 15) / 16;
    while (lines % 16 != 7 && lines % 16 != 9) lines++;  // planes spread over the sets of a cache
    return lines * 16;
  }
};

// Whether a weight is to be applied so, which wastes less than a quarter of the lanes.
inline bool is_flat(const PackedHeader* h, const Window& w) {
  if (h->format != kBlock || h->p < kBlockRows || h->groups != 1 || w.transposed || w.strided() ||
      w.in[0] != 1 || w.out[0] != 1 || w.kernel[0] != 1 || w.pad[0] != 0 || w.taps() == 1 ||
      w.pad[2] > W || (h->k_tile < h->cols && h->k_tile % w.taps() != 0))
    return false;
  const FlatImage f(w);
  const int64_t lanes = f.whole * W + (f.corner ? W / 2 : 0);
  return vectors(f.pitch) <= kFlatWide && 4 * w.out[1] * w.out[2] >= 3 * lanes;
}

// Lays rows of an image flat.
struct FlatReader {
  const Window& w;
  int64_t pitch, plane, ldx, low, high;  // x + [low, high) may be read
  const float* x;  // of the sample
  VI keep[kFlatWide];

  FlatReader(const Window& w, const FlatImage& f, const FlatBands& b, const float* planes,
             int64_t ldx, int64_t sample)
      : w(w), pitch(f.pitch), plane(b.plane), ldx(ldx), low(-sample * w.in[1] * w.in[2]),
        high(ldx + low), x(planes - low) {
    for (int64_t s = 0; s < vectors(pitch); s++)
      for (int l = 0; l < W; l++) keep[s][l] = s * W + l < w.in[2] ? -1 : 0;
  }

  // Rows [first, first + rows), zero where the image has none, of channels [c0, c0 + count).
  void copy(int64_t c0, int64_t count, int64_t first, int64_t rows, float* out) const {
    const int64_t wide = vectors(pitch);
    const int64_t r0 = first < 0 ? -first : 0;
    int64_t r1 = min64(rows, w.in[1] - first);  // without special cases
    while (r0 < r1 && (first + r1 - 1) * w.in[2] + wide * W > high) r1--;
    for (int64_t c = 0; c < count; c++, out += plane) {
      const float* from = x + (c0 + c) * ldx + first * w.in[2];
      store(out, V{});
      float* to = out + w.pad[2];
      for (int64_t r = 0; r < rows; r++, from += w.in[2], to += pitch) {
        if (r < r0 || r >= r1) {
          copy_row(x + (c0 + c) * ldx, first + r, to);
          continue;
        }
        for (int64_t s = 0; s < wide; s++) {
          __builtin_prefetch(from + 2 * ldx + s * W);
          store(to + s * W, and_mask(load(from + s * W), keep[s]));
        }
      }
    }
  }

 private:
  void copy_row(const float* channel, int64_t row, float* to) const {
    for (int64_t s = 0; s < vectors(pitch); s++, to += W) {
      const int64_t pos = row * w.in[2] + s * W, at = min64(pos, high - W);
      V v = {};
      if (row >= 0 && row < w.in[1] && pos - at < W) {
        VI lane;
        for (int l = 0; l < W; l++) lane[l] = l + int32_t(pos - at);
        v = and_mask(permute(load(channel + at), lane), keep[s]);
      }
      store(to, v);
    }
  }
};

}  // namespace sc
