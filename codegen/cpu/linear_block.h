// y = epilogue(W x), W in blocks of p rows and C columns (block blob), x and y planar.
// R rows at a time share each loaded vector of x, as in the dense kernel, but only the columns that
// hold a block are visited: acc[r][j] += w[r] * x[k][j].
#pragma once
#include "linear_csr.h"
#include "linear_dense.h"
#include "rest.h"
#include "value.h"

namespace sc {

// Widest instance, in vectors: the sums of R rows, and what they are made of, fill the registers.
template <int R, int C>
constexpr int kBlockPanel = R == 1 ? 8 : W != 16 ? 3 : C == 1 ? 6 : 5;
constexpr int kBlockUnroll = W == 16 ? 4 : 1;  // columns of a block
constexpr int64_t kBlockGroupBytes = 192 << 10;  // weights that serve all panels from L2

// R rows of `count` blocks, whose first columns are in index. order: of these rows in y, from o.row
// on; null for neighbours.
template <int NB, int R, int C, class T, class Epilogue>
__attribute__((noinline)) void block_rows(const uint16_t* index, const T* value, int64_t count,
                                          const float* x, int64_t step, const DenseOutput& o,
                                          const int32_t* order, const Epilogue& epilogue) {
  int64_t to[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) to[r] = o.row + (order ? order[r < o.rows ? r : 0] : r);
#pragma GCC unroll 4
  for (int r = 0; r < R; r++)
    fetch_output<NB>(o.y + to[r] * o.ldy + o.col, epilogue, to[r], o.col, o.last,
                     !o.first);
  constexpr int chains = R == 1 && NB < 6 ? 2 : 1;  // hide the latency of the multiply-add
  V acc[chains][R][NB];
#pragma GCC unroll 32
  for (int i = 0; i < chains * R * NB; i++) (&acc[0][0][0])[i] = V{};

  const auto add = [&](const float* row, const T* weights, V (&own)[R][NB]) {
    V in[NB];
#pragma GCC unroll 16
    for (int j = 0; j < NB; j++) in[j] = load(row + j * W);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const V weight = splat(number(weights[r]));
#pragma GCC unroll 16
      for (int j = 0; j < NB; j++) own[r][j] += weight * in[j];
    }
  };
  for (int64_t i = 0; i < count; i++) {
    const float* row = x + int64_t(index[i]) * step;
#pragma GCC unroll kBlockUnroll
    for (int c = 0; c + chains <= C; c += chains, row += chains * step, value += chains * R)
#pragma GCC unroll 2
      for (int k = 0; k < chains; k++) add(row + k * step, value + k * R, acc[k]);
    if constexpr (C % chains) add(row, value, acc[0]), value += R;
  }
#pragma GCC unroll 2
  for (int k = 1; k < chains; k++)
#pragma GCC unroll 16
    for (int j = 0; j < NB; j++) acc[0][0][j] += acc[k][0][j];
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) {
    if (r >= o.rows) break;
    float* out = o.y + to[r] * o.ldy + o.col;
#pragma GCC unroll 16
    for (int j = 0; j < NB; j++) {
      V& sum = acc[0][r][j];
      if (!o.first) sum += load(out + j * W);
      store(out + j * W, o.last ? epilogue(sum, to[r], o.col + j * W) : sum);
    }
  }
}

template <class T, class Epilogue>
using BlockKernel = void (*)(const uint16_t*, const T*, int64_t, const float*, int64_t,
                             const DenseOutput&, const int32_t*, const Epilogue&);

template <int R, int C, class T, class Epilogue, int NB = 1>
SC_INLINE BlockKernel<T, Epilogue> block_kernel(int64_t vectors) {
  if constexpr (NB < kBlockPanel<R, C>)
    if (vectors != NB) return block_kernel<R, C, T, Epilogue, NB + 1>(vectors);
  return block_rows<NB, R, C, T, Epilogue>;
}

// One (k tile, row block) times one panel. o: of the first row of the row block, or with an order,
// whose part for it begins at `order`, of the matrix.
template <int R, int C, class T, class Epilogue>
SC_INLINE void block_segment(const PackedHeader* h, const RowEntry* entry, int64_t block_rows,
                             const uint16_t* index, const T* value, const float* x, int64_t step,
                             BlockKernel<T, Epilogue> kernel, const DenseOutput& o,
                             const int32_t* order, const Epilogue& epilogue) {
  for (int64_t i = 0; i < block_rows; i++, entry++) {
    const int64_t count = entry->count, row0 = entry->row * int64_t(h->p);
    for (int64_t r = 0; r < h->p; r += R, value += count * R * C) {
      if (row0 + r >= o.rows) continue;
      kernel(index, value, count, x, step,
             DenseOutput{o.y, o.ldy, order ? o.row : o.row + row0 + r, min64(R, o.rows - row0 - r),
                         o.col, o.first, o.last},
             order ? order + row0 + r : nullptr, epilogue);
    }
    index += count;
  }
}

// One thread's share. Rows of y and of the epilogue count through all groups.
template <int R, int C, class T = float, class Source, class Epilogue>
SC_INLINE void apply_block(const PackedHeader* h, const Share& share, const Source& source,
                           float* y, int64_t ldy, float* scratch, const Epilogue& epilogue) {
  for_each_tile(h, share, source, scratch, kBlockPanel<R, C>, false,
                [&](const PackedHeader* own, int64_t g, int64_t t, int64_t rows,
                    const Panels& panels, int64_t p0, int64_t p1) {
    const int64_t size = int64_t(own->p) * C, bytes = size * int64_t(sizeof(T)) + 2;
    const int64_t block_rows_of_tile = (own->rows + own->p - 1) / own->p;
    const auto* entry = section<RowEntry>(own, own->row_at) + t * block_rows_of_tile;
    const auto* index = section<uint16_t>(own, own->index_at);
    const auto* value = section<T>(own, own->value_at);
    const int64_t* start = section<int64_t>(own, own->segment_at) + t * own->blocks();
    for (int64_t b0 = share.block0, b1; b0 < share.block1; b0 = b1) {
      for (b1 = b0 + 1; b1 < share.block1; b1++)
        if ((start[b1 + 1] - start[b0]) * bytes > kBlockGroupBytes) break;
      for (int64_t p = p0; p < p1; p++) {
        const int64_t v = panels.start(p);
        const auto kernel = block_kernel<R, C, T, Epilogue>(panels.start(p + 1) - v);
        const float* panel = scratch + (v - panels.start(p0)) * rows * W;
        int64_t step = (panels.start(p + 1) - v) * W;
        if constexpr (kInPlace<Source>) panel = source.at(g, t * own->k_tile, v), step = source.ldx;
        for (int64_t b = b0; b < b1; b++) {
          const int64_t row0 = b * own->row_block;
          const int64_t height = min64(own->row_block, own->rows - row0);
          const int32_t* order =
              own->order_at ? section<int32_t>(own, own->order_at) + row0 : nullptr;
          const DenseOutput out{y,     ldy,    g * own->rows + (order ? 0 : row0), height,
                                v * W, share.first<Epilogue>(t), t == own->tiles() - 1};
          block_segment<R, C, T>(own, entry + row0 / own->p, (height + own->p - 1) / own->p,
                                 index + start[b], value + start[b] * size, panel, step,
                                 kernel, out, order, epilogue);
        }
      }
    }
  });
}

// As linear_csr. R: block_group(p) of the blob, C: its q, T: the type of its numbers.
template <int R, int C, class T = float, class Epilogue>
void linear_block(Team& team, const void* packed_weight, const float* x, int64_t ldx, float* y,
                  int64_t ldy, int64_t n, float* scratch, const Epilogue& epilogue) {
  if (is_decode(packed_weight))
    return decode_planes(team, packed_weight, x, ldx, y, ldy, n, scratch, epilogue);
  const auto* h = static_cast<const PackedHeader*>(packed_weight);
  for_each_share(team, h, n, y, ldy, [&](const Share& share) {
    apply_block<R, C, T>(h, share, PlainRows{x, ldx}, y, ldy, scratch, epilogue);
  });
}

}  // namespace sc
