// The kernels on images beside convolution behind a C interface, for test_image_kernels.py, the
// sanitizers and the benchmark: each entry point runs a whole team of `threads`.
#include <omp.h>

#include <cstdint>
#include <cstdlib>
#include <vector>

#include "depthwise.h"
#include "depthwise_direct.h"
#include "group_norm.h"
#include "paced.h"
#include "pool.h"
#include "reduce.h"
#include "upsample.h"

namespace {

using sc::V;

template <class F>
void on_team(int threads, const F& f) {
  sc::Pace pace{};
  sc::PacedCall paced(unlike(pace, threads), threads);
  sc::Barrier barrier;
#pragma omp parallel num_threads(threads)
  {
    sc::Team team(omp_get_thread_num(), omp_get_num_threads(), &barrier);
    team.paced = &paced;
    f(team);
  }
}

// Exactly as many floats as stated, per thread, so that the sanitizer sees an overrun. Vectors at
// multiples of 64 bytes, as a segment's scratch has them.
struct Scratch {
  std::vector<float*> parts;
  Scratch(int threads, int64_t floats) : parts(threads) {
    for (float*& p : parts) {
      void* memory = nullptr;
      if (posix_memalign(&memory, 64, floats * sizeof(float)) != 0) std::abort();
      p = static_cast<float*>(memory);
    }
  }
  Scratch(const Scratch&) = delete;
  ~Scratch() {
    for (float* p : parts) std::free(p);
  }
  float* operator()(const sc::Team& team) const { return parts[team.id]; }
};

struct Plane {
  const float* x;
  int64_t ld;
  V operator()(int64_t row, int64_t col) const { return sc::load(x + row * ld + col); }
};

// v + add[row][col], as a residual does it: sees which columns the kernel asks for.
struct Add {
  const float* add;  // null: nothing
  int64_t ld;
  V operator()(V v, int64_t row, int64_t col) const {
    return add ? v + sc::load(add + row * ld + col) : v;
  }
};

}  // namespace

extern "C" {

extern const int vector_width;
const int vector_width = sc::W;

void depthwise(int threads, const float* weight, int64_t rows, int64_t multiplier,
               const sc::Window* w, const float* x, int64_t ldx, const float* add, float* y,
               int64_t ldy) {
  Scratch scratch(threads, sc::depthwise_scratch_floats(*w));
  on_team(threads, [&](sc::Team& t) {
    sc::depthwise(t, weight, rows, multiplier, *w, x, ldx, y, ldy, scratch(t), Add{add, ldy});
  });
}

// As `depthwise`, where the kernel has a window of this height and stride; 0: it has not.
int depthwise_direct(int threads, const float* weight, int64_t rows, int64_t multiplier,
                     const sc::Window* w, const float* x, int64_t ldx, const float* add, float* y,
                     int64_t ldy) {
  const bool plain = !w->transposed && w->kernel[0] == 1 && w->in[0] == 1 && w->pad[0] == 0;
  const bool even = w->stride[1] == w->stride[2] && w->dilation[1] == 1 && w->dilation[2] == 1;
  if (!plain || !even) return 0;
  Scratch scratch(threads, sc::depthwise_direct_scratch_floats(*w));
  const auto run = [&](auto k, auto s) {
    on_team(threads, [&](sc::Team& t) {
      sc::depthwise_direct<k, s>(t, weight, rows, multiplier, *w, x, ldx, y, ldy, scratch(t),
                                 Add{add, ldy});
    });
    return 1;
  };
  const auto two = std::integral_constant<int, 2>();
  const auto one = std::integral_constant<int, 1>();
  switch (w->kernel[1] * 10 + w->stride[1]) {
    case 31: return run(std::integral_constant<int, 3>(), one);
    case 32: return run(std::integral_constant<int, 3>(), two);
    case 51: return run(std::integral_constant<int, 5>(), one);
    case 52: return run(std::integral_constant<int, 5>(), two);
    case 71: return run(std::integral_constant<int, 7>(), one);
    case 72: return run(std::integral_constant<int, 7>(), two);
    default: return 0;
  }
}

void max_pool(int threads, int64_t rows, const sc::Window* w, const float* x, int64_t ldx,
              const float* add, float* y, int64_t ldy) {
  Scratch scratch(threads, sc::pool_scratch_floats(*w));
  on_team(threads, [&](sc::Team& t) {
    sc::max_pool(t, rows, *w, x, ldx, y, ldy, scratch(t), Add{add, ldy});
  });
}

void avg_pool(int threads, int64_t rows, const sc::Window* w, const float* x, int64_t ldx,
              const float* add, float* y, int64_t ldy, int64_t include_pad, int64_t divisor) {
  Scratch scratch(threads, sc::pool_scratch_floats(*w));
  on_team(threads, [&](sc::Team& t) {
    sc::avg_pool(t, rows, *w, x, ldx, y, ldy, scratch(t), include_pad != 0, divisor,
                 Add{add, ldy});
  });
}

void adaptive_pool(int threads, int64_t mean, int64_t rows, const sc::Adaptive* a, const float* x,
                   int64_t ldx, const float* add, float* y, int64_t ldy) {
  Scratch scratch(threads, sc::adaptive_scratch_floats(*a));
  on_team(threads, [&](sc::Team& t) {
    const Add finish{add, ldy};
    if (mean) {
      sc::adaptive_avg_pool(t, rows, *a, x, ldx, y, ldy, scratch(t), finish);
    } else {
      sc::adaptive_max_pool(t, rows, *a, x, ldx, y, ldy, scratch(t), finish);
    }
  });
}

void nearest(int threads, int64_t rows, const sc::Resample* r, int64_t exact, const float* x,
             int64_t ldx, const float* add, float* y, int64_t ldy) {
  Scratch scratch(threads, sc::nearest_scratch_floats(*r));
  on_team(threads, [&](sc::Team& t) {
    sc::upsample_nearest(t, rows, *r, exact != 0, x, ldx, y, ldy, scratch(t), Add{add, ldy});
  });
}

void bilinear(int threads, int64_t rows, const sc::Resample* r, int64_t align, const float* x,
              int64_t ldx, const float* add, float* y, int64_t ldy) {
  Scratch scratch(threads, sc::bilinear_scratch_floats(*r));
  on_team(threads, [&](sc::Team& t) {
    sc::upsample_bilinear(t, rows, *r, align != 0, x, ldx, y, ldy, scratch(t), Add{add, ldy});
  });
}

// fold: 0 sum, 1 maximum, 2 minimum; the results are divided by `by`.
void columns(int threads, int64_t fold, int64_t rows, int64_t samples, int64_t per, const float* x,
             int64_t ldx, float by, float* y, int64_t ldy) {
  const Plane source{x, ldx};
  const auto finish = [=](V v, int64_t, int64_t) { return v / sc::splat(by); };
  on_team(threads, [&](sc::Team& t) {
    if (fold == 0) sc::reduce_columns<sc::PlaneSum>(t, rows, samples, per, y, ldy, source, finish);
    if (fold == 1) sc::reduce_columns<sc::PlaneMax>(t, rows, samples, per, y, ldy, source, finish);
    if (fold == 2) sc::reduce_columns<sc::PlaneMin>(t, rows, samples, per, y, ldy, source, finish);
  });
}

void down(int threads, int64_t fold, int64_t outer, int64_t rows, int64_t inner, int64_t n,
          const float* x, int64_t ldx, float by, float* y, int64_t ldy) {
  const Plane source{x, ldx};
  const auto finish = [=](V v, int64_t, int64_t) { return v / sc::splat(by); };
  on_team(threads, [&](sc::Team& t) {
    if (fold == 0)
      sc::reduce_rows<sc::PlaneSum>(t, outer, rows, inner, n, y, ldy, source, finish);
    if (fold == 1)
      sc::reduce_rows<sc::PlaneMax>(t, outer, rows, inner, n, y, ldy, source, finish);
    if (fold == 2)
      sc::reduce_rows<sc::PlaneMin>(t, outer, rows, inner, n, y, ldy, source, finish);
  });
}

void group_norm(int threads, int64_t rows, int64_t groups, int64_t samples, int64_t per, float eps,
                const float* x, int64_t ldx, const float* gamma, const float* beta, float* y,
                int64_t ldy) {
  Scratch scratch(threads, sc::group_norm_scratch_floats(samples));
  const auto finish = [=](V v, int64_t row, int64_t) {
    return v * sc::splat(gamma[row]) + sc::splat(beta[row]);
  };
  on_team(threads, [&](sc::Team& t) {
    sc::group_norm(t, rows, groups, samples, per, eps, y, ldy, scratch(t), Plane{x, ldx}, finish);
  });
}

}  // extern "C"
