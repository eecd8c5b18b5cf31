// 3 x 3 convolution of stride 1 by Winograd's F(2 x 2, 3 x 3) (Lavin and Gray, arXiv:1509.09308,
// section 4.1): 16 products for 4 outputs instead of 36, and about the rounding errors of a sum.
//   y = A' ((G g G') . (B' d B)) A,   d: tiles of 4 x 4 inputs, two apart; g: a kernel
// The lanes of a vector are tiles, so (.) is 16 products of dense matrices [rows, channels] x
// [channels, tiles]: those of linear_dense.h, whose weight is packed as one of 16 groups.
#pragma once
#include "lanes.h"
#include "linear_dense.h"
#include "lines.h"

namespace sc {

constexpr int kTilePoints = 16;  // of a transformed tile
constexpr int64_t kLine = 16;    // floats: points apart by whole pages would share a set of the L1

// Tiles in vectors ("slots"): of a long line of tiles, W at a time, the last slot ending with its
// line; of short lines, as many whole lines as fit. Slots of an image follow each other.
struct Slots {
  const Window& w;
  int64_t wide, high;     // tiles of a line, lines of tiles
  int64_t across, lines;  // slots of a line of tiles; lines of tiles of a slot
  int64_t per_image;

  explicit Slots(const Window& w)
      : w(w), wide((w.out[2] + 1) / 2), high((w.out[1] + 1) / 2), across(vectors(wide)),
        lines(wide < W ? W / wide : 1), per_image(across * ((high + lines - 1) / lines)) {}
  int64_t count() const { return w.samples * per_image; }
  // The first tile of slot j of a line.
  int64_t tile(int64_t j) const { return across > 1 && j == across - 1 ? wide - W : j * W; }
};

// Where a slot's first tile stands.
struct SlotPlace {
  int64_t image, line, j, tile;

  SlotPlace(const Slots& s, int64_t slot)
      : image(slot / s.per_image), line(slot % s.per_image / s.across * s.lines),
        j(slot % s.across), tile(s.tile(j)) {}
};

// Columns that tiles need of their lines' inputs, in memory: masks, and lines beyond the image.
struct TileInputs {
  const Slots& slots;
  InputLines lines;
  VI* mask;  // [slot of a line][line of the slot][input column of a tile]

  static int64_t low(const Window& w) { return -w.pad[2] - 2 * W; }
  static int64_t high(const Window& w) { return w.out[2] + 2 * W + 4; }
  static int64_t floats(const Window& w) {
    const Slots s(w);
    return InputLines::floats(low(w), high(w), 4) + s.across * s.lines * 4 * W;
  }

  TileInputs(const Slots& s, const float* x, int64_t total, float* scratch)
      : slots(s), lines(s.w, x, total, low(s.w), high(s.w), scratch),
        mask(reinterpret_cast<VI*>(scratch + InputLines::floats(low(s.w), high(s.w), 4))) {
    const Window& w = s.w;
    for (int64_t j = 0; j < s.across; j++)
      for (int64_t l = 0; l < s.lines; l++)
        for (int i = 0; i < 4; i++) {
          const VI tile = lane_numbers() + int32_t(s.tile(j) - l * s.wide);
          const VI column = tile * 2 + int32_t(i - w.pad[2]);
          VI in = (column >= splat_int(0)) & (column < splat_int(int32_t(w.in[2])));
          in &= (tile >= splat_int(0)) & (tile < splat_int(int32_t(s.wide)));
          mask[(j * s.lines + l) * 4 + i] = in;
        }
  }

  // d[line][column] of the slot's tiles.
  SC_INLINE void load_tiles(const float* image, const SlotPlace& slot, V (&d)[4][4]) const {
    const Window& w = slots.w;
    for (int64_t l = 0; l < slots.lines; l++) {
      const float* line[4];
      lines.find(image, (slot.line + l) * 2 - w.pad[1], line);
      const int64_t at = 2 * (slot.tile - l * slots.wide) - w.pad[2];
      const VI* in = mask + (slot.j * slots.lines + l) * 4;
#pragma GCC unroll 4
      for (int r = 0; r < 4; r++) {
        const float* p = line[r] + at;
        const V a = load(p), b = load(p + W), c = load(p + 2), e = load(p + 2 + W);
        const V found[4] = {even_lanes(a, b, LaneList()), odd_lanes(a, b, LaneList()),
                            even_lanes(c, e, LaneList()), odd_lanes(c, e, LaneList())};
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
          const V v = (V)((VI)found[i] & in[i]);
          d[r][i] = l ? (V)((VI)d[r][i] | (VI)v) : v;  // another line's lanes are zeros
        }
      }
    }
  }
};

// B' of four.
SC_INLINE void transform_inputs(const V& a, const V& b, const V& c, const V& d, V (&out)[4]) {
  out[0] = a - c, out[1] = b + c, out[2] = c - b, out[3] = b - d;
}

// Writes B' d B of a slot for each channel: point g of channel c at to[g * step + c * pitch].
inline void transform_slot(const TileInputs& in, const float* x, int64_t ldx, int64_t channels,
                           const SlotPlace& slot, float* to, int64_t step, int64_t pitch) {
  x += slot.image * in.slots.w.in[1] * in.slots.w.in[2];
  for (int64_t c = 0; c < channels; c++, x += ldx, to += pitch) {
    V d[4][4] = {}, down[4][4];
    in.load_tiles(x, slot, d);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      V out[4];
      transform_inputs(d[0][i], d[1][i], d[2][i], d[3][i], out);
#pragma GCC unroll 4
      for (int r = 0; r < 4; r++) down[r][i] = out[r];
    }
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) {
      V out[4];
      transform_inputs(down[r][0], down[r][1], down[r][2], down[r][3], out);
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) store(to + (r * 4 + i) * step, out[i]);
    }
  }
}

// A' m A of a slot's tiles: two lines of outputs, each of two vectors of columns in turn.
SC_INLINE void transform_outputs(const float* m, int64_t step, V (&line)[2][2]) {
  V down[2][4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const V a = load(m + i * step), b = load(m + (4 + i) * step), c = load(m + (8 + i) * step),
            d = load(m + (12 + i) * step);
    down[0][i] = a + b + c, down[1][i] = b - c - d;
  }
#pragma GCC unroll 2
  for (int r = 0; r < 2; r++) {
    line[r][0] = down[r][0] + down[r][1] + down[r][2];
    line[r][1] = down[r][1] - down[r][2] - down[r][3];
  }
}

// Lane l of the result: even and odd outputs in turn, from number `from` on.
SC_INLINE V in_turn(V even, V odd, int64_t from) {
  const VI at = lane_numbers() + int32_t(from);
  return permute(even, odd, (at >> 1) + (at & 1) * W);
}

// Makes the outputs of a slot of one row, out of its products.
template <class Epilogue>
SC_INLINE void store_slot(const Slots& s, const SlotPlace& slot, const float* m, int64_t step,
                          const PlaneWriter<Epilogue>& to) {
  const Window& w = s.w;
  V line[2][2];
  transform_outputs(m, step, line);
  const int64_t wide = w.out[2], n = min64(wide - 2 * slot.tile, 2 * W);  // outputs of a line
  for (int64_t l = 0; l < s.lines; l++) {
    for (int r = 0; r < 2; r++) {
      const int64_t y = 2 * (slot.line + l) + r;
      if (y >= w.out[1]) return;
      const int64_t col = (slot.image * w.out[1] + y) * wide + 2 * slot.tile;
      const int64_t from = 2 * s.wide * l;
      to.put(in_turn(line[r][0], line[r][1], from), col);
      if (n > W) to.put(in_turn(line[r][0], line[r][1], n - W), col + n - W);
    }
  }
}

// A thread's row blocks and slots: narrow lines of outputs write behind their end, and few tiles
// are not worth reading all weights twice; many are worth transforming once.
struct WinogradShare {
  int64_t block0, block1, slot0, slot1;

  WinogradShare(const Team& team, const Slots& s, int64_t blocks)
      : block0(0), block1(blocks), slot0(team.cut_first(s.count())),
        slot1(team.cut_last(s.count())) {
    if (s.w.out[2] >= W && s.count() >= 6 * team.size) return;
    block0 = team.cut_first(blocks), block1 = team.cut_last(blocks);
    slot0 = 0, slot1 = s.count();
  }
};

inline int64_t winograd_scratch_floats(const void* packed, const Window& w) {
  const auto* h = static_cast<const PackedHeader*>(packed);
  return kTilePoints * ((h->cols + kDenseRows) * kDensePanel * W + kLine) + TileInputs::floats(w);
}

// As conv_dense; packed: [16 groups of M, C], G g G' of the kernels of [M, C, 3, 3].
template <class Epilogue>
void conv_winograd(Team& team, const void* packed, const Window& w, const float* x, int64_t ldx,
                   float* y, int64_t ldy, float* scratch, const Epilogue& epilogue) {
  const auto* h = static_cast<const PackedHeader*>(packed);
  const int64_t channels = h->cols, last = (vectors(w.out_columns()) - 1) * W;
  const int64_t panel = kDensePanel * W;
  const Slots slots(w);
  const WinogradShare share(team, slots, h->blocks());
  const Stint stint(team, double((share.block1 - share.block0) * (share.slot1 - share.slot0)) *
                              double(kTilePoints * kDenseRows * channels));
  float* product = scratch + kTilePoints * (channels * panel + kLine);  // [point][row][lane]
  const TileInputs inputs(slots, x, channels * ldx, product + kTilePoints * kDenseRows * panel);
  const auto same = [](V v, int64_t, int64_t) { return v; };
  for (int64_t s0 = share.slot0; s0 < share.slot1; s0 += kDensePanel) {
    const int64_t count = min64(kDensePanel, share.slot1 - s0), pitch = count * W;
    const int64_t step = channels * pitch + kLine;
    for (int64_t s = 0; s < count; s++)
      transform_slot(inputs, x, ldx, channels, SlotPlace(slots, s0 + s), scratch + s * W,
                     step, pitch);
    for (int64_t b = share.block0; b < share.block1; b++) {
      const int64_t row0 = b * kDenseRows, rows = min64(kDenseRows, h->rows - row0);
      const PackedHeader* own = h;
      for (int g = 0; g < kTilePoints; g++, own = next_group(own))
        for (int64_t t = 0; t < h->tiles(); t++) {
          const int64_t k0 = t * h->k_tile, depth = min64(h->k_tile, channels - k0);
          const float* weight = section<float>(own, own->value_at) +
                                (k0 * h->blocks() + b * depth) * kDenseRows;
          const DenseOutput out{product + g * kDenseRows * pitch, pitch, 0, rows, 0, t == 0,
                                false};
          dense_rows_of_block(count, weight, depth,
                              scratch + g * step + k0 * pitch, out, same);
        }
      for (int64_t s = 0; s < count; s++) {
        const SlotPlace slot(slots, s0 + s);
        for (int64_t r = 0; r < rows; r++) {
          const PlaneWriter<Epilogue> to{y + (row0 + r) * ldy, row0 + r, last, epilogue};
          store_slot(slots, slot, product + r * pitch + s * W, kDenseRows * pitch, to);
        }
      }
    }
  }
}

}  // namespace sc
