// Convolutions of stride 1 in blocks, over images laid flat (flat_image.h). A panel is not copied
// for each tap as in window.h: row k of a tile is the same image, apart[k] floats further on. R
// rows of the weight share each loaded vector, so loads may cross cache lines, which csr cannot
// afford. Sums wait in the thread's own memory between tiles; borders go on the way to y.
#pragma once
#include "conv_bands.h"
#include "flat_image.h"

namespace sc {

// Where the positions of a vector of sums go in a row of y.
struct FlatPlace {
  VI lane;  // those that are columns, one behind the other
  int64_t at, count;
  bool whole;  // whether a vector may be stored: what lies behind is written later
};

// Of flat_rows, on one panel.
struct FlatOutput {
  float* y;
  int64_t ldy, row, rows;
  float* sums;  // between tiles, rows `pitch` floats apart
  int64_t pitch;
  float* corner;
  const FlatPlace* place;
  bool simple;  // every vector may be stored whole
  int64_t end;  // of what may be written of a row of y
  bool first, last;
};

// Sums of o.rows rows, `wide` vectors each, as columns of y; to: these rows.
template <class Epilogue>
__attribute__((noinline)) void store_flat(const FlatOutput& o, const FlatPlace* place,
                                          const V* sums, int64_t wide, const int64_t* to,
                                          int64_t rows, const Epilogue& epilogue) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t j = 0; j < wide; j++) {
      const FlatPlace& p = place[j];
      float* out = o.y + to[r] * o.ldy + p.at;
      const V sum = permute(sums[r * wide + j], p.lane);
      if (p.whole) {
        store(out, epilogue(sum, to[r], p.at));
        continue;
      }
      // One at the end of a plane moves back until it lies inside.
      const int32_t back = p.at + W > o.end ? int32_t(p.at + W - o.end) : 0;
      VI lane;
      for (int l = 0; l < W; l++) lane[l] = l - back;
      const V v = epilogue(permute(sum, lane), to[r], p.at - back);
      const V moved = permute(v, lane + 2 * back);
      if (p.count == W) store(out, moved);
      else store_band_end(out, moved, p.count);
    }
}

template <int... I>
SC_INLINE V four_times(V v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (I % kCorner)...);
}

// R rows of `count` blocks, as block_rows; row k of the tile lies apart[k] floats behind x.
template <int NB, int R, int C, bool corner, class T, class Epilogue>
__attribute__((noinline)) void flat_rows(const uint16_t* index, const T* value, int64_t count,
                                         const float* x, const int32_t* apart,
                                         const FlatOutput& o, const int32_t* order,
                                         const Epilogue& epilogue) {
  int64_t to[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) {
    to[r] = o.row + (order ? order[r < o.rows ? r : 0] : r < o.rows ? r : 0);
    for (int j = 0; j < NB && o.last; j++) fetch_operands(epilogue, to[r], o.place[j].at, 0);
  }
  V acc[R][NB], last = {}, mixed = {};
  VI own[R] = {};  // lanes of each row in the corner
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) {
    for (int l = 0; l < W; l++) own[r][l] = l / kCorner == r ? -1 : 0;
#pragma GCC unroll 16
    for (int j = 0; j < NB; j++) acc[r][j] = V{};
  }
  for (int64_t i = 0; i < count; i++) {
#pragma GCC unroll 4
    for (int c = 0; c < C; c++, value += R) {
      const float* row = x + apart[index[i] + c];
      V in[NB];
#pragma GCC unroll 16
      for (int j = 0; j < NB; j++) in[j] = in_register(load(row + j * W));
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        const V weight = splat(number(value[r]));
        if constexpr (corner) mixed = r ? select(own[r], weight, mixed) : weight;
#pragma GCC unroll 16
        for (int j = 0; j < NB; j++) acc[r][j] += weight * in[j];
      }
      if constexpr (corner) last += mixed * four_times(load(row + NB * W), LaneList());
    }
  }
  if (!o.first) {
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
      for (int j = 0; j < NB; j++) acc[r][j] += load(o.sums + r * o.pitch + j * W);
    if constexpr (corner) last += load(o.corner);
  }
  if (!o.last) {
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
      for (int j = 0; j < NB; j++) store(o.sums + r * o.pitch + j * W, acc[r][j]);
    if constexpr (corner) store(o.corner, last);
    return;
  }
  if (o.simple && o.rows == R) {
#pragma GCC unroll 16
    for (int j = 0; j < NB; j++) {
      const int64_t at = o.place[j].at;
      const VI lane = o.place[j].lane;
#pragma GCC unroll 4
      for (int r = 0; r < R; r++)
        store(o.y + to[r] * o.ldy + at, epilogue(permute(acc[r][j], lane), to[r], at));
    }
  } else {
    V all[R][NB];  // a copy: the sums stay in registers
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
      for (int j = 0; j < NB; j++) all[r][j] = acc[r][j];
    store_flat(o, o.place, &all[0][0], NB, to, o.rows, epilogue);
  }
  if constexpr (corner) {
    V rows[R];
    for (int r = 0; r < R; r++) {
      VI lane;
      for (int l = 0; l < W; l++) lane[l] = l % kCorner + r * kCorner;
      rows[r] = permute(last, lane);
    }
    store_flat(o, o.place + NB, rows, 1, to, o.rows, epilogue);
  }
}

template <class T, class Epilogue>
using FlatKernel = void (*)(const uint16_t*, const T*, int64_t, const float*, const int32_t*,
                            const FlatOutput&, const int32_t*, const Epilogue&);

template <int R, int C, class T, class Epilogue, int NB = 1>
SC_INLINE FlatKernel<T, Epilogue> flat_kernel(int64_t vectors, bool corner) {
  if constexpr (NB < kBlockPanel<R, C>)
    if (vectors != NB) return flat_kernel<R, C, T, Epilogue, NB + 1>(vectors, corner);
  if constexpr (kCorners)
    if (corner) return flat_rows<NB, R, C, true, T, Epilogue>;
  return flat_rows<NB, R, C, false, T, Epilogue>;
}

// Where things lie in a thread's scratch, in floats.
struct FlatMemory {
  int64_t sums, apart, place, floats;

  FlatMemory(const PackedHeader* h, const Window& w, const FlatBands& b) {
    const int64_t rows = h->blocks() * ((h->row_block + h->p - 1) / h->p * h->p);
    sums = b.channels * b.plane;
    apart = sums + (h->tiles() > 1 ? rows * b.pitch() : 0);
    place = apart + (b.channels * w.taps() + 15) / 16 * 16;
    floats = place + (b.wide + 1) * int64_t(sizeof(FlatPlace) / 4);
  }
};

inline int64_t flat_scratch_floats(const PackedHeader* h, const Window& w) {
  const FlatImage f(w);
  return FlatMemory(h, w, FlatBands(h, w, f)).floats;
}

// Row blocks, and vectors of all images.
struct FlatShare {
  int64_t block0, block1, vector0, vector1;
};

inline FlatShare divide_flat(const Team& team, const PackedHeader* h, const Window& w,
                             const FlatImage& f) {
  const int64_t blocks = h->blocks(), all = w.samples * f.whole;
  const double copies = 1.2 * double(h->cols / w.taps() * vectors(f.pitch));
  int64_t row_parts = 1;
  double least = 0;
  for (int64_t r = 1; r <= team.size; r++) {
    if (team.size % r || (r > blocks && r > 1)) continue;
    const int64_t c = team.size / r;
    const double rows = double(w.samples * w.out[1]) / double(c) + double(f.down);
    const double seam = c > 1 ? 80 * double(h->rows) / double(r) : 0;
    const double time =
        .08 * double(h->nnz) * double((all + c - 1) / c) / double(r) + copies * rows + seam;
    if (r == 1 || time < least) least = time, row_parts = r;
  }
  const int64_t parts = team.size / row_parts, column = team.id % parts, row = team.id / parts;
  const WorkPrefix prefix = work_of(h);
  return {prefix.cut(team, row, row_parts), prefix.cut(team, row + 1, row_parts),
          all * column / parts, all * (column + 1) / parts};
}

// One thread's share.
template <int R, int C, class T, class Epilogue>
struct FlatConv {
  const PackedHeader* h;
  const Window& w;
  const float* x;
  int64_t ldx;
  float* y;
  int64_t ldy;
  float* scratch;
  const Epilogue& epilogue;
  FlatImage f;
  FlatBands b;
  FlatMemory memory;
  FlatShare share;

  void run() const {
    find_apart();
    for (int64_t v = share.vector0, next; v < share.vector1; v = next) {
      const int64_t sample = v / f.whole, first = sample * f.whole;
      next = min64(min64(share.vector1, first + f.whole), v + b.wide);
      band(sample, v - first, next - first);
    }
  }

 private:
  void find_apart() const {
    auto* apart = (int32_t*)(scratch + memory.apart);
    for (int64_t c = 0; c < b.channels; c++)
      for (int64_t dy = 0; dy < w.kernel[1]; dy++)
        for (int64_t dx = 0; dx < w.kernel[2]; dx++)
          *apart++ = int32_t(c * b.plane + dy * w.dilation[1] * f.pitch + dx * w.dilation[2]);
  }

  // The first column of y at or behind vector v of all images.
  int64_t column(int64_t v) const {
    const int64_t o = v % f.whole * W, row = v / f.whole * w.out[1] + o / f.pitch;
    return row * w.out[2] + min64(o % f.pitch, w.out[2]);
  }

  FlatPlace place_of(int64_t sample, int64_t v) const {
    FlatPlace p{VI{}, 0, 0, false};
    for (int l = 0; l < W; l++) {
      const int64_t o = v * W + l, row = o / f.pitch, column = o % f.pitch;
      if (o >= f.used || column >= w.out[2]) continue;
      if (p.count == 0) p.at = (sample * w.out[1] + row) * w.out[2] + column;
      p.lane[p.count++] = l;
    }
    const int64_t all = w.samples * f.whole, end = p.at + W;
    const bool ours = share.vector1 == all || end <= column(share.vector1);
    p.whole = end <= vectors(w.out_columns()) * W && (p.count == W || ours);
    return p;
  }

  // Vectors [v0, v1) of a sample, the corner with the last of them.
  void band(int64_t sample, int64_t v0, int64_t v1) const {
    const bool corner = f.corner && v1 == f.whole;
    auto* place = (FlatPlace*)(scratch + memory.place);
    for (int64_t v = v0; v < v1 + corner; v++) place[v - v0] = place_of(sample, v);
    const int64_t row0 = v0 * W / f.pitch, last = min64((v1 + corner) * W, f.used) - 1;
    const FlatReader reader(w, f, b, x, ldx, sample);
    for (int64_t t = 0; t < h->tiles(); t++) {
      const int64_t c0 = t * b.channels, count = min64(b.channels, h->cols / w.taps() - c0);
      reader.copy(c0, count, row0 - w.pad[1], last / f.pitch - row0 + 1 + f.down, scratch);
      tile(t, Panels(v0, v1, b.panel, false), corner, scratch - row0 * f.pitch, place);
    }
  }

  // As apply_block: row blocks whose weights fit L2, panel by panel. x: of position 0.
  void tile(int64_t t, const Panels& panels, bool corner, const float* x,
            const FlatPlace* place) const {
    const int64_t bytes = int64_t(h->p) * C * int64_t(sizeof(T)) + 2;
    const int64_t* start = section<int64_t>(h, h->segment_at) + t * h->blocks();
    for (int64_t i0 = share.block0, i1; i0 < share.block1; i0 = i1) {
      for (i1 = i0 + 1; i1 < share.block1; i1++)
        if ((start[i1 + 1] - start[i0]) * bytes > kBlockGroupBytes) break;
      for (int64_t p = 0; p < panels.count; p++) {
        const int64_t v = panels.start(p), at = v - panels.first, wide = panels.start(p + 1) - v;
        const auto kernel = flat_kernel<R, C, T, Epilogue>(wide, corner && p == panels.count - 1);
        FlatOutput out{y, ldy, 0, 0, scratch + memory.sums + at * W, b.pitch(), nullptr,
                       place + at, true, vectors(w.out_columns()) * W, t == 0,
                       t == h->tiles() - 1};
        for (int64_t j = 0; j < wide; j++) out.simple &= place[at + j].whole;
        for (int64_t i = i0; i < i1; i++) segment(t, i, x + v * W, kernel, out);
      }
    }
  }

  // As block_segment.
  void segment(int64_t t, int64_t i, const float* x, FlatKernel<T, Epilogue> kernel,
               FlatOutput o) const {
    const int64_t row0 = i * h->row_block, height = min64(h->row_block, h->rows - row0);
    const int64_t count = (height + h->p - 1) / h->p, all = (h->rows + h->p - 1) / h->p;
    const auto* entry = section<RowEntry>(h, h->row_at) + t * all + row0 / h->p;
    const int64_t first = section<int64_t>(h, h->segment_at)[t * h->blocks() + i];
    const auto* index = section<uint16_t>(h, h->index_at) + first;
    const auto* value = section<T>(h, h->value_at) + first * h->p * C;
    const int32_t* order = h->order_at ? section<int32_t>(h, h->order_at) + row0 : nullptr;
    const auto* apart = (const int32_t*)(scratch + memory.apart);
    float* const sums = o.sums + (row0 - share.block0 * h->row_block) * o.pitch;
    const int64_t corner = scratch + memory.sums + b.wide * W - o.sums;
    for (int64_t e = 0; e < count; index += entry->count, e++, entry++)
      for (int64_t r = 0; r < h->p; r += R, value += entry->count * R * C) {
        const int64_t row = entry->row * int64_t(h->p) + r;
        if (row >= height) continue;
        o.row = order ? 0 : row0 + row, o.rows = min64(R, height - row);
        o.sums = sums + row * o.pitch, o.corner = o.sums + corner;
        kernel(index, value, entry->count, x, apart, o, order ? order + row : nullptr, epilogue);
      }
  }
};

// As conv_block, where is_flat.
template <int R, int C, class T, class Epilogue>
SC_INLINE void conv_flat(Team& team, const PackedHeader* h, const Window& w, const float* x,
                         int64_t ldx, float* y, int64_t ldy, float* scratch,
                         const Epilogue& epilogue) {
  const FlatImage f(w);
  const FlatShare share = divide_flat(team, h, w, f);
  if (share.block0 == share.block1) return;
  const Stint stint(team, double((share.block1 - share.block0) * h->nnz / h->blocks()) *
                              double(share.vector1 - share.vector0));
  const FlatBands b(h, w, f);
  const FlatConv<R, C, T, Epilogue> conv{
      h, w, x, ldx, y, ldy, scratch, epilogue, f, b, FlatMemory(h, w, b), share};
  conv.run();
}

}  // namespace sc
