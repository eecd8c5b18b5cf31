// The vector kernels behind a C interface, for tests/kernels/test_vector_kernels.py and the
// benchmark: each entry point runs a whole team of `threads`.
#include <omp.h>

#include <cstdint>
#include <vector>

#include "attention.h"
#include "norm.h"
#include "pointwise.h"
#include "relayout.h"
#include "softmax.h"

namespace {

template <class F>
void on_team(int threads, const F& f) {
  sc::Barrier barrier;
#pragma omp parallel num_threads(threads)
  {
    sc::Team team(omp_get_thread_num(), omp_get_num_threads(), &barrier);
    f(team);
  }
}

template <class F>
void map(int threads, const float* x, float* y, int64_t rows, int64_t n, int64_t ld, const F& f) {
  on_team(threads, [&](sc::Team& team) {
    sc::pointwise(team, rows, n, y, ld, [&](int64_t row, int64_t col) {
      return f(sc::load(x + row * ld + col));
    });
  });
}

}  // namespace

extern "C" {

#define MAP(NAME, EXPRESSION)                                                                  \
  void map_##NAME(int threads, const float* p, float* y, int64_t rows, int64_t n, int64_t ld,  \
                  float a, float b, float c) {                                                 \
    (void)a, (void)b, (void)c;                                                                 \
    map(threads, p, y, rows, n, ld, [&](sc::V x) { return EXPRESSION; });                      \
  }
MAP(copy, x)
MAP(exp, sc::exp(x))
MAP(exp_nonpositive, sc::exp_nonpositive(x))
MAP(exp2, sc::exp2(x))
MAP(expm1, sc::expm1(x))
MAP(log, sc::log(x))
MAP(log2, sc::log2(x))
MAP(log1p, sc::log1p(x))
MAP(erf, sc::erf(x))
MAP(tanh, sc::tanh(x))
MAP(sigmoid, sc::sigmoid(x))
MAP(silu, sc::silu(x))
MAP(gelu, sc::gelu(x))
MAP(gelu_tanh, sc::gelu_tanh(x))
MAP(relu, sc::relu(x))
MAP(relu6, sc::relu6(x))
MAP(hardtanh, sc::hardtanh(x, a, b))
MAP(hardswish, sc::hardswish(x))
MAP(hardsigmoid, sc::hardsigmoid(x))
MAP(mish, sc::mish(x))
MAP(softplus, sc::softplus(x, a, b))
MAP(leaky_relu, sc::leaky_relu(x, a))
MAP(elu, sc::elu(x, a, b, c))
MAP(sqrt, sc::sqrt(x))
MAP(rsqrt, sc::rsqrt(x))
MAP(reciprocal, sc::reciprocal(x))
MAP(abs, sc::abs(x))
MAP(neg, sc::neg(x))
MAP(sign, sc::sign(x))
MAP(remainder, sc::remainder(x, sc::splat(a)))
MAP(floor_div, sc::floor_div(x, sc::splat(a)))
MAP(sin, sc::sin(x))
MAP(cos, sc::cos(x))
MAP(floor, sc::floor(x))
MAP(ceil, sc::ceil(x))
MAP(trunc, sc::trunc(x))
MAP(round, sc::round(x))
MAP(pow, sc::pow(x, a))
MAP(clamp, sc::clamp(x, a, b))
MAP(maximum, sc::max(x, sc::splat(a)))
MAP(maximum_left, sc::max(sc::splat(a), x))
MAP(minimum, sc::min(x, sc::splat(a)))
MAP(minimum_left, sc::min(sc::splat(a), x))
MAP(below, sc::truth(x < sc::splat(a)))

void rows_to_planes(int threads, const float* src, int64_t row_stride, int64_t n, int64_t c,
                    float* dst, int64_t ld) {
  on_team(threads, [&](sc::Team& t) { sc::rows_to_planes(t, src, row_stride, n, c, dst, ld); });
}
void planes_to_rows(int threads, const float* src, int64_t ld, int64_t n, int64_t c, float* dst,
                    int64_t row_stride) {
  on_team(threads, [&](sc::Team& t) { sc::planes_to_rows(t, src, ld, n, c, dst, row_stride); });
}
void strided_to_planes(int threads, const float* src, const sc::Strided* s, int64_t n, float* dst,
                       int64_t ld) {
  on_team(threads, [&](sc::Team& t) { sc::strided_to_planes(t, src, *s, n, dst, ld); });
}
void bool_to_planes(int threads, const bool* src, const sc::Strided* s, int64_t n, float* dst,
                    int64_t ld) {
  on_team(threads, [&](sc::Team& t) {
    sc::strided_to_planes(t, src, *s, n, dst, ld, sc::ToAdditive());
  });
}
void planes_to_strided(int threads, const float* src, int64_t ld, int64_t n, const sc::Strided* s,
                       float* dst) {
  on_team(threads, [&](sc::Team& t) { sc::planes_to_strided(t, src, ld, n, *s, dst); });
}

// y = norm(x + residual) * gamma + beta; residual null: x alone; sum null: not kept.
void norm(int threads, int rms, int64_t channels, int64_t n, float eps, const float* x,
          const float* residual, int64_t ld, const float* gamma, const float* beta, float* sum,
          float* y) {
  const auto input = [=](int64_t row, int64_t col) {
    const sc::V v = sc::load(x + row * ld + col);
    return residual ? v + sc::load(residual + row * ld + col) : v;
  };
  const auto finish = [=](sc::V v, int64_t row, int64_t) {
    return v * sc::splat(gamma[row]) + sc::splat(beta[row]);
  };
  on_team(threads, [&](sc::Team& t) {
    if (rms) {
      sc::rms_norm(t, channels, n, eps, sum, ld, y, ld, input, finish);
    } else {
      sc::layer_norm(t, channels, n, eps, sum, ld, y, ld, input, finish);
    }
  });
}

void softmax(int threads, int log, int64_t rows, int64_t n, const float* x, int64_t ld, float* y) {
  const auto input = [=](int64_t row, int64_t col) { return sc::load(x + row * ld + col); };
  on_team(threads, [&](sc::Team& t) {
    if (log) {
      sc::log_softmax(t, rows, n, y, ld, input);
    } else {
      sc::softmax(t, rows, n, y, ld, input);
    }
  });
}

void attention(int threads, const sc::Attention* a) {
  // Exactly as many floats as stated, per thread, so that the sanitizer sees an overrun.
  std::vector<std::vector<float>> scratch(threads);
  for (auto& s : scratch) s.resize(sc::attention_scratch_floats(*a));
  on_team(threads, [&](sc::Team& t) { sc::attention(t, *a, scratch[t.id].data()); });
}

}  // extern "C"
