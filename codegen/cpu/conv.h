// Convolutions on planes: y[M planes] = epilogue(W . windows of x), the linear kernels over
// K = channels of a group * taps rows that the panel copy gathers (window.h).
#pragma once
#include "conv_bands.h"
#include "conv_flat.h"
#include "linear_bitmap.h"
#include "linear_block.h"
#include "linear_csr.h"
#include "linear_dense.h"
#include "linear_nm.h"
#include "linear_split.h"
#include "window.h"

namespace sc {

static_assert(kCsrPanel * W <= Places::kMost && kDensePanel <= kCsrPanel, "widest panels");

// Nanoseconds, roughly: what decides between more row parts, each of which copies the same panels,
// and more column parts, which write into each other's rows of y (measured with two threads, 16
// floats a vector: 28 x 28 about tie, 14 x 14 take up to 1.6 times as long by columns).
struct ConvWork {
  double sums, copies, seam;  // per output vector; per row part; per column seam

  ConvWork(const PackedHeader* h, const Window& w) {
    double weights = 0;
    const PackedHeader* own = h;
    const int64_t blobs = h->format == kSplit ? 1 : h->groups;
    for (int64_t g = 0; g < blobs; g++, own = next_group(own)) weights += double(own->nnz);
    const double rows = double(h->rows * h->groups);
    const bool rows_alone =
        h->format == kCsr || h->format == kBitmap || h->format == kSplit;
    sums = rows_alone ? .15 * weights + 1.2 * rows * double(h->tiles())
                      : (h->format == kBlock || h->format == kCompact ? .08 : .13) * weights;
    const double copy = w.plain() ? 1.04 : w.shifted() ? .81 : 2.1;
    copies = (W == 16 ? copy : .6 * copy) * double(h->cols * h->groups);
    seam = 50 * rows * double(h->tiles());
  }
};

// Sparse weights: columns, as far as each part has some hundred. What the layer before wrote is
// then in the cache of the core that reads it; fetching it from another's costs more than the seam.
inline int64_t csr_row_parts(const Team& team, int64_t n_vectors, int64_t blocks) {
  int64_t row_parts = 1;
  while (row_parts < team.size && (team.size % row_parts || row_parts > blocks ||
                                   n_vectors * row_parts / team.size * W < 96))
    row_parts++;
  return row_parts;
}

// The team as the grid of row parts (of groups, where there are enough) x column parts that should
// take least time.
inline Share divide_conv(const Team& team, const PackedHeader* h, const Window& w) {
  const int64_t n_vectors = vectors(w.out_columns()), blocks = h->blocks();
  const int64_t units = h->groups > 1 ? h->groups : blocks;
  const ConvWork work(h, w);
  int64_t row_parts = 1;
  double least = 0;
  for (int64_t r = 1; r <= team.size; r++) {
    if (team.size % r || (r > units && r > 1)) continue;
    const int64_t c = team.size / r, wide = (n_vectors + c - 1) / c;
    const double own_units = double((units + r - 1) / r) / double(units);
    const double copies = work.copies / (h->groups > 1 ? double(r) : 1);
    const double seam = c == 1 ? 0 : work.seam * own_units * (wide * W < 256 ? 1 : .1);
    const double time = double(wide) * (work.sums * own_units + copies) + seam;
    if (r == 1 || time < least) least = time, row_parts = r;
  }
  if (h->format == kCsr && h->groups == 1) row_parts = csr_row_parts(team, n_vectors, blocks);
  const int64_t column_parts = team.size / row_parts;
  const int64_t column = team.id % column_parts, row = team.id / column_parts;
  // The width of a panel decides the order of a sparse row's sums, not that of a dense one's.
  const auto vector_at = [&](int64_t part) {
    return h->format == kDense ? team.cut(part, column_parts, n_vectors)
                               : n_vectors * part / column_parts;
  };
  const int64_t vector0 = vector_at(column), vector1 = vector_at(column + 1);
  if (h->groups > 1)
    return {0, blocks, vector0, vector1, h->groups * row / row_parts,
            h->groups * (row + 1) / row_parts};
  const WorkPrefix prefix{counts_work(h) ? section<int64_t>(h, h->prefix_at) : nullptr, blocks,
                          h->row_block, h->tiles()};
  return {prefix.cut(team, row, row_parts), prefix.cut(team, row + 1, row_parts), vector0, vector1};
}

// Whether a csr weight reads each row so seldom that a copy would cost more than it saves: so many
// times at most (measured), more of them where x has more rows than y.
inline bool reads_in_place(const PackedHeader* h, const Share& share) {
  constexpr double more = W == 16 ? 80 : W == 8 ? 26 : 8;
  const double part = double(share.block1 - share.block0) / double(h->blocks());
  return part * double(h->nnz) <= (h->cols > h->rows ? more : 2 * W) * double(h->cols);
}

inline int64_t conv_panel_floats(const PackedHeader* h) {
  return (linear_scratch_floats(h) + 15) / 16 * 16;
}

// Floats of scratch, 64-byte aligned, that each thread must bring.
inline int64_t conv_scratch_floats(const void* packed, const Window& w) {
  const auto* h = static_cast<const PackedHeader*>(packed);
  if (w.plain()) return conv_panel_floats(h);
  if (in_bands(h, w)) return band_scratch_floats(h, w);
  if (is_flat(h, w)) return flat_scratch_floats(h, w);
  return conv_panel_floats(h) + WindowSource::memory_floats(w, group_vectors(h, W));
}

// Calls apply(header, share, panel source).
template <class Apply>
SC_INLINE void with_window(const Team& team, const void* packed, const Window& w, const float* x,
                           int64_t ldx, float* scratch, const Apply& apply) {
  const auto* h = static_cast<const PackedHeader*>(packed);
  const Share share = divide_conv(team, h, w);
  const Stint stint(team, work_in(h, share));
  const int64_t channels = h->cols / w.taps();
  if (w.plain()) return apply(h, share, PlainRows{x, ldx, channels});
  apply(h, share, WindowSource(w, h, x, ldx, channels, group_vectors(h, W),
                               scratch + conv_panel_floats(h)));
}

// Every thread of the team calls it; each returns when its own share is done.
// packed: [M, C/groups * taps], grouped or not. x: [C] rows ldx floats apart, y: [M] rows ldy
// apart, both multiples of 16; after their last column they may hold anything, and y's last vector
// is written whole.
// epilogue(V sum, int64_t row, int64_t col) -> V, once per output vector.
template <class T = float, class Epilogue>
void conv_csr(Team& team, const void* packed, const Window& w, const float* x, int64_t ldx,
              float* y, int64_t ldy, float* scratch, const Epilogue& epilogue) {
  const auto* header = static_cast<const PackedHeader*>(packed);
  if (in_bands(header, w))
    return conv_bands<T>(team, header, w, x, ldx, y, ldy, scratch, epilogue);
  if (w.plain()) {
    const Share share = divide_conv(team, header, w);
    if (reads_in_place(header, share)) {
      const Stint stint(team, work_in(header, share));
      return apply_csr<T>(header, share, RowsInPlace{x, ldx, header->cols}, y, ldy, scratch,
                          epilogue);
    }
  }
  with_window(team, packed, w, x, ldx, scratch,
              [&](const PackedHeader* h, const Share& share, const auto& source) {
    apply_csr<T>(h, share, source, y, ldy, scratch, epilogue);
  });
}

template <class T = float, class Epilogue>
void conv_dense(Team& team, const void* packed, const Window& w, const float* x, int64_t ldx,
                float* y, int64_t ldy, float* scratch, const Epilogue& epilogue) {
  with_window(team, packed, w, x, ldx, scratch,
              [&](const PackedHeader* h, const Share& share, const auto& source) {
    apply_dense<T>(h, share, source, y, ldy, w.out_columns(), scratch, epilogue);
  });
}

template <int R, int C, class T = float, class Epilogue>
void conv_block(Team& team, const void* packed, const Window& w, const float* x, int64_t ldx,
                float* y, int64_t ldy, float* scratch, const Epilogue& epilogue) {
  const auto* header = static_cast<const PackedHeader*>(packed);
  if constexpr (R == kBlockRows) {
    if (is_flat(header, w))
      return conv_flat<R, C, T>(team, header, w, x, ldx, y, ldy, scratch, epilogue);
    // Four rows of the weight share what they read of x: a copy of it costs more.
    if (w.plain()) {
      const Share share = divide_conv(team, header, w);
      const Stint stint(team, work_in(header, share));
      return apply_block<R, C, T>(header, share, RowsInPlace{x, ldx, header->cols}, y, ldy,
                                  scratch, epilogue);
    }
  }
  with_window(team, packed, w, x, ldx, scratch,
              [&](const PackedHeader* h, const Share& share, const auto& source) {
    apply_block<R, C, T>(h, share, source, y, ldy, scratch, epilogue);
  });
}

template <class T = float, class Epilogue>
void conv_nm(Team& team, const void* packed, const Window& w, const float* x, int64_t ldx,
             float* y, int64_t ldy, float* scratch, const Epilogue& epilogue) {
  with_window(team, packed, w, x, ldx, scratch,
              [&](const PackedHeader* h, const Share& share, const auto& source) {
    apply_nm<T>(h, share, source, y, ldy, scratch, epilogue);
  });
}

template <class T = float, class Epilogue>
void conv_bitmap(Team& team, const void* packed, const Window& w, const float* x, int64_t ldx,
                 float* y, int64_t ldy, float* scratch, const Epilogue& epilogue) {
  with_window(team, packed, w, x, ldx, scratch,
              [&](const PackedHeader* h, const Share& share, const auto& source) {
    apply_bitmap<T>(h, share, source, y, ldy, scratch, epilogue);
  });
}

template <class T = float, class Epilogue>
void conv_compact(Team& team, const void* packed, const Window& w, const float* x, int64_t ldx,
                  float* y, int64_t ldy, float* scratch, const Epilogue& epilogue) {
  with_window(team, packed, w, x, ldx, scratch,
              [&](const PackedHeader* h, const Share& share, const auto& source) {
    apply_compact<T>(h, share, source, y, ldy, scratch, epilogue);
  });
}

template <bool groups, class T = float, class Epilogue>
void conv_split(Team& team, const void* packed, const Window& w, const float* x, int64_t ldx,
                float* y, int64_t ldy, float* scratch, const Epilogue& epilogue) {
  with_window(team, packed, w, x, ldx, scratch,
              [&](const PackedHeader* h, const Share& share, const auto& source) {
    apply_split<groups, T>(h, share, source, y, ldy, scratch, epilogue);
  });
}

}  // namespace sc
