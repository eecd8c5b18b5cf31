// Sparse 3 x 3 convolutions of stride 1 over bands of image rows. A panel holds each input row
// once, however many taps read it: output row i reads row i + dy of the panel under tap (dy, dx).
// What is left, dx, moves the sums instead of the inputs: the non-zeros of a row of the weight
// stand dx by dx, and between two of them the sums move by one lane,
//   y[o] = sum_dx a_dx[o + dx],  a_dx[l] = sum_(c, dy) w[c, dy, dx] x[c, row + dy, l].
// So tiles are nine times as deep as those of window.h, and what is copied for them a ninth. Sums
// wait in the thread's own memory: y is written once, image rows in order.
#pragma once
#include "linear_csr.h"
#include "window.h"

namespace sc {

constexpr int kBandHigh = 8;            // widest instance, in vectors of one panel
constexpr int64_t kBandSums = 1 << 19;  // most bytes of partial sums
constexpr int kBandStrips = 16;

// How an output is cut: samples x bands of vectors below one another x strips of columns. A vector
// is `fold` rows of `lanes` columns each, of which `strip` are outputs.
struct Bands {
  int64_t fold, lanes, strip, lead, strips, high, bands, count, depth;

  Bands(const Window& w) {
    const int64_t width = w.out[2];
    fold = 1, lanes = W, lead = 2;
    // One strip needs no column to its left: the sums come round from an empty lane.
    if (w.pad[2] == 1 && w.in[2] < W) {
      while (W / (2 * fold) > w.in[2] && fold * w.in[2] + w.in[2] <= 2 * W) fold *= 2;
      lanes = W / fold, lead = 1;
    }
    strip = lanes - lead;
    strips = (width + strip - 1) / strip;
    const int64_t vectors = (w.out[1] + fold - 1) / fold;
    bands = (vectors + kBandHigh - 1) / kBandHigh;
    if (bands > 1) bands += bands % 2;  // so that two threads have as many
    high = (vectors + bands - 1) / bands;
    bands = (vectors + high - 1) / high;
    count = w.samples * bands;
    depth = (high - 1) * fold + w.kernel[1];
  }
  int64_t panel_floats(const PackedHeader* h) const {  // of one strip
    return (h->k_tile / 9 + 1) * depth * W;
  }
  int64_t pitch() const { return strips * high * W; }  // of partial sums, between rows of y
};

// Whether panels of rows serve this convolution, and waste less than a quarter of their lanes.
inline bool in_bands(const PackedHeader* h, const Window& w) {
  if (h->format != kCsr || h->groups != 1 || !by_columns(h) || w.transposed || w.in[0] != 1 ||
      w.out[0] != 1 || w.kernel[0] != 1 || w.kernel[1] != 3 || w.kernel[2] != 3 ||
      w.strided() || w.dilation[1] != 1 || w.dilation[2] != 1 || w.pad[0] != 0 ||
      w.in[1] * w.in[2] < 3 * W)
    return false;
  const Bands bands(w);
  const int64_t used = w.out[1] * w.out[2], all = bands.strips * bands.bands * bands.high * W;
  return 4 * used >= 3 * all && bands.strips <= kBandStrips &&
         h->rows * bands.pitch() * 4 <= kBandSums;
}

inline int64_t band_scratch_floats(const PackedHeader* h, const Window& w) {
  const Bands bands(w);
  return bands.strips * bands.panel_floats(h) + h->rows * bands.pitch();
}

// One band's place in the output: `vectors` of `fold` rows from row y0 on.
struct Band {
  int64_t sample, y0, rows, vectors;

  Band(const Bands& all, const Window& w, int64_t i) {
    sample = i / all.bands, y0 = i % all.bands * all.high * all.fold;
    rows = min64(all.high * all.fold, w.out[1] - y0);
    vectors = (rows + all.fold - 1) / all.fold;
  }
};

// Reads the input rows under one band; what it finds out once serves every channel.
// Lane (f, l) of vector r of strip s is row from + r + f, column begin(s) + l.
struct BandReader {
  const Window& w;
  const Bands& all;
  const float* x;
  int64_t ldx, depth, from, begin;
  int64_t first;  // of the plane's row: input row `from`, column `begin`
  VI lane, rows, inside[kBandStrips];
  bool pair;

  SC_INLINE BandReader(const Window& w, const Bands& all, const Band& b, const float* x,
                       int64_t ldx)
      : w(w), all(all), x(x), ldx(ldx),
        depth((b.vectors - 1) * all.fold + w.kernel[1]) {
    typedef uint32_t VU __attribute__((vector_size(W * 4), aligned(4), may_alias));
    const int64_t width = w.in[2];
    from = b.y0 - w.pad[1];
    begin = 2 - all.lead - w.pad[2];
    first = (b.sample * w.in[1] + from) * width + begin;
    VI column;
    for (int l = 0, f = 0, i = 0; l < W; l++, i++) {
      if (i == all.lanes) f++, i = 0;
      lane[l] = int32_t(f * width + i);
      rows[l] = int32_t(from + f), column[l] = int32_t(begin + i);
    }
    pair = lane[W - 1] >= W;
    for (int64_t s = 0; s < all.strips; s++, column += int32_t(all.strip))
      inside[s] = (VU)column < VU{} + uint32_t(width);
  }

  // Channels [c0, c0 + count): out[strip * panel + (row * step + channel) * W].
  void copy(int64_t c0, int64_t count, int64_t step, int64_t panel, float* out) const {
    const float* plane = x + c0 * ldx;
    int64_t r0 = 0, r1 = 0;  // rows without special cases
    if (all.fold == 1 && !pair) {
      r0 = from < 0 ? -from : 0;
      r1 = min64(depth, w.in[1] - from);
      while (r0 < r1 && first + r0 * w.in[2] < 0) r0++;
      while (r0 < r1 && first + (r1 - 1) * w.in[2] + (all.strips - 1) * all.strip + W > ldx)
        r1--;
    }
    for (int64_t c = 0; c < count && r0 < r1; c++) {
      const float* row = plane + c * ldx + first + r0 * w.in[2];
      for (int64_t r = r0; r < r1; r++, row += w.in[2]) {
        const float *here = row, *soon = row + 2 * ldx;
        float* to = out + (r * step + c) * W;
        for (int64_t s = 0; s < all.strips; s++, to += panel) {
          __builtin_prefetch(soon + s * all.strip);
          store(to, and_mask(load(here + s * all.strip), inside[s]));
        }
      }
    }
    for (int64_t r = 0; r < depth; r++)
      for (int64_t s = 0; s < all.strips && (r < r0 || r >= r1); s++)
        copy_row(plane, r, s, count, out + s * panel + r * step * W);
  }

 private:
  void copy_row(const float* plane, int64_t r, int64_t s, int64_t count, float* out) const {
    typedef uint32_t VU __attribute__((vector_size(W * 4), aligned(4), may_alias));
    const VI keep = inside[s] & ((VU)(rows + int32_t(r)) < VU{} + uint32_t(w.in[1]));
    const int64_t pos = first + r * w.in[2] + s * all.strip, high = ldx - (pair ? 2 * W : W);
    const int64_t at = pos < 0 ? 0 : pos > high ? high : pos;
    const VI own = lane + int32_t(pos - at);
    const float* here = plane + at;
    for (int64_t c = 0; c < count; c++, here += ldx) {
      __builtin_prefetch(here + 4 * ldx);
      const V v = pair ? permute(load(here), load(here + W), own) : permute(load(here), own);
      store(out + c * W, and_mask(v, keep));
    }
  }
};

template <class T>
struct BandSegment {
  CsrSegment<T> csr;
  const uint16_t* counts;  // three of each row, multiples of four
};

// NB vectors of the sums of each row. x: of each dx, where its rows of the panel begin; `step`
// floats between what two vectors read; between two dx the lanes move by one, as `turn` says.
template <int NB, class T>
__attribute__((noinline)) void csr_band(const BandSegment<T>& s, const float* const* x,
                                        int64_t step, const VI* turn, float* sums,
                                        int64_t pitch, bool first) {
  constexpr int chains = W == 16 && NB > 3 ? 2 : NB > 3 ? 1 : 4;
  const uint16_t* index = s.csr.index;
  const T* value = s.csr.value;
  uint64_t next = four_indices(index);
  for (int64_t r = 0; r < s.csr.rows; r++) {
    float* out = sums + s.csr.row[r].row * pitch;
    const float* soon = sums + s.csr.row[min64(r + 4, s.csr.rows - 1)].row * pitch;
    V sum[chains][NB];
#pragma GCC unroll 16
    for (int j = 0; j < NB; j++) {
      if (!first) __builtin_prefetch(soon + j * W, 1);
      sum[0][j] = V{};
    }
#pragma GCC unroll 3
    for (int d = 0; d < 3; d++) {
#pragma GCC unroll 4
      for (int c = 1; c < chains; c++)
#pragma GCC unroll 16
        for (int j = 0; j < NB; j++) sum[c][j] = V{};
      const uint16_t* const end = index + s.counts[3 * r + d];
      for (; index < end; index += 4, value += 4) {
        const uint64_t own = next;
        next = four_indices(index + 4);
        csr_step<4>(own, value, x[d], W, step, sum);
      }
#pragma GCC unroll 16
      for (int j = 0; j < NB; j++) {
#pragma GCC unroll 4
        for (int c = 1; c < chains; c++) sum[0][j] += sum[c][j];
        if (d < 2) sum[0][j] = permute(sum[0][j], *turn);
      }
    }
#pragma GCC unroll 16
    for (int j = 0; j < NB; j++)
      store(out + j * W, first ? sum[0][j] : sum[0][j] + load(out + j * W));
  }
}

template <class T>
using BandKernel = void (*)(const BandSegment<T>&, const float* const*, int64_t,
                            const VI*, float*, int64_t, bool);

template <class T, int NB = 1>
SC_INLINE BandKernel<T> band_kernel(int64_t vectors) {
  if constexpr (NB < kBandHigh)
    if (vectors != NB) return band_kernel<T, NB + 1>(vectors);
  return csr_band<NB, T>;
}

SC_INLINE void store_band_end(float* out, V v, int64_t lanes) {
  float own[W];
  store(own, v);
  const float* from = own;
  if (W > 8 && lanes & 8) __builtin_memcpy(out, from, 32), out += 8, from += 8;
  if (W > 4 && lanes & 4) __builtin_memcpy(out, from, 16), out += 4, from += 4;
  if (lanes & 2) __builtin_memcpy(out, from, 8), out += 2, from += 2;
  if (lanes & 1) *out = *from;
}

// Writes what the sums of rows [row0, row1) come to. A vector may run on into what is written
// after it; one at the end of a plane moves back until it lies inside.
template <class Epilogue>
SC_INLINE void finish_band(const Window& w, const Bands& all, const Band& b,
                           const float* sums, int64_t row0, int64_t row1, float* y, int64_t ldy,
                           const Epilogue& epilogue) {
  const int64_t width = w.out[2], end = vectors(w.out_columns()) * W;
  const int64_t col0 = (b.sample * w.out[1] + b.y0) * width, after = col0 + b.rows * width;
  VI lane[W] = {};  // of each row of a vector
  for (int64_t f = 0; f < all.fold; f++)
    for (int l = 0; l < W; l++) lane[f][l] = int32_t(l + f * all.lanes + all.lead);
  for (int64_t m = row0; m < row1; m++, sums += all.pitch()) {
    const int64_t far = min64(m + 2, row1 - 1);
    for (int64_t col = col0; col < col0 + b.rows * width; col += 16)
      fetch_operands(epilogue, far, col, 0);
    const float* own = sums;
    int64_t f = 0, col = col0;
    for (int64_t j = 0; j < b.rows; j++, col += width) {
      for (int64_t s = 0; s < all.strips; s++) {
        const int64_t at = col + s * all.strip;
        const int64_t columns = min64(all.strip, width - s * all.strip);
        const V sum = load(own + s * all.high * W);
        if (at + W <= end) {
          const V v = epilogue(permute(sum, lane[f]), m, at);
          if (at + W <= after) store(y + m * ldy + at, v);
          else store_band_end(y + m * ldy + at, v, columns);
          continue;
        }
        const auto back = int32_t(at + W - end);
        const V v = epilogue(permute(sum, lane[f] - back), m, at - back);
        VI lanes = {};
        for (int l = 0; l < W; l++) lanes[l] = l + back;
        store_band_end(y + m * ldy + at, permute(v, lanes), columns);
      }
      if (++f == all.fold) f = 0, own += W;
    }
  }
}

struct BandShare {
  int64_t block0, block1, band0, band1;
};

inline BandShare divide_bands(const Team& team, const PackedHeader* h, const Bands& bands) {
  const int64_t blocks = h->blocks();
  const double vectors = double(bands.high * bands.strips);
  const double sums = .17 * double(h->nnz) * vectors;
  const double copies = .8 * double(h->cols / 9 * bands.depth * bands.strips);
  const double seam = 80 * double(h->rows);
  int64_t row_parts = 1;
  double least = 0;
  for (int64_t r = 1; r <= team.size; r++) {
    if (team.size % r || (r > blocks && r > 1)) continue;
    const int64_t c = team.size / r;
    const double time = double((bands.count + c - 1) / c) * (sums / double(r) + copies) +
                        (c > 1 ? seam / double(r) : 0);
    if (r == 1 || time < least) least = time, row_parts = r;
  }
  const int64_t parts = team.size / row_parts, column = team.id % parts, row = team.id / parts;
  const WorkPrefix prefix{section<int64_t>(h, h->prefix_at), blocks, h->row_block, h->tiles()};
  return {prefix.cut(team, row, row_parts), prefix.cut(team, row + 1, row_parts),
          bands.count * column / parts, bands.count * (column + 1) / parts};
}

// One band's sums over all tiles of the rows of a share.
template <class T>
SC_INLINE void sum_band(const PackedHeader* h, const Window& w, const Bands& bands,
                        const Band& b, const BandShare& share, const float* x, int64_t ldx,
                        float* panel, float* sums) {
  const int64_t channels = h->k_tile / 9, step = channels + 1;
  const int64_t wide = bands.panel_floats(h);
  VI turn = {};
  for (int l = 0; l < W; l++) turn[l] = l - 1;
  const auto kernel = band_kernel<T>(b.vectors);
  const auto* index = section<uint16_t>(h, h->index_at);
  const auto* value = section<T>(h, h->value_at);
  const auto* counts = section<uint16_t>(h, counts_at(h));
  for (int64_t t = 0; t < h->tiles(); t++) {
    const int64_t c0 = t * channels, count = min64(channels, h->cols / 9 - c0);
    BandReader(w, bands, b, x, ldx).copy(c0, count, step, wide, panel);
    const auto* row = section<RowEntry>(h, h->row_at) + t * h->rows;
    const int64_t* start = section<int64_t>(h, h->segment_at) + t * h->blocks();
    for (int64_t s = 0; s < bands.strips; s++) {
      const float* base[3];
      for (int d = 0; d < 3; d++)
        base[d] = panel + s * wide - d * 3 * step * W;
      for (int64_t i = share.block0; i < share.block1; i++) {
        const int64_t first = i * h->row_block, rows = min64(h->row_block, h->rows - first);
        const BandSegment<T> segment{{row + first, rows, index + start[i], value + start[i], 4},
                                 counts + 3 * (t * h->rows + first)};
        float* out = sums + (first - share.block0 * h->row_block) * bands.pitch();
        kernel(segment, base, bands.fold * step * W, &turn, out + s * bands.high * W,
               bands.pitch(), t == 0);
      }
    }
  }
}

// As conv_csr, where in_bands.
template <class T, class Epilogue>
SC_INLINE void conv_bands(Team& team, const PackedHeader* h, const Window& w, const float* x,
                             int64_t ldx, float* y, int64_t ldy, float* scratch,
                             const Epilogue& epilogue) {
  const Bands bands(w);
  const BandShare share = divide_bands(team, h, bands);
  if (share.block0 == share.block1) return;
  const Stint stint(team, double((share.block1 - share.block0) * h->nnz / h->blocks()) *
                              double((share.band1 - share.band0) * bands.high * bands.strips));
  const int64_t row0 = share.block0 * h->row_block;
  const int64_t row1 = min64(h->rows, share.block1 * h->row_block);
  float* sums = scratch + bands.strips * bands.panel_floats(h);
  for (int64_t i = share.band0; i < share.band1; i++) {
    const Band b(bands, w, i);
    sum_band<T>(h, w, bands, b, share, x, ldx, scratch, sums);
    finish_band(w, bands, b, sums, row0, row1, y, ldy, epilogue);
  }
}

}  // namespace sc
