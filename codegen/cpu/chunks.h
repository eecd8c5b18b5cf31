// How a segment's samples are divided: into chunks that stay in cache, for all threads together or
// each for one thread alone.
//
// Alone, a thread runs the whole segment on its own samples: it never waits, and its activations
// never leave its cache; weights are read by every core. Together, threads share each step of one
// chunk: the only way to use them all on a single sample.
#pragma once
#include "vec.h"

namespace sc {

constexpr int64_t kChunkColumns = 256;  // what a chunk aims at: uses each weight often enough
constexpr int64_t kAloneColumns = 128;  // fewer would read the weights too often

SC_INLINE int64_t lines(int64_t floats) { return (floats + 15) / 16 * 16; }
SC_INLINE int64_t parts(int64_t n, int64_t size) { return (n + size - 1) / size; }

struct Chunks {
  int64_t per;  // samples of a chunk
  int64_t ld;   // floats between planes: an odd number of cache lines, no power of two
  bool alone;

  Chunks(int64_t samples, int64_t unit, int threads) {
    int64_t count = parts(samples, kChunkColumns > unit ? kChunkColumns / unit : 1);
    if (count < threads && samples >= threads && samples * unit >= threads * kAloneColumns)
      count = threads;
    if (count > threads) count = parts(count, threads) * threads;
    per = count < samples ? parts(samples, count) : 1;
    if (unit == 1) per = lines(per);
    count = parts(samples, per);
    alone = threads > 1 && (count % threads == 0 || count >= 4 * threads);
    ld = (lines(per * unit) / 16 | 1) * 16;
  }
};

}  // namespace sc
