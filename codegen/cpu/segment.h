// What the generated unit of a segment stands on: the sharing of its samples and its pointers.
// `d` holds the bound numbers: 6 of the segment, 4 of each space, 2 of each buffer, then sizes.
#pragma once
#include "team.h"
#include "vec.h"

namespace sc {

SC_INLINE void widen(int64_t& most, int64_t floats) { most = most > floats ? most : floats; }
SC_INLINE int64_t whole_lines(int64_t floats) { return (floats + 15) / 16 * 16; }

// The columns of a space that this thread works on: all, or `part` of them from `start` on, and the
// last `rest` ones, which every thread has.
struct Span {
  int64_t columns, part, ld, rest, start, queries;

  Span(const int64_t* d, int id) : columns(d[0]), part(d[1]), ld(d[2]), rest(d[3]) {
    start = part ? id * part : 0;
    queries = part ? min64(part, columns - rest - start) : columns;
  }
  Rest rest_of(int id, int size, int64_t stride) const {
    return {id, size, rest, columns - rest, stride};
  }
};

struct Frame {
  const void* const* in;
  void* const* out;
  const void* const* weight;
  const int64_t* d;
  int64_t samples, per, part_stride;
  bool alone;
  int64_t begin, step;  // first sample of this thread's chunks, and from one to the next
  float *scratch, *own, *first_own, *common;

  // memory: scratch of each thread, buffers of each thread, buffers of all.
  Frame(int id, const void* const* in, void* const* out, const void* const* weight,
        const int64_t* d, float* memory)
      : in(in), out(out), weight(weight), d(d), samples(d[0]), per(d[1]), part_stride(d[4]),
        alone(d[2]), begin(alone ? id * per : 0), step(alone ? d[5] * per : per),
        scratch(memory + id * d[3]), first_own(memory + d[5] * d[3]), common() {
    own = first_own + id * part_stride;
    common = first_own + d[5] * part_stride;
  }
  // Buffer whose two numbers are at `at`: this thread's, or as the first thread has it.
  template <class T>
  T* buffer(const int64_t* at) const {
    return reinterpret_cast<T*>((at[0] ? own : common) + at[1]);
  }
  template <class T>
  T* first_buffer(const int64_t* at, bool split) const {
    return reinterpret_cast<T*>((at[0] ? (split ? first_own : own) : common) + at[1]);
  }
  template <class T>
  const T* input(int i) const {
    return static_cast<const T*>(in[i]);
  }
  template <class T>
  T* output(int i) const {
    return static_cast<T*>(out[i]);
  }
  template <class T>
  const T* constant(int i) const {
    return static_cast<const T*>(weight[i]);
  }
};

}  // namespace sc
