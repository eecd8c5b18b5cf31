// Times the vector kernels on two threads, best of many runs, in microseconds:
//   g++ -O3 -march=native -std=c++17 -ffp-contract=fast -fno-math-errno -fno-trapping-math -fopenmp
//       -DSC_WIDTH=16 -Icodegen/cpu -Itests/kernels benchmarks/kernels/vector.cpp -o vector
#include "vector_kernels.cpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

template <class F>
static double best(const F& f, int runs = 400) {
  double least = 1e30;
  for (int i = 0; i < runs; i++) {
    const auto start = std::chrono::steady_clock::now();
    f();
    const std::chrono::duration<double, std::micro> t = std::chrono::steady_clock::now() - start;
    least = std::min(least, t.count());
  }
  return least;
}

static float* random_plane(int64_t rows, int64_t ld) {
  float* x = (float*)aligned_alloc(4096, (rows * ld * 4 + 4095) / 4096 * 4096);
  for (int64_t i = 0; i < rows * ld; i++) x[i] = float(rand()) / float(RAND_MAX) * 4 - 2;
  return x;
}

// A plane's stride is an odd number of cache lines.
static int64_t plane_stride(int64_t n) { return ((n + 15) / 16 | 1) * 16; }

static void time_attention(int64_t h, int64_t d, int64_t s, bool causal) {
  const int64_t ld = plane_stride(s);
  sc::Attention a{};
  a.q = random_plane(h * d, ld), a.k = random_plane(h * d, ld), a.v = random_plane(h * d, ld);
  a.o = random_plane(h * d, ld);
  a.ldq = a.ldk = a.ldv = a.ldo = ld;
  a.q_head = a.k_head = a.v_head = a.o_head = d;
  a.q_feature = a.k_feature = a.v_feature = a.o_feature = 1;
  a.samples = a.group = 1, a.heads = h, a.sq = a.sk = s, a.d = a.dv = d;
  a.scale = 1 / std::sqrt(float(d)), a.causal = causal;
  std::vector<float> scratch[2];
  for (auto& x : scratch) x.resize(sc::attention_scratch_floats(a));
  const double t = best(
      [&] { on_team(2, [&](sc::Team& team) { sc::attention(team, a, scratch[team.id].data()); }); },
      s > 400 ? 60 : 400);
  printf("attention %lldx%lldx%lld%s %.1f us, %.0f GFLOP/s\n", (long long)h, (long long)d,
         (long long)s, causal ? " causal" : "", t, (causal ? 2 : 4) * 1e-3 * h * s * s * d / t);
}

static void time_planes(int64_t channels, int64_t n) {
  const int64_t ld = plane_stride(n);
  float *x = random_plane(channels, ld), *y = random_plane(channels, ld);
  float* z = random_plane(channels, ld);
  const std::vector<float> gamma(channels, 1.f), beta(channels, 0.f);
  printf("%lldx%lld:\n", (long long)channels, (long long)n);
#define TIME(NAME, CALL) printf("  %-16s %7.1f us\n", NAME, best([&] { CALL; }));
  TIME("rows_to_planes", rows_to_planes(2, x, channels, n, channels, y, ld))
  TIME("planes_to_rows", planes_to_rows(2, x, ld, n, channels, y, channels))
  TIME("layer_norm(x+r)",
       norm(2, 0, channels, n, 1e-5f, x, z, ld, gamma.data(), beta.data(), nullptr, y))
  TIME("  keeping x+r", norm(2, 0, channels, n, 1e-5f, x, z, ld, gamma.data(), beta.data(), y, y))
  TIME("rms_norm",
       norm(2, 1, channels, n, 1e-5f, x, nullptr, ld, gamma.data(), beta.data(), nullptr, y))
  TIME("softmax", softmax(2, 0, channels, n, x, ld, y))
#define TIME_MAP(NAME) TIME(#NAME, map_##NAME(2, x, y, channels, n, ld, 1, 20, 1))
  TIME_MAP(copy) TIME_MAP(relu) TIME_MAP(exp) TIME_MAP(log) TIME_MAP(erf) TIME_MAP(tanh)
  TIME_MAP(gelu) TIME_MAP(gelu_tanh) TIME_MAP(silu) TIME_MAP(sigmoid) TIME_MAP(hardswish)
  TIME_MAP(mish) TIME_MAP(softplus) TIME_MAP(elu) TIME_MAP(rsqrt) TIME_MAP(sin)
}

int main(int argc, char** argv) {
  for (int64_t s : {128, 197, 512, 1024}) time_attention(12, 64, s, false);
  time_attention(12, 32, 128, false);
  time_attention(12, 64, 1024, true);
  if (argc > 1 && !strcmp(argv[1], "attention")) return 0;
  time_planes(768, 128);
  time_planes(3072, 128);
}
