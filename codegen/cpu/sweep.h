// Strided sweeps over boxes: copy, fill and map of row-major or planar buffers of any dtype.
// Dimensions are sorted by the stride of the result and merged where all operands allow it; what is
// left is an odometer over the outer ones and one run along the innermost. Runs that are not
// contiguous pass through a small buffer, so the loop that computes is always a unit-stride one.
#pragma once
#include <type_traits>
#include <utility>

#include "relayout.h"
#include "team.h"

namespace sc {

template <int R>
struct Box {
  int64_t size[R];
};
// Strides in elements; 0 broadcasts, negative ones go backwards from p.
template <class T, int R>
struct At {
  T* p;
  int64_t stride[R];
};

constexpr int64_t kGrain = 1024;  // threads share a run in pieces of this many elements
constexpr int kRun = 128;         // elements of a run that a buffer holds

SC_INLINE int64_t magnitude(int64_t x) { return x < 0 ? -x : x; }

// ---- loops ------------------------------------------------------------------------------------
// A box of N operands without dimensions of size 1, sorted and merged; the innermost comes last.
template <int R, int N>
struct Loops {
  int rank = 0;
  bool empty = false;
  int64_t size[R];
  int64_t stride[N][R];

  void move(int from, int to) {  // of dimension `from` to the place `to`, the others close up
    const int step = from < to ? 1 : -1;
    for (int d = from; d != to; d += step) {
      std::swap(size[d], size[d + step]);
      for (int o = 0; o < N; o++) std::swap(stride[o][d], stride[o][d + step]);
    }
  }
  bool merges(int outer, int inner) const {
    for (int o = 0; o < N; o++)
      if (stride[o][outer] != stride[o][inner] * size[inner]) return false;
    return true;
  }
  void remove(int d) {
    move(d, rank - 1);
    rank--;
  }
  // Product of the sizes of the dimensions before `end`.
  int64_t count(int end) const {
    int64_t n = 1;
    for (int d = 0; d < end; d++) n *= size[d];
    return n;
  }
  // The longest of the dimensions, the innermost one preferred.
  int longest() const {
    int best = rank - 1;
    for (int d = rank - 2; d >= 0; d--)
      if (size[d] > size[best]) best = d;
    return best;
  }
};

// Sorts by the stride of operand 0, then merges neighbours.
template <int R, int N>
inline Loops<R, N> loops_of(const int64_t* size, int rank, const int64_t* const (&strides)[N]) {
  Loops<R, N> l;
  for (int d = 0; d < rank; d++) {
    if (size[d] <= 0) l.empty = true;
    if (size[d] <= 1) continue;
    const int last = l.rank++;
    l.size[last] = size[d];
    for (int o = 0; o < N; o++) l.stride[o][last] = strides[o][d];
    int place = last;
    while (place > 0 && magnitude(l.stride[0][place - 1]) < magnitude(strides[0][d])) place--;
    l.move(last, place);
  }
  for (int d = l.rank - 2; d >= 0; d--) {
    if (!l.merges(d, d + 1)) continue;
    l.size[d + 1] *= l.size[d];
    l.remove(d);
  }
  if (l.rank == 0) {
    l.rank = 1;
    l.size[0] = 1;
    for (int o = 0; o < N; o++) l.stride[o][0] = 1;
  }
  return l;
}

// A place in the first `rank` dimensions of some loops, and each operand's offset there.
template <int R, int N>
struct Odometer {
  const Loops<R, N>& l;
  int rank;
  int64_t index[R] = {};
  int64_t offset[N] = {};

  Odometer(const Loops<R, N>& l, int rank, int64_t place) : l(l), rank(rank) {
    for (int d = rank - 1; d >= 0; d--) {
      index[d] = place % l.size[d];
      place /= l.size[d];
      for (int o = 0; o < N; o++) offset[o] += index[d] * l.stride[o][d];
    }
  }
  SC_INLINE void next() {
    for (int d = rank - 1; d >= 0; d--) {
      for (int o = 0; o < N; o++) offset[o] += l.stride[o][d];
      if (++index[d] < l.size[d]) return;
      index[d] = 0;
      for (int o = 0; o < N; o++) offset[o] -= l.size[d] * l.stride[o][d];
    }
  }
};

// Calls body(offsets, n) for this thread's share: n steps along the innermost dimension.
template <int R, int N, class Body>
SC_INLINE void for_runs(const Team& team, const Loops<R, N>& l, const Body& body) {
  if (l.empty) return;
  const int inner = l.rank - 1;
  const int64_t n = l.size[inner], pieces = n > kGrain ? n / kGrain : 1;
  const int64_t items = l.count(inner) * pieces, last = team.last(items);
  int64_t item = team.first(items);
  if (item == last) return;
  Odometer<R, N> at(l, inner, item / pieces);
  for (int64_t piece = item % pieces; item < last; piece = 0) {
    const int64_t count = pieces - piece < last - item ? pieces - piece : last - item;
    const int64_t begin = piece * kGrain, end = piece + count == pieces ? n : begin + count * kGrain;
    int64_t offset[N];
    for (int o = 0; o < N; o++) offset[o] = at.offset[o] + begin * l.stride[o][inner];
    body(offset, end - begin);
    item += count;
    at.next();
  }
}

// ---- copy -------------------------------------------------------------------------------------
// Two overlapping moves of a constant size cover every length between.
template <int BYTES>
SC_INLINE void copy_ends(char* to, const char* from, int64_t bytes) {
  struct Block {
    char c[BYTES];
  } first, last;
  __builtin_memcpy(&first, from, BYTES);
  __builtin_memcpy(&last, from + bytes - BYTES, BYTES);
  __builtin_memcpy(to, &first, BYTES);
  __builtin_memcpy(to + bytes - BYTES, &last, BYTES);
}
// Rows are often a few elements long: a call of memcpy costs more than the copy.
SC_INLINE void copy_bytes(char* to, const char* from, int64_t bytes) {
  if (bytes >= 1024) {
    __builtin_memcpy(to, from, size_t(bytes));
  } else if (bytes >= 32) {
    for (int64_t i = 32; i < bytes; i += 32) __builtin_memcpy(to + i - 32, from + i - 32, 32);
    __builtin_memcpy(to + bytes - 32, from + bytes - 32, 32);
  } else if (bytes >= 16) {
    copy_ends<16>(to, from, bytes);
  } else if (bytes >= 8) {
    copy_ends<8>(to, from, bytes);
  } else if (bytes >= 4) {
    copy_ends<4>(to, from, bytes);
  } else {
    for (int64_t i = 0; i < bytes; i++) to[i] = from[i];
  }
}

template <class T>
SC_INLINE void copy_run(T* to, int64_t to_stride, const T* from, int64_t stride, int64_t n) {
  if (to_stride == 1 && stride == 1)
    return copy_bytes((char*)to, (const char*)from, n * int64_t(sizeof(T)));
  if (to_stride == 1 && stride == 2) {  // the compiler vectorises constant strides
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) to[i] = from[2 * i];
  } else if (to_stride == 1 && stride == -1) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) to[i] = from[-i];
  } else if (to_stride == 1 && stride == 0) {
    const T value = *from;
    for (int64_t i = 0; i < n; i++) to[i] = value;
  } else {
    for (int64_t i = 0; i < n; i++) to[i * to_stride] = from[i * stride];
  }
}

// The same as a call: where it stands beside a computation, inlining it costs compile time only.
template <class T>
__attribute__((noinline)) void move_run(T* to, int64_t to_stride, const T* from, int64_t stride,
                                        int64_t n) {
  copy_run(to, to_stride, from, stride, n);
}

// to[j * ld_to + i] = from[i * ld_from + j] for any element size; whole tiles of four-byte elements
// in registers.
template <class T>
SC_INLINE void transpose_any(const T* from, int64_t ld_from, int64_t rows, int64_t columns, T* to,
                             int64_t ld_to) {
  if (sizeof(T) == 4 && rows == W && columns == W)
    return transpose_tile((const float*)from, ld_from, W, W, (float*)to, ld_to);
  for (int64_t j = 0; j < columns; j++)
    for (int64_t i = 0; i < rows; i++) to[j * ld_to + i] = from[i * ld_from + j];
}

// Tiles of dimensions t (contiguous in `from`) and the innermost (contiguous in `to`).
template <class T, int R>
void copy_transposed(const Team& team, Loops<R, 2> l, int t, T* to, const T* from) {
  const int outer = l.rank - 2;
  l.move(t, outer);
  const int64_t rows = l.size[outer + 1], ld_from = l.stride[1][outer + 1];
  const int64_t columns = l.size[outer], ld_to = l.stride[0][outer];
  // As in relayout.h: go along the lines of the side with the shorter stride.
  const bool along_columns = magnitude(ld_from) <= magnitude(ld_to);
  const int64_t inner = vectors(along_columns ? columns : rows);
  const int64_t tiles = vectors(rows) * vectors(columns), items = tiles * l.count(outer);
  const int64_t last = team.last(items);
  int64_t item = team.first(items);
  Odometer<R, 2> at(l, outer, item / tiles);
  for (int64_t tile = item % tiles; item < last; item++) {
    const int64_t slow = tile / inner * W, fast = tile % inner * W;
    const int64_t i = along_columns ? slow : fast, j = along_columns ? fast : slow;
    transpose_any(from + at.offset[1] + i * ld_from + j, ld_from, rows - i < W ? rows - i : W,
                  columns - j < W ? columns - j : W, to + at.offset[0] + j * ld_to + i, ld_to);
    if (++tile == tiles) {
      tile = 0;
      at.next();
    }
  }
}

// Which dimension is contiguous in `from` while the innermost is only in `to`, or -1.
template <int R>
int transposed_dimension(const Loops<R, 2>& l) {
  const int inner = l.rank - 1;
  if (l.stride[0][inner] != 1 || l.stride[1][inner] == 1 || l.stride[1][inner] == 0) return -1;
  for (int d = 0; d < inner; d++)
    if (l.stride[1][d] == 1 && l.size[d] >= 4 && l.size[inner] >= 4) return d;
  return -1;
}

// to = from over the box; the two overlap nowhere and no two elements of `to` coincide.
template <class T, int R>
void copy(Team& team, const Box<R>& box, At<T, R> to, At<const T, R> from) {
  const int64_t* const strides[] = {to.stride, from.stride};
  Loops<R, 2> l = loops_of<R, 2>(box.size, R, strides);
  if (l.empty) return;
  const int t = transposed_dimension(l);
  if (t >= 0) return copy_transposed(team, l, t, to.p, from.p);
  if (l.size[l.rank - 1] < 4) l.move(l.longest(), l.rank - 1);
  const int64_t to_stride = l.stride[0][l.rank - 1], stride = l.stride[1][l.rank - 1];
  for_runs(team, l, [&](const int64_t (&offset)[2], int64_t n) {
    copy_run(to.p + offset[0], to_stride, from.p + offset[1], stride, n);
  });
}

// to = value over the box.
template <class T, int R>
void fill(Team& team, const Box<R>& box, At<T, R> to, T value) {
  const int64_t* const strides[] = {to.stride};
  Loops<R, 1> l = loops_of<R, 1>(box.size, R, strides);
  if (!l.empty && l.size[l.rank - 1] < 4) l.move(l.longest(), l.rank - 1);
  const int64_t stride = l.stride[0][l.rank - 1];
  for_runs(team, l, [&](const int64_t (&offset)[1], int64_t n) {
    copy_run(to.p + offset[0], stride, &value, 0, n);
  });
}

// ---- map --------------------------------------------------------------------------------------
// An input along a run: elements i .. i + n - 1 as a contiguous piece.
template <class T>
struct RunInput {
  const T* p;
  int64_t stride;
  int filled = 0;  // of the buffer, where the run repeats one element
  std::remove_const_t<T> buffer[kRun];

  RunInput(const T* p, int64_t stride) : p(p), stride(stride) {}
  SC_INLINE const T* piece(int64_t i, int n) {
    if (stride == 1) return p + i;
    if (stride != 0 || filled < n) move_run(buffer, 1, p + i * stride, stride, n);
    filled = n;
    return buffer;
  }
};

// True if f computes on vectors and all operands are floats.
template <class F, class... In>
auto takes_vectors(int, const F& f, const In*... in)
    -> decltype(f((void(in), V{})...), std::true_type());
template <class F, class... In>
std::false_type takes_vectors(long, const F&, const In*...);

template <class F, class Out, class... In>
constexpr bool on_vectors() {
  if constexpr (sizeof...(In) > 0 && std::is_same_v<Out, float> &&
                (std::is_same_v<In, float> && ...))
    return decltype(takes_vectors(0, std::declval<const F&>(), (const In*)nullptr...))::value;
  else
    return false;
}
SC_INLINE V load_part(const float* p, int n) {
  V v{};
  for (int i = 0; i < n; i++) v[i] = p[i];
  return v;
}

template <class F, class Out, class... In>
SC_INLINE void map_piece(const F& f, int n, Out* out, const In*... in) {
  if constexpr (on_vectors<F, Out, std::remove_const_t<In>...>()) {
    if (n < W) return store_part(out, f(load_part(in, n)...), n);
    // The last vector overlaps the one before it: computed first, since `out` may be an input.
    const V last = f(load(in + n - W)...);
    for (int i = 0; i + W <= n; i += W) store(out + i, f(load(in + i)...));
    store(out + n - W, last);
  } else {
#pragma GCC ivdep
    for (int i = 0; i < n; i++) out[i] = Out(f(in[i]...));
  }
}

template <class Out, class F, class... In>
SC_INLINE void map_run(const F& f, int64_t count, Out* to, int64_t to_stride, RunInput<In>... in) {
  Out buffer[kRun];
  for (int64_t i = 0; i < count; i += kRun) {
    const int n = count - i < kRun ? int(count - i) : kRun;
    Out* out = to_stride == 1 ? to + i : buffer;
    map_piece(f, n, out, in.piece(i, n)...);
    if (to_stride != 1) move_run<Out>(to + i * to_stride, to_stride, buffer, 1, n);
  }
}

template <class Out, int R, class F, size_t... K, class... In>
void map_over(Team& team, const Box<R>& box, At<Out, R> to, const F& f, std::index_sequence<K...>,
              At<In, R>... in) {
  constexpr int N = 1 + sizeof...(In);
  const int64_t* const strides[N] = {to.stride, in.stride...};
  Loops<R, N> l = loops_of<R, N>(box.size, R, strides);
  if (!l.empty && l.size[l.rank - 1] < 8) l.move(l.longest(), l.rank - 1);
  const int inner = l.rank - 1;
  for_runs(team, l, [&](const int64_t (&offset)[N], int64_t n) {
    map_run<Out, F, In...>(f, n, to.p + offset[0], l.stride[0][inner],
                           RunInput<In>(in.p + offset[K + 1], l.stride[K + 1][inner])...);
  });
}

// to = f(in...) over the box. f takes the elements as they are; if it also takes vectors and all
// operands are floats, it is called with these. `to` may be an input at the same place.
template <class Out, int R, class F, class... In>
void map(Team& team, const Box<R>& box, At<Out, R> to, const F& f, At<In, R>... in) {
  map_over(team, box, to, f, std::index_sequence_for<In...>(), in...);
}

}  // namespace sc
