// Lines of images where they lie: those that a kernel reads, also beyond the image and where memory
// ends beside them, and vectors of results at any column of a plane.
#pragma once
#include "reduce.h"
#include "window.h"

namespace sc {

// The lines of the images of x. Columns [low, high) of each may be read, the first of the image
// being 0: beside the image they are another line's.
struct InputLines {
  const Window& w;
  const float *begin, *end;  // of x
  int64_t low, high;
  float *border, *copies;  // a line of zeros; lines beside which memory ends

  static int64_t floats(int64_t low, int64_t high, int64_t most) {
    return (1 + most) * (high - low);
  }

  // total: floats of x; scratch: floats(low, high, the most lines found at a time) of them
  InputLines(const Window& w, const float* x, int64_t total, int64_t low, int64_t high,
             float* scratch)
      : w(w), begin(x), end(x + total), low(low), high(high), border(scratch),
        copies(scratch + high - low) {
    for (int64_t i = 0; i < high - low; i++) border[i] = 0;
  }

  // Lines [top, top + N) of an image; of zeros where it has none.
  template <int N>
  SC_INLINE void find(const float* image, int64_t top, const float* (&line)[N]) const {
    const int64_t wide = w.in[2];
    const float* zeros = border - low;
#pragma GCC unroll 32
    for (int r = 0; r < N; r++)
      line[r] = uint64_t(top + r) < uint64_t(w.in[1]) ? image + (top + r) * wide : zeros;
    const int64_t bottom = top + N < w.in[1] ? top + N : w.in[1];
    if (image + (top < 0 ? 0 : top) * wide + low >= begin &&
        image + (bottom - 1) * wide + high <= end)
      return;
    for (int r = 0; r < N; r++)
      if (line[r] != zeros && (line[r] + low < begin || line[r] + high > end))
        line[r] = copy(line[r], copies + r * (high - low));
  }

 private:
  const float* copy(const float* line, float* to) const {
    for (int64_t c = low; c < high; c++) to[c - low] = c >= 0 && c < w.in[2] ? line[c] : 0.f;
    return to - low;
  }
};

// Stores vectors through the epilogue at any column of a plane's row; `last`: where the row's last
// vector stands. What stands behind a line's end must be written later.
template <class Epilogue>
struct PlaneWriter {
  float* y;
  int64_t row, last;
  const Epilogue& epilogue;

  // R vectors, one below the other in lines of `pitch` columns. All are computed before one is
  // stored: a store might change what the epilogue reads, so each would read it again.
  template <int R>
  SC_INLINE void put(const V (&v)[R], int64_t col, int64_t pitch) const {
    if (__builtin_expect(col + (R - 1) * pitch > last, 0)) {
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) put_apart(v[r], col + r * pitch);
      return;
    }
    V done[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) done[r] = epilogue(v[r], row, col + r * pitch);
    float* const out = y + col;
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) store(out + r * pitch, done[r]);
  }

  __attribute__((noinline)) void put_apart(V v, int64_t col) const { put(v, col); }

  SC_INLINE void put(V v, int64_t col) const {
    if (__builtin_expect(col <= last, 1)) return store(y + col, epilogue(v, row, col));
    // A narrow line that ends a plane: its vector would leave the row.
    float wide[2 * W] = {};
    store(wide + (col - last), v);
    const VI own = lane_numbers() >= splat_int(int32_t(col - last));
    store(y + last, select(own, epilogue(load(wide), row, last), load(y + last)));
  }
};

}  // namespace sc
