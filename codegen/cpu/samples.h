// What is one number for each sample of a chunk, at the columns of planes.
#pragma once
#include "lanes.h"

namespace sc {

// Lane l is from[(col + l) / each]. each: columns of a sample, fewer than 2^22; 0: there is one
// sample. Of the row of numbers at `from` a whole vector may be read.
SC_INLINE V of_samples(const float* from, int64_t col, int64_t each) {
  if (!each) return splat(*from);
  const auto first = int32_t(uint32_t(col) / uint32_t(each));
  const auto inside = int32_t(col - first * each);
  if (inside + W <= each) return splat(from[first]);
  V place;
  for (int l = 0; l < W; l++) place[l] = float(l) + .5f;  // halves: rounding cannot reach a border
  place = (place + float(inside)) * (1.f / float(each));
  const VI sample = __builtin_convertvector(place, VI) + first;
  if (sample[W - 1] < W) return permute(load(from), sample);
  V out;
  for (int l = 0; l < W; l++) out[l] = from[sample[l]];
  return out;
}

}  // namespace sc
