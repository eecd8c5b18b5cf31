// Times the kernels on images beside convolution on two threads, best of many runs, in ms:
//   g++ -O3 -march=native -std=c++17 -ffp-contract=fast -fno-math-errno -fno-trapping-math -fopenmp
//       -DSC_WIDTH=16 -Icodegen/cpu -Itests/kernels benchmarks/kernels/image.cpp -o image
// Each call is a parallel region (some 3 us), as a call inside a segment is not.
#include "image_kernels.cpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

template <class F>
static double best(const F& f, int runs = 300) {
  double least = 1e30;
  for (int i = 0; i < runs; i++) {
    const auto start = std::chrono::steady_clock::now();
    f();
    const std::chrono::duration<double, std::milli> t = std::chrono::steady_clock::now() - start;
    least = std::min(least, t.count());
  }
  return least;
}

static int64_t stride_of(int64_t n) { return ((n + 15) / 16 | 1) * 16; }

static float* random_plane(int64_t rows, int64_t ld) {
  float* x = (float*)aligned_alloc(4096, (rows * ld * 4 + 4095) / 4096 * 4096);
  for (int64_t i = 0; i < rows * ld; i++) x[i] = float(rand()) / float(RAND_MAX) - 0.5f;
  return x;
}

static sc::Window window(int64_t samples, int64_t size, int64_t kernel, int64_t stride,
                         int64_t pad) {
  const int64_t out = (size + 2 * pad - kernel) / stride + 1;
  return {samples,        {1, size, size}, {1, out, out}, {1, kernel, kernel}, {1, stride, stride},
          {1, 1, 1}, {0, pad, pad},   false};
}

struct Planes {
  float *x, *y;
  int64_t ldx, ldy;
  Planes(int64_t rows, int64_t in, int64_t out) : ldx(stride_of(in)), ldy(stride_of(out)) {
    x = random_plane(rows, ldx), y = random_plane(rows, ldy);
  }
  ~Planes() { free(x), free(y); }
};

static void report(const char* name, int64_t rows, const sc::Window& w, double t) {
  const double bytes = 4e-6 * double(rows) * double(w.in_columns() + w.out_columns());
  const double flops = 2e-6 * double(rows) * double(w.out_columns() * w.taps());
  printf("%-10s %5lld ch %3lld^2 -> %3lld^2 k%lld s%lld  %.4f ms %6.1f GFLOP/s %6.1f GB/s\n", name,
         (long long)rows, (long long)w.in[2], (long long)w.out[2], (long long)w.kernel[2],
         (long long)w.stride[2], t, flops / t, bytes / t);
}

static double time_depthwise(int64_t channels, int64_t size, int64_t kernel, int64_t stride) {
  const sc::Window w = window(1, size, kernel, stride, kernel / 2);
  const Planes p(channels, w.in_columns(), w.out_columns());
  float* weight = random_plane(channels, w.taps());
  const Scratch scratch(2, sc::depthwise_direct_scratch_floats(w));
  const auto relu6 = [](V v, int64_t, int64_t) { return sc::relu6(v); };
  const auto run = [&](auto k, auto s) {
    return best([&] {
      on_team(2, [&](sc::Team& team) {
        sc::depthwise_direct<k, s>(team, weight, channels, 1, w, p.x, p.ldx, p.y, p.ldy,
                                   scratch(team), relu6);
      });
    });
  };
  const auto of_height = [&](auto k) {
    return stride == 1 ? run(k, std::integral_constant<int, 1>())
                       : run(k, std::integral_constant<int, 2>());
  };
  const double t = kernel == 3   ? of_height(std::integral_constant<int, 3>())
                   : kernel == 5 ? of_height(std::integral_constant<int, 5>())
                                 : of_height(std::integral_constant<int, 7>());
  report("depthwise", channels, w, t);
  free(weight);
  return t;
}

static void time_pool(bool top, int64_t channels, int64_t size, int64_t kernel, int64_t stride) {
  const sc::Window w = window(1, size, kernel, stride, kernel / 2);
  const Planes p(channels, w.in_columns(), w.out_columns());
  report(top ? "max_pool" : "avg_pool", channels, w, best([&] {
           if (top) {
             max_pool(2, channels, &w, p.x, p.ldx, nullptr, p.y, p.ldy);
           } else {
             avg_pool(2, channels, &w, p.x, p.ldx, nullptr, p.y, p.ldy, 1, 0);
           }
         }));
}

static void time_rest() {
  {
    const Planes p(2048, 49, 1);
    const sc::Adaptive a{1, {1, 7, 7}, {1, 1, 1}};
    printf("global average pool 2048 x 7^2   %.4f ms\n", best([&] {
             adaptive_pool(2, 1, 2048, &a, p.x, p.ldx, nullptr, p.y, p.ldy);
           }));
  }
  for (int64_t size : {28, 56}) {
    const Planes p(128, size * size, 4 * size * size);
    const sc::Resample r{1, {1, size, size}, {1, 2 * size, 2 * size}, {0, 0, 0}};
    printf("upsample 128 x %lld^2 twice: nearest %.4f ms, bilinear %.4f ms\n", (long long)size,
           best([&] { nearest(2, 128, &r, 0, p.x, p.ldx, nullptr, p.y, p.ldy); }),
           best([&] { bilinear(2, 128, &r, 0, p.x, p.ldx, nullptr, p.y, p.ldy); }));
  }
  for (int64_t groups : {32, 256, 1}) {
    const Planes p(256, 56 * 56, 56 * 56);
    const std::vector<float> gamma(256, 1.f), beta(256, 0.f);
    printf("group norm %lld of 256 x 56^2   %.4f ms\n", (long long)groups, best([&] {
             group_norm(2, 256, groups, 1, 56 * 56, 1e-5f, p.x, p.ldx, gamma.data(), beta.data(),
                        p.y, p.ldy);
           }));
  }
  const Planes p(768, 197, 1), q(768, 197, 197);
  printf("sum of 768 x 197 across %.4f ms, down %.4f ms\n",
         best([&] { columns(2, 0, 768, 1, 197, p.x, p.ldx, 1, p.y, p.ldy); }),
         best([&] { down(2, 0, 1, 768, 1, 197, q.x, q.ldx, 1, q.y, q.ldy); }));
}

int main(int argc, char** argv) {
  const int64_t mobilenet[9][4] = {{32, 112, 1, 1}, {64, 112, 2, 1},  {128, 56, 1, 1},
                                   {128, 56, 2, 1}, {256, 28, 1, 1},  {256, 28, 2, 1},
                                   {512, 14, 1, 5}, {512, 14, 2, 1}, {1024, 7, 1, 1}};
  double total = 0;
  for (const auto& [channels, size, stride, times] : mobilenet)
    total += double(times) * time_depthwise(channels, size, 3, stride);
  printf("MobileNetV1's 13 depthwise layers: %.3f ms\n", total);
  const int64_t others[][4] = {{144, 56, 5, 2}, {240, 28, 5, 1}, {480, 14, 5, 1}, {672, 14, 5, 1},
                               {672, 14, 5, 2}, {1152, 7, 5, 1}, {96, 56, 7, 1},  {192, 28, 7, 1},
                               {384, 14, 7, 1}, {768, 7, 7, 1}};
  for (const auto& [channels, size, kernel, stride] : others)
    time_depthwise(channels, size, kernel, stride);
  if (argc > 1 && !strcmp(argv[1], "depthwise")) return 0;
  time_pool(true, 64, 112, 3, 2);
  time_pool(true, 256, 20, 13, 1);
  time_pool(false, 256, 28, 3, 1);
  time_rest();
}
