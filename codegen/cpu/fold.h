// Reductions of strided buffers of any dtype over any dimensions.
// A thread keeps kLanes partial results: neighbours of the result where these are the fast
// dimension, else interleaved pieces of one run. Partial results of up to kLeaf items are merged
// pairwise, so rounding errors grow with the logarithm of the length, as in torch.
#pragma once
#include <limits>

#include "sweep.h"

namespace sc {

constexpr int kLanes = 64;
constexpr int64_t kLeaf = 16;        // items that are added up one after the other
constexpr int64_t kRunOfFold = 512;  // elements of an item where the reduced dimension is the fast one

template <class T>
constexpr T lowest_of() {
  if constexpr (std::numeric_limits<T>::has_infinity) return -std::numeric_limits<T>::infinity();
  return std::numeric_limits<T>::lowest();
}
template <class T>
constexpr T highest_of() {
  if constexpr (std::numeric_limits<T>::has_infinity) return std::numeric_limits<T>::infinity();
  return std::numeric_limits<T>::max();
}

// ---- what to fold with ------------------------------------------------------------------------
// Acc: a partial result; step takes in one element (the index counts the reduced ones, row-major);
// finish knows how many there were. Booleans are counted by Sum.
struct Sum {
  template <class Out, class In>
  using Acc = Out;
  template <class A>
  static A start() {
    return A(0);
  }
  template <class A, class X>
  SC_INLINE static A step(A a, X x, int64_t) {
    return A(a + A(x));
  }
  template <class A>
  SC_INLINE static A merge(A a, A b) {
    return A(a + b);
  }
  template <class Out, class A>
  static Out finish(A a, int64_t) {
    return a;
  }
};
struct Mean : Sum {
  template <class Out, class A>
  static Out finish(A a, int64_t count) {
    return a / Out(count);
  }
};
struct Prod : Sum {
  template <class A>
  static A start() {
    return A(1);
  }
  template <class A, class X>
  SC_INLINE static A step(A a, X x, int64_t) {
    return A(a * A(x));
  }
  template <class A>
  SC_INLINE static A merge(A a, A b) {
    return A(a * b);
  }
};
// NaN wins, as in torch.
struct Max : Sum {
  template <class Out, class In>
  using Acc = In;
  template <class A>
  static A start() {
    return lowest_of<A>();
  }
  template <class A>
  SC_INLINE static A step(A a, A x, int64_t) {
    return (x > a) | (x != x) ? x : a;
  }
  template <class A>
  SC_INLINE static A merge(A a, A b) {
    return step(a, b, 0);
  }
};
struct Min : Max {
  template <class A>
  static A start() {
    return highest_of<A>();
  }
  template <class A>
  SC_INLINE static A step(A a, A x, int64_t) {
    return (x < a) | (x != x) ? x : a;
  }
  template <class A>
  SC_INLINE static A merge(A a, A b) {
    return step(a, b, 0);
  }
};
struct Any : Sum {
  template <class Out, class In>
  using Acc = uint8_t;
  template <class X>
  SC_INLINE static uint8_t step(uint8_t a, X x, int64_t) {
    return uint8_t(a | uint8_t(x != X(0)));
  }
  SC_INLINE static uint8_t merge(uint8_t a, uint8_t b) { return a | b; }
};
struct All : Any {
  template <class A>
  static A start() {
    return A(1);
  }
  template <class X>
  SC_INLINE static uint8_t step(uint8_t a, X x, int64_t) {
    return uint8_t(a & uint8_t(x != X(0)));
  }
  SC_INLINE static uint8_t merge(uint8_t a, uint8_t b) { return a & b; }
};

template <class T>
struct Place {
  T value;
  int64_t index;  // -1: nothing seen yet
};
// The first of equal ones; the first NaN, if there is any, comes before all.
template <bool MAX>
struct ArgBest : Sum {
  template <class Out, class In>
  using Acc = Place<In>;
  template <class A>
  static A start() {
    return A{{}, -1};
  }
  template <class T>
  SC_INLINE static bool before(T x, T y) {
    return (MAX ? x > y : x < y) || (x != x && y == y);
  }
  template <class T>
  SC_INLINE static Place<T> step(Place<T> a, T x, int64_t index) {
    return merge(a, Place<T>{x, index});
  }
  template <class T>
  SC_INLINE static Place<T> merge(Place<T> a, Place<T> b) {
    if (a.index < 0 || b.index < 0) return a.index < 0 ? b : a;
    if (before(a.value, b.value)) return a;
    return before(b.value, a.value) || b.index < a.index ? b : a;
  }
  template <class Out, class A>
  static Out finish(A a, int64_t) {
    return Out(a.index);
  }
};
using ArgMax = ArgBest<true>;
using ArgMin = ArgBest<false>;

// ---- the fold ---------------------------------------------------------------------------------
template <class Op, class A, class In, int R>
struct Folding {
  const Loops<R, 2>& reduced;  // of the input: its offset, and the index that ArgMax wants
  const In* from;
  bool along;       // lanes are pieces of the innermost reduced dimension
  int64_t lanes;    // of partial results in use
  int64_t stride;   // of the input between lanes
  int64_t pieces;   // items per run of the reduced dimension

  Folding(const Loops<R, 2>& reduced, bool along) : reduced(reduced), along(along), pieces(1) {
    const int64_t n = reduced.size[reduced.rank - 1];
    if (along) {
      pieces = (n + kRunOfFold - 1) / kRunOfFold;
      lanes = n < kLanes ? n : kLanes;
      stride = reduced.stride[0][reduced.rank - 1];
    }
  }
  int64_t items() const {
    return along ? reduced.count(reduced.rank - 1) * pieces : reduced.count(reduced.rank);
  }

  SC_INLINE void take(const In* p, int64_t n, int64_t index, int64_t index_step, A* acc) const {
    for (int64_t i = 0; i < n; i += kLanes, p += kLanes * stride, index += kLanes * index_step) {
      const int64_t here = n - i < kLanes ? n - i : kLanes;
      if (here == kLanes && stride == 1) {
#pragma GCC ivdep
        for (int j = 0; j < kLanes; j++) acc[j] = Op::step(acc[j], p[j], index + j * index_step);
      } else {
        for (int64_t j = 0; j < here; j++)
          acc[j] = Op::step(acc[j], p[j * stride], index + j * index_step);
      }
    }
  }

  // acc[0 .. lanes) = the fold of items [first, last).
  void run(int64_t first, int64_t last, A* acc) const {
    if (last - first > kLeaf) {
      const int64_t middle = first + (last - first) / 2;
      A right[kLanes];
      run(first, middle, acc);
      run(middle, last, right);
      for (int64_t j = 0; j < lanes; j++) acc[j] = Op::merge(acc[j], right[j]);
      return;
    }
    for (int64_t j = 0; j < lanes; j++) acc[j] = Op::template start<A>();
    if (first == last) return;
    const int inner = reduced.rank - 1;
    Odometer<R, 2> at(reduced, along ? inner : inner + 1, first / pieces);
    int64_t piece = first % pieces;
    for (int64_t item = first; item < last; item++) {
      if (along) {
        const int64_t begin = piece * kRunOfFold, n = reduced.size[inner];
        const int64_t end = begin + kRunOfFold < n ? begin + kRunOfFold : n;
        const int64_t step = reduced.stride[1][inner];
        take(from + at.offset[0] + begin * stride, end - begin, at.offset[1] + begin * step, step,
             acc);
        if (++piece < pieces) continue;
        piece = 0;
      } else {
        take(from + at.offset[0], lanes, at.offset[1], 0, acc);
      }
      at.next();
    }
  }

  // All lanes as one.
  A total(A* acc) const {
    for (int64_t n = lanes; n > 1; n = (n + 1) / 2)
      for (int64_t j = 0; j < n / 2; j++) acc[j] = Op::merge(acc[j], acc[j + (n + 1) / 2]);
    return acc[0];
  }
};

// to = the fold of `from` over the dimensions kept .. R-1 of the box; to.stride counts for the kept
// ones. Threads share the results, so a single one is computed by a single thread. An empty fold
// gives the neutral element (for ArgMax and ArgMin -1).
template <class Op, class Out, int R, class In>
void fold(Team& team, const Box<R>& box, int kept, At<Out, R> to, At<const In, R> from) {
  using A = typename Op::template Acc<Out, In>;
  int64_t row_major[R];
  for (int64_t d = R - 1, step = 1; d >= kept; step *= box.size[d--]) row_major[d] = step;
  const int64_t* const results[] = {to.stride, from.stride};
  const int64_t* const reduced_strides[] = {from.stride + kept, row_major + kept};
  Loops<R, 2> outer = loops_of<R, 2>(box.size, kept, results);
  const Loops<R, 2> reduced = loops_of<R, 2>(box.size + kept, R - kept, reduced_strides);
  if (outer.empty) return;
  int64_t count = 1;
  for (int d = kept; d < R; d++) count *= box.size[d];

  // The lanes follow whichever dimension is denser in the input.
  int dense = outer.rank - 1;
  for (int d = 0; d < outer.rank; d++)
    if (magnitude(outer.stride[1][d]) < magnitude(outer.stride[1][dense])) dense = d;
  outer.move(dense, outer.rank - 1);
  const int inner = outer.rank - 1;
  const int64_t n = outer.size[inner], to_step = outer.stride[0][inner];
  const bool along = n == 1 || magnitude(reduced.stride[0][reduced.rank - 1]) <
                                   magnitude(outer.stride[1][inner]);
  Folding<Op, A, In, R> folding(reduced, along);
  const int64_t width = along ? 1 : kLanes, blocks = (n + width - 1) / width;
  const int64_t items = count ? folding.items() : 0;
  const int64_t last = team.last(outer.count(inner) * blocks);
  int64_t place = team.first(outer.count(inner) * blocks);
  Odometer<R, 2> at(outer, inner, place / blocks);
  for (int64_t block = place % blocks; place < last; place++) {
    const int64_t begin = block * width, here = n - begin < width ? n - begin : width;
    Out* out = to.p + at.offset[0] + begin * to_step;
    A acc[kLanes];
    folding.from = from.p + at.offset[1] + begin * outer.stride[1][inner];
    if (!along) {
      folding.lanes = here;
      folding.stride = outer.stride[1][inner];
    }
    if (items == 0) acc[0] = Op::template start<A>();
    folding.run(0, items, acc);
    if (along) {
      *out = Op::template finish<Out>(items ? folding.total(acc) : acc[0], count);
    } else {
      for (int64_t j = 0; j < here; j++)
        out[j * to_step] = Op::template finish<Out>(acc[j], count);
    }
    if (++block == blocks) {
      block = 0;
      at.next();
    }
  }
}

}  // namespace sc
