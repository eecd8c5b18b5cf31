// Reads at positions that tensors of indices give: embedding lookups, index_select, gather and
// x[i, j], all as one kernel over a box. No index leads outside: a bad one reads element 0 instead
// and leaves its place in *error, which the caller sets to kNoError and turns into an IndexError.
#pragma once
#include "sweep.h"

namespace sc {

constexpr int64_t kNoError = -1;

// Keeps the first bad place, whichever thread finds it first.
inline void report_index(int64_t* error, int64_t place) {
  int64_t seen = __atomic_load_n(error, __ATOMIC_RELAXED);
  while (uint64_t(place) < uint64_t(seen) &&  // kNoError is the largest
         !__atomic_compare_exchange_n(error, &seen, place, true, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED)) {
  }
}

// The index as 0 .. size-1; negative ones count from the end where `wrap` says so.
template <class I>
SC_INLINE int64_t checked_index(I raw, int64_t size, bool wrap, int64_t place, int64_t* error) {
  const int64_t i = int64_t(raw) + (wrap && raw < 0 ? size : 0);
  if (uint64_t(i) < uint64_t(size)) return i;
  report_index(error, place);
  return 0;
}

// One tensor of indices into a dimension of `size` elements that lie `step` apart.
template <class I, int R>
struct Index {
  At<const I, R> at;  // over the box of the result
  int64_t size, step;
};

// to[box] = from[box offset + sum over k of index_k[box] step_k], for any element type. `from` has
// stride 0 along dimensions of the result that only indices decide on. A place reported is
// the row-major position in the dimensions up to the last that an index depends on: of an id for
// rows of a table. wrap: negative indices count from the end, as in x[i] and unlike in gather.
template <class T, class I, int R, int K>
void index(Team& team, const Box<R>& box, At<T, R> to, At<const T, R> from,
           const Index<I, R> (&indices)[K], bool wrap, int64_t* error) {
  // The innermost dimensions that no index depends on are copied whole.
  int outer = R;
  const auto fixed = [&](int d) {
    for (const Index<I, R>& index : indices)
      if (index.at.stride[d] != 0) return false;
    return true;
  };
  while (outer > 0 && fixed(outer - 1)) outer--;
  Loops<R, K + 2> l;
  l.rank = outer;
  int64_t count = 1;
  for (int d = 0; d < R; d++) {
    if (box.size[d] <= 0) return;
    if (d < outer) count *= box.size[d];
  }
  for (int d = 0; d < outer; d++) {
    l.size[d] = box.size[d];
    l.stride[0][d] = to.stride[d];
    l.stride[1][d] = from.stride[d];
    for (int k = 0; k < K; k++) l.stride[k + 2][d] = indices[k].at.stride[d];
  }
  for (const Index<I, R>& index : indices)
    if (index.size <= 0) return report_index(error, 0);
  const int64_t* const strides[] = {to.stride + outer, from.stride + outer};
  const Loops<R, 2> inner = loops_of<R, 2>(box.size + outer, R - outer, strides);
  const int last = inner.rank - 1;
  const int64_t to_stride = inner.stride[0][last], stride = inner.stride[1][last];
  const int64_t rows = inner.count(last), n = inner.size[last];
  // Few long slices are shared piece by piece.
  const int64_t pieces = n >= 2 * kGrain ? n / kGrain : 1;
  const int64_t end = team.last(count * pieces);
  int64_t item = team.first(count * pieces);
  if (item == end) return;
  Odometer<R, K + 2> at(l, outer, item / pieces);
  for (int64_t piece = item % pieces; item < end; item++) {
    int64_t offset = at.offset[1];
    for (int k = 0; k < K; k++)
      offset += indices[k].step * checked_index(indices[k].at.p[at.offset[k + 2]], indices[k].size,
                                                wrap, item / pieces, error);
    const int64_t begin = piece * kGrain, stop = piece + 1 == pieces ? n : begin + kGrain;
    Odometer<R, 2> row(inner, last, 0);
    for (int64_t r = 0; r < rows; r++, row.next())
      copy_run(to.p + at.offset[0] + row.offset[0] + begin * to_stride, to_stride,
               from.p + offset + row.offset[1] + begin * stride, stride, stop - begin);
    if (++piece == pieces) {
      piece = 0;
      at.next();
    }
  }
}

// y[i * ldy + c] = table[ids[i] * width + c]: rows of a table of any dtype, of `rows` rows.
template <class T, class I>
void gather_rows(Team& team, const T* table, int64_t rows, int64_t width, const I* ids, int64_t n,
                 T* y, int64_t ldy, int64_t* error) {
  const Index<I, 2> indices[] = {{{ids, {1, 0}}, rows, width}};
  index<T, I, 2, 1>(team, Box<2>{{n, width}}, At<T, 2>{y, {ldy, 1}},
                    At<const T, 2>{table, {0, 1}}, indices, false, error);
}

// y[c * ldy + i] = table[ids[i] * width + c], c < width, i < n: an embedding lookup into planes.
// Tiles of W ids by W features are transposed in registers.
template <class I>
void gather_rows_to_planes(Team& team, const float* table, int64_t rows, int64_t width,
                           const I* ids, int64_t n, float* y, int64_t ldy, int64_t* error) {
  if (n <= 0 || width <= 0) return;
  if (rows <= 0) return report_index(error, 0);
  const int64_t across = vectors(width), items = vectors(n) * across;
  const float* row[W];
  int64_t known = -1;  // the tile of ids that `row` holds
  for (int64_t item = team.first(items); item < team.last(items); item++) {
    const int64_t i = item / across * W, c = item % across * W;
    const int here = int(n - i < W ? n - i : W), columns = int(width - c < W ? width - c : W);
    if (i != known) {
      for (int r = 0; r < here; r++)
        row[r] = table + checked_index(ids[i + r], rows, false, i + r, error) * width;
      known = i;
    }
    float* to = y + c * ldy + i;
    if (here < W || columns < W) {
      for (int j = 0; j < columns; j++)
        for (int r = 0; r < here; r++) to[j * ldy + r] = row[r][c + j];
      continue;
    }
    V tile[W];
#pragma GCC unroll 16
    for (int r = 0; r < W; r++) tile[r] = load(row[r] + c);
    transpose(tile);
#pragma GCC unroll 16
    for (int j = 0; j < W; j++) store(to + j * ldy, tile[j]);
  }
}

}  // namespace sc
