// Lines (rows of images) are made in a buffer that stays in L1, densely, and go from there through
// the epilogue into the planes: whole vectors whatever the width of an image, and each vector once.
#pragma once
#include "pointwise.h"

namespace sc {

// A plane as lines: `count` of them, `width` columns each. At most `band` are made at a time, none
// across a multiple of `height`.
struct Lines {
  int64_t count, height, width, band;

  int64_t floats() const { return band * width + 4 * W; }  // of the buffer
};

// y[row][..] = epilogue(lines of row): make(row, line, n, out) writes n lines at out and may write
// W floats behind them. epilogue: V(V made, int64_t row, int64_t col), at multiples of W.
template <class Make, class Epilogue>
void make_lines(Team& team, int64_t rows, const Lines& lines, float* stage, float* y, int64_t ldy,
                const Make& make, const Epilogue& epilogue) {
  const int64_t width = lines.width, columns = lines.count * width;
  share_of_plane(team, rows, columns, [&](int64_t row, int64_t first, int64_t last) {
    // Divisions would take as long as a small image.
    int64_t line = first == 0 ? 0 : first / width, col = first;
    const int64_t end = last == columns ? lines.count : (last + width - 1) / width;
    int64_t base = line * width / W * W;  // the column that stands first in the buffer
    while (line < end) {
      int64_t n = lines.height - (line < lines.height ? line : line % lines.height);
      n = n < lines.band ? n : lines.band;
      n = n < end - line ? n : end - line;
      make(row, line, n, stage + line * width - base);
      line += n;
      const int64_t whole = line * width / W * W, ready = line < end ? whole : last;
      for (; col < ready; col += W)
        store(y + row * ldy + col, epilogue(load(stage + col - base), row, col));
      store(stage, load(stage + whole - base));  // the begun vector
      base = whole;
    }
  });
}

}  // namespace sc
