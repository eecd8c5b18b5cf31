// Dense convolution of stride 2 over few channels, as at the start of most networks of images: some
// output lines at a time, from input lines taken apart once into even and odd columns, so that what
// a tap reads for neighbouring outputs are neighbours.
#pragma once
#include "lanes.h"
#include "linear_dense.h"
#include "lines.h"

namespace sc {

constexpr int64_t kStemLines = 4;  // output lines at a time

// Input lines apart: column i of phase q is column 2 i + q - pad of the line, zero outside.
struct PhaseLines {
  const Window& w;
  int64_t channels, pitch, count;  // floats of a phase of a line; lines of a channel
  InputLines lines;
  float* phase;  // [channel][line][phase][column]
  VI* mask;      // [phase][vector]

  static int64_t pitch_of(const Window& w) { return vectors(w.out[2] + w.kernel[2] / 2) * W; }
  static int64_t lines_of(const Window& w) { return 2 * (kStemLines - 1) + w.kernel[1]; }
  static int64_t high(const Window& w) { return 2 * pitch_of(w) - w.pad[2]; }
  static int64_t floats(const Window& w, int64_t channels) {
    return (channels * lines_of(w) + 1) * 2 * pitch_of(w) +
           InputLines::floats(-w.pad[2], high(w), 1);
  }

  PhaseLines(const Window& w, const float* x, int64_t channels, int64_t ldx, float* scratch)
      : w(w), channels(channels), pitch(pitch_of(w)), count(lines_of(w)),
        lines(w, x, channels * ldx, -w.pad[2], high(w), scratch + floats(w, channels) -
              InputLines::floats(-w.pad[2], high(w), 1)),
        phase(scratch), mask(reinterpret_cast<VI*>(scratch + channels * count * 2 * pitch)) {
    for (int q = 0; q < 2; q++)
      for (int64_t j = 0; j < pitch; j += W) {
        const VI column = (lane_numbers() + int32_t(j)) * 2 + int32_t(q - w.pad[2]);
        mask[(q * pitch + j) / W] =
            (column >= splat_int(0)) & (column < splat_int(int32_t(w.in[2])));
      }
  }

  // The lines that n output lines from `line` on read.
  void fill(const float* image, int64_t ldx, int64_t line, int64_t n) const {
    for (int64_t c = 0; c < channels; c++)
      for (int64_t r = 0; r < 2 * (n - 1) + w.kernel[1]; r++) {
        const float* from[1];
        lines.find(image + c * ldx, 2 * line - w.pad[1] + r, from);
        float* to = phase + (c * count + r) * 2 * pitch;
        for (int64_t j = 0; j < pitch; j += W) {
          const float* p = from[0] + 2 * j - w.pad[2];
          const V a = load(p), b = load(p + W);
          const VI *even = mask + j / W, *odd = even + pitch / W;
          store(to + j, (V)((VI)even_lanes(a, b, LaneList()) & *even));
          store(to + pitch + j, (V)((VI)odd_lanes(a, b, LaneList()) & *odd));
        }
      }
  }

  // The panel of NB vectors of outputs from column `col` of line r of those filled on.
  template <int NB>
  SC_INLINE void panel(int64_t r, int64_t col, float* out) const {
    for (int64_t c = 0; c < channels; c++)
      for (int64_t ky = 0; ky < w.kernel[1]; ky++) {
        const float* from = phase + (c * count + 2 * r + ky) * 2 * pitch + col;
        for (int64_t kx = 0; kx < w.kernel[2]; kx++, out += NB * W)
#pragma GCC unroll 4
          for (int j = 0; j < NB; j++)
            store(out + j * W, load(from + kx % 2 * pitch + kx / 2 + j * W));
      }
  }
};

inline int64_t stem_scratch_floats(const void* packed, const Window& w) {
  const auto* h = static_cast<const PackedHeader*>(packed);
  return h->cols * kDensePanel * W + PhaseLines::floats(w, h->cols / w.taps());
}

// NB vectors of a line of outputs, all rows. x: their panel.
template <class Epilogue>
SC_INLINE void stem_panel(const PackedHeader* h, int64_t count, const float* x, float* y,
                          int64_t ldy, int64_t col, const Epilogue& epilogue) {
  for (int64_t t = 0; t < h->tiles(); t++) {
    const int64_t k0 = t * h->k_tile, depth = min64(h->k_tile, h->cols - k0);
    for (int64_t b = 0; b < h->blocks(); b++) {
      const int64_t row0 = b * kDenseRows;
      const float* weight =
          section<float>(h, h->value_at) + (k0 * h->blocks() + b * depth) * kDenseRows;
      const DenseOutput out{y, ldy, row0, min64(kDenseRows, h->rows - row0), col, t == 0,
                            t == h->tiles() - 1};
      dense_rows_of_block(count, weight, depth, x + k0 * count * W, out, epilogue);
    }
  }
}

// As conv_dense, for windows of stride 2 in the plane, no dilation, one slice, and lines of outputs
// of at least a vector. epilogue: at any column; y is nothing that it reads.
template <class Epilogue>
void conv_stem(Team& team, const void* packed, const Window& w, const float* x, int64_t ldx,
               float* y, int64_t ldy, float* scratch, const Epilogue& epilogue) {
  const auto* h = static_cast<const PackedHeader*>(packed);
  const int64_t channels = h->cols / w.taps(), wide = w.out[2], high = w.out[1];
  float* panel = scratch + PhaseLines::floats(w, channels);
  const PhaseLines phases(w, x, channels, ldx, scratch);
  const int64_t begin = team.cut_first(w.samples * high);
  const int64_t end = team.cut_last(w.samples * high);
  const Stint stint(team, double((end - begin) * h->nnz * vectors(wide)));
  for (int64_t line = begin, n; line < end; line += n) {
    const int64_t image = line / high, y0 = line % high;
    n = min64(kStemLines, min64(end - line, high - y0));
    phases.fill(x + image * w.in[1] * w.in[2], ldx, y0, n);
    for (int64_t r = 0; r < n; r++)
      for (int64_t j = 0; j < wide;) {
        const bool pair = kDensePanel > 1 && wide - j > W && wide >= 2 * W;
        const int64_t size = pair ? 2 * W : W, col = min64(j, wide - size);
        if (pair) phases.panel<2>(r, col, panel);
        else phases.panel<1>(r, col, panel);
        stem_panel(h, size / W, panel, y, ldy, (line + r) * wide + col, epilogue);
        j += size;
      }
  }
}

}  // namespace sc
