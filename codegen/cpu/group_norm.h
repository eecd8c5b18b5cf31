// Group norm on planes: one mean and variance per sample and group of rows; instance norm has one
// row in each group. The variance is a second pass around the first one's mean, corrected by that
// mean's own rounding error (Chan, Golub, LeVeque 1983), so a large mean does no harm.
#pragma once
#include "reduce.h"

namespace sc {

// What each thread brings: a mean and a scale for each sample.
inline int64_t group_norm_scratch_floats(int64_t samples) { return 2 * samples + 2 * W; }

template <class Source>
struct GroupMoments {
  int64_t rows, samples, per;  // rows of a group, columns of a sample
  float eps;
  float* mean;   // of each sample
  float* scale;  // 1 / sqrt(variance + eps)
  const Source& source;

  void find(int64_t group) const {
    const int64_t first = group * rows;
    const double count = double(rows) * double(per);
    for (int64_t s = 0; s < samples; s++) {
      const auto sum = [&](const auto& value) {
        double total = 0;
        for (int64_t r = first; r < first + rows; r++)
          total += fold_columns<PlaneSum>(r, s * per, (s + 1) * per, value);
        return total;
      };
      const float near = float(sum(source) / count);
      const auto off = [&](int64_t r, int64_t c) { return source(r, c) - splat(near); };
      const auto squared = [&](int64_t r, int64_t c) { return off(r, c) * off(r, c); };
      const double rest = sum(off) / count;
      mean[s] = float(double(near) + rest);
      const double variance = sum(squared) / count - rest * rest;
      scale[s] = float(1 / __builtin_sqrt((variance < 0 ? 0 : variance) + double(eps)));
    }
  }
};

// y[r][c] = finish((x - mean) / sqrt(var + eps), r, c), the variance biased, x = source(r, c);
// `groups` groups of rows / groups rows. finish: V(V normalised, int64_t row, int64_t col).
// y may be what source reads at the same place only if groups is a multiple of the team's size.
template <class Source, class Finish>
void group_norm(Team& team, int64_t rows, int64_t groups, int64_t samples, int64_t per, float eps,
                float* y, int64_t ldy, float* scratch, const Source& source,
                const Finish& finish) {
  const GroupMoments<Source> moments{rows / groups, samples,     per,   eps,
                                     scratch,       scratch + samples, source};
  int64_t known = -1;
  share_of_plane(team, rows, samples * per, [&](int64_t row, int64_t first, int64_t last) {
    if (row / moments.rows != known) moments.find(known = row / moments.rows);
    for (int64_t col = first; col < last; col += W) {
      const int64_t s = col / per;
      V mean = splat(moments.mean[s]), scale = splat(moments.scale[s]);
      if (col + W > (s + 1) * per) {  // the vector goes on into the next samples
        for (int i = 0; i < W; i++) {
          const int64_t t = (col + i) / per < samples ? (col + i) / per : samples - 1;
          mean[i] = moments.mean[t], scale[i] = moments.scale[t];
        }
      }
      store(y + row * ldy + col, finish((source(row, col) - mean) * scale, row, col));
    }
  });
}

}  // namespace sc
