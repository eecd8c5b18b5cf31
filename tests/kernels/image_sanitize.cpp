// Runs the kernels on images at odd shapes on heap buffers without slack, for the sanitizers, and
// compares depthwise convolution and max-pool with plain loops. Prints the first difference.
#include "image_kernels.cpp"

#include <cmath>
#include <cstdio>
#include <cstdlib>

using Floats = std::vector<float>;
static const int64_t kRows = 3;

static int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

static Floats random_floats(int64_t n) {
  Floats x(n);
  for (float& f : x) f = float(rand()) / float(RAND_MAX) * 4 - 2;
  return x;
}

static void check(const char* what, double got, double want, int64_t i) {
  if (std::fabs(got - want) <= 1e-5 * (1 + std::fabs(want))) return;
  printf("%s: %g instead of %g at %lld\n", what, got, want, (long long)i);
  exit(1);
}

static sc::Window window(int64_t samples, const int64_t (&in)[3], const int64_t (&kernel)[3],
                         int64_t stride, int64_t dilation) {
  sc::Window w{samples, {}, {}, {}, {}, {}, {}, false};
  for (int d = 0; d < 3; d++) {
    w.in[d] = in[d], w.kernel[d] = kernel[d];
    w.stride[d] = kernel[d] > 1 ? stride : 1;
    w.dilation[d] = kernel[d] > 1 ? dilation : 1;
    w.pad[d] = kernel[d] / 2;
    w.out[d] = (in[d] + 2 * w.pad[d] - w.dilation[d] * (kernel[d] - 1) - 1) / w.stride[d] + 1;
  }
  return w;
}

// Calls f(input column or -1 in the padding, tap) for the window of output column o.
template <class F>
static void each_tap(const sc::Window& w, int64_t o, const F& f) {
  const int64_t area = w.out[0] * w.out[1] * w.out[2];
  const int64_t at[3] = {o % area / (w.out[1] * w.out[2]), o / w.out[2] % w.out[1], o % w.out[2]};
  for (int64_t t = 0; t < w.taps(); t++) {
    const int64_t tap[3] = {t / w.kernel[2] / w.kernel[1], t / w.kernel[2] % w.kernel[1],
                            t % w.kernel[2]};
    int64_t column = o / area;
    bool inside = true;
    for (int d = 0; d < 3; d++) {
      const int64_t i = at[d] * w.stride[d] - w.pad[d] + tap[d] * w.dilation[d];
      inside = inside && i >= 0 && i < w.in[d];
      column = column * w.in[d] + i;
    }
    f(inside ? column : -1, t);
  }
}

static void check_window(const sc::Window& w) {
  for (int64_t o : w.out)
    if (o < 1) return;
  const int64_t ldx = padded(w.in_columns()), ldy = padded(w.out_columns()), taps = w.taps();
  const Floats x = random_floats(kRows * ldx), add = random_floats(kRows * ldy);
  Floats weight = random_floats(kRows * taps), y(kRows * ldy);
  for (int sparse = 0; sparse < 2; sparse++) {
    for (int64_t t = 0; sparse && t < kRows * taps; t += 1 + t % 3) weight[t] = 0;
    depthwise(2, weight.data(), kRows, 1, &w, x.data(), ldx, add.data(), y.data(), ldy);
    Floats direct(y);
    depthwise_direct(2, weight.data(), kRows, 1, &w, x.data(), ldx, add.data(), direct.data(), ldy);
    for (int64_t i = 0; i < kRows * w.out_columns(); i++) {
      const int64_t r = i / w.out_columns(), o = i % w.out_columns();
      double sum = add[r * ldy + o];
      each_tap(w, o, [&](int64_t column, int64_t t) {
        if (column >= 0) sum += double(weight[r * taps + t]) * x[r * ldx + column];
      });
      check("depthwise", y[r * ldy + o], sum, o);
      check("direct depthwise", direct[r * ldy + o], sum, o);
    }
  }
  max_pool(2, kRows, &w, x.data(), ldx, nullptr, y.data(), ldy);
  for (int64_t o = 0; o < w.out_columns(); o++) {
    double most = -1e30;
    each_tap(w, o, [&](int64_t column, int64_t) {
      if (column >= 0 && x[column] > most) most = x[column];
    });
    if (most > -1e30) check("max-pool", y[o], most, o);
  }
  avg_pool(2, kRows, &w, x.data(), ldx, add.data(), y.data(), ldy, 0, 0);
  avg_pool(2, kRows, &w, x.data(), ldx, add.data(), y.data(), ldy, 1, 0);
  sc::Window back = w;
  back.transposed = true;
  for (int d = 0; d < 3; d++) back.in[d] = w.out[d], back.out[d] = w.in[d];
  depthwise(2, weight.data(), kRows, 1, &back, y.data(), ldy, nullptr, Floats(kRows * ldx).data(),
            ldx);
}

static void check_rest(int64_t samples, int64_t height, int64_t width) {
  const int64_t per = height * width, ld = padded(samples * per);
  const Floats x = random_floats(kRows * ld), gamma(kRows, 1.f), beta(kRows, 0.f);
  for (int64_t out : {1, 2, 7, 33}) {
    const int64_t ldy = padded(samples * out * out);
    Floats y(kRows * ldy);
    const sc::Adaptive a{samples, {1, height, width}, {1, out, out}};
    adaptive_pool(2, 0, kRows, &a, x.data(), ld, y.data(), y.data(), ldy);
    adaptive_pool(2, 1, kRows, &a, x.data(), ld, y.data(), y.data(), ldy);
    const sc::Resample r{samples, {1, height, width}, {1, out, out}, {0, 0, 1.5}};
    for (int64_t flag : {0, 1}) {
      nearest(2, kRows, &r, flag, x.data(), ld, y.data(), y.data(), ldy);
      bilinear(2, kRows, &r, flag, x.data(), ld, y.data(), y.data(), ldy);
    }
  }
  const sc::Resample twice{samples, {1, height, width}, {1, 2 * height, 2 * width}, {0, 0, 0}};
  const int64_t ld4 = padded(samples * per * 4);
  Floats large(kRows * ld4), y(kRows * ld);
  nearest(2, kRows, &twice, 0, x.data(), ld, nullptr, large.data(), ld4);
  bilinear(2, kRows, &twice, 0, x.data(), ld, nullptr, large.data(), ld4);
  for (int64_t fold : {0, 1, 2}) {
    columns(2, fold, kRows, samples, per, x.data(), ld, 1, y.data(), padded(samples));
    down(2, fold, 1, kRows, 1, samples * per, x.data(), ld, 1, y.data(), ld);
  }
  for (int64_t groups : {int64_t(1), kRows})
    group_norm(2, kRows, groups, samples, per, 1e-5f, x.data(), ld, gamma.data(), beta.data(),
               y.data(), ld);
}

int main() {
  const int64_t sizes[][3] = {{1, 1, 1},   {1, 7, 7}, {1, 1, 33},
                              {1, 16, 16}, {3, 5, 9}, {1, 20, 35}};
  const int64_t kernels[][3] = {{1, 1, 1}, {1, 3, 3}, {1, 1, 5},
                                {1, 7, 7}, {3, 3, 3}, {1, 9, 13}};
  for (const auto& size : sizes)
    for (int64_t samples : {1, 3}) {
      for (const auto& kernel : kernels) {
        for (int64_t stride : {1, 2, 3}) check_window(window(samples, size, kernel, stride, 1));
        check_window(window(samples, size, kernel, 1, 2));
      }
      check_rest(samples, size[0] * size[1], size[2]);
    }
  return 0;
}
