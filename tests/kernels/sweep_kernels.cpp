// The strided kernels behind a C interface, for tests/kernels/test_sweep_kernels.py: boxes of kRank
// dimensions, each entry point runs a whole team of `threads`.
#include <omp.h>

#include <cstdint>
#include <vector>

#include "fold.h"
#include "gather.h"
#include "matmul.h"
#include "rotary.h"
#include "scan.h"
#include "sweep.h"

namespace {

constexpr int kRank = 6;
using Sizes = sc::Box<kRank>;

template <class T>
sc::At<T, kRank> at(T* p, const int64_t* stride) {
  sc::At<T, kRank> a{p, {}};
  for (int d = 0; d < kRank; d++) a.stride[d] = stride[d];
  return a;
}

template <class F>
void on_team(int threads, const F& f) {
  sc::Barrier barrier;
#pragma omp parallel num_threads(threads)
  {
    sc::Team team(omp_get_thread_num(), omp_get_num_threads(), &barrier);
    f(team);
  }
}

struct MultiplyAdd {
  template <class T>
  SC_INLINE T operator()(T a, T b, T c) const {
    return a * b + c;
  }
};
struct Choose {
  SC_INLINE float operator()(bool c, float a, int64_t b) const { return c ? a : float(b); }
};

}  // namespace

extern "C" {

#define COPY(NAME, T)                                                                         \
  void copy_##NAME(int threads, const Sizes* box, T* to, const int64_t* to_stride, const T* from, \
                   const int64_t* stride) {                                                   \
    on_team(threads, [&](sc::Team& t) {                                                       \
      sc::copy(t, *box, at(to, to_stride), at(from, stride));                                 \
    });                                                                                       \
  }                                                                                           \
  void fill_##NAME(int threads, const Sizes* box, T* to, const int64_t* to_stride) {          \
    on_team(threads, [&](sc::Team& t) { sc::fill(t, *box, at(to, to_stride), T(3)); });       \
  }
COPY(1, uint8_t)
COPY(2, int16_t)
COPY(4, float)
COPY(8, int64_t)

#define MULTIPLY_ADD(NAME, T)                                                                   \
  void multiply_add_##NAME(int threads, const Sizes* box, T* to, const int64_t* to_stride,      \
                           const T* a, const int64_t* a_stride, const T* b,                     \
                           const int64_t* b_stride, const T* c, const int64_t* c_stride) {      \
    on_team(threads, [&](sc::Team& t) {                                                         \
      sc::map(t, *box, at(to, to_stride), MultiplyAdd(), at(a, a_stride), at(b, b_stride),      \
              at(c, c_stride));                                                                 \
    });                                                                                         \
  }
MULTIPLY_ADD(f32, float)
MULTIPLY_ADD(f64, double)
MULTIPLY_ADD(i64, int64_t)

void choose(int threads, const Sizes* box, float* to, const int64_t* to_stride, const bool* c,
            const int64_t* c_stride, const float* a, const int64_t* a_stride, const int64_t* b,
            const int64_t* b_stride) {
  on_team(threads, [&](sc::Team& t) {
    sc::map(t, *box, at(to, to_stride), Choose(), at(c, c_stride), at(a, a_stride),
            at(b, b_stride));
  });
}

#define FOLD(NAME, OP, OUT, IN)                                                                 \
  void fold_##NAME(int threads, const Sizes* box, int64_t kept, OUT* to, const int64_t* to_stride, \
                   const IN* from, const int64_t* stride) {                                     \
    on_team(threads, [&](sc::Team& t) {                                                         \
      sc::fold<sc::OP>(t, *box, int(kept), at(to, to_stride), at(from, stride));                \
    });                                                                                         \
  }
#define FOLD_ORDERED(NAME, T) \
  FOLD(max_##NAME, Max, T, T) FOLD(min_##NAME, Min, T, T) \
  FOLD(argmax_##NAME, ArgMax, int64_t, T) FOLD(argmin_##NAME, ArgMin, int64_t, T) \
  FOLD(any_##NAME, Any, bool, T) FOLD(all_##NAME, All, bool, T)
FOLD_ORDERED(f32, float)
FOLD_ORDERED(i64, int64_t)
FOLD_ORDERED(u8, uint8_t)
FOLD(sum_f32, Sum, float, float)
FOLD(sum_f64, Sum, double, double)
FOLD(sum_i64, Sum, int64_t, int64_t)
FOLD(sum_bool, Sum, int64_t, bool)
FOLD(mean_f32, Mean, float, float)
FOLD(prod_f32, Prod, float, float)
FOLD(prod_i64, Prod, int64_t, int64_t)

#define GATHER(NAME, T, I)                                                                      \
  void index1_##NAME(int threads, const Sizes* box, T* to, const int64_t* to_stride,            \
                     const T* from, const int64_t* stride, const I* i, const int64_t* i_stride, \
                     int64_t size, int64_t step, int64_t wrap, int64_t* error) {                \
    const sc::Index<I, kRank> indices[] = {{at(i, i_stride), size, step}};                      \
    on_team(threads, [&](sc::Team& t) {                                                         \
      sc::index<T, I, kRank, 1>(t, *box, at(to, to_stride), at(from, stride), indices,          \
                                wrap != 0, error);                                              \
    });                                                                                         \
  }                                                                                             \
  void rows_##NAME(int threads, const T* table, int64_t rows, int64_t width, const I* ids,      \
                   int64_t n, T* y, int64_t ldy, int64_t* error) {                              \
    on_team(threads, [&](sc::Team& t) {                                                         \
      sc::gather_rows(t, table, rows, width, ids, n, y, ldy, error);                            \
    });                                                                                         \
  }
GATHER(f32_i64, float, int64_t)
GATHER(f32_i32, float, int32_t)
GATHER(i64_i64, int64_t, int64_t)
GATHER(u8_i64, uint8_t, int64_t)

void index2_f32(int threads, const Sizes* box, float* to, const int64_t* to_stride,
                const float* from, const int64_t* stride, const int64_t* i,
                const int64_t* i_stride, int64_t i_size, int64_t i_step, const int64_t* j,
                const int64_t* j_stride, int64_t j_size, int64_t j_step, int64_t wrap,
                int64_t* error) {
  const sc::Index<int64_t, kRank> indices[] = {{at(i, i_stride), i_size, i_step},
                                               {at(j, j_stride), j_size, j_step}};
  on_team(threads, [&](sc::Team& t) {
    sc::index<float, int64_t, kRank, 2>(t, *box, at(to, to_stride), at(from, stride), indices,
                                        wrap != 0, error);
  });
}

#define LOOKUP(NAME, I)                                                                          \
  void lookup_##NAME(int threads, const float* table, int64_t rows, int64_t width, const I* ids, \
                     int64_t n, float* y, int64_t ldy, int64_t* error) {                         \
    on_team(threads, [&](sc::Team& t) {                                                          \
      sc::gather_rows_to_planes(t, table, rows, width, ids, n, y, ldy, error);                   \
    });                                                                                          \
  }
LOOKUP(i64, int64_t)
LOOKUP(i32, int32_t)

#define CUMSUM(NAME, OUT, IN)                                                                 \
  void cumsum_##NAME(int threads, int64_t outer, int64_t n, int64_t inner, const IN* x, OUT* y) { \
    on_team(threads, [&](sc::Team& t) { sc::cumsum(t, outer, n, inner, x, y); });             \
  }
CUMSUM(f32, float, float)
CUMSUM(f64, double, double)
CUMSUM(i64, int64_t, int64_t)
CUMSUM(i32, int64_t, int32_t)
CUMSUM(bool, int64_t, bool)

void softmax_along(int threads, int64_t outer, int64_t n, int64_t inner, const float* x, float* y,
                   int64_t log) {
  on_team(threads, [&](sc::Team& t) { sc::softmax_along(t, outer, n, inner, x, y, log != 0); });
}

void rotary(int threads, const sc::Rotary* r, int64_t n) {
  on_team(threads, [&](sc::Team& t) { sc::rotary(t, *r, n); });
}

void matmul(int threads, const sc::Matmul* p) {
  // Exactly as many floats as stated, per thread, so that the sanitizer sees an overrun.
  std::vector<std::vector<float>> scratch(threads);
  for (auto& s : scratch) s.resize(sc::matmul_scratch_floats(*p));
  on_team(threads, [&](sc::Team& t) { sc::matmul(t, *p, scratch[t.id].data()); });
}

}  // extern "C"
