// Micro benchmark of the linear kernels on planes: every format on a weight that suits it.
//   linear M K n density [layers] [format k_tile panel_vectors row_block]
// `layers` distinct weights are run one after the other, as in a model: with enough of them (64 MB)
// the weights come from memory; with 1 they stay in cache. Prints ms a layer, best and median.
// Build (flags of the product; the library of packers is compiled in):
//   g++ -O3 -march=native -std=c++17 -ffp-contract=fast -fno-math-errno -fno-trapping-math -fopenmp
//       -DSC_WIDTH=16 -Icodegen/cpu benchmarks/kernels/linear.cpp codegen/cpu/pack.cpp
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "any_format.h"

using namespace sc;

struct Bias {
  const float* bias;
  SC_INLINE V operator()(V sum, int64_t row, int64_t) const { return sum + splat(bias[row]); }
};

static float* floats(int64_t n) {
  auto* p = static_cast<float*>(aligned_alloc(64, (n * 4 + 127) / 64 * 64));
  std::memset(p, 0, n * 4);
  return p;
}

struct Setting {
  int64_t M, K, n;
  int layers, threads;
};

// Of blocks of p x q (1 x 1 for csr, bitmap, dense) or with p of q; `density` of it.
static std::vector<float> weight_for(const Setting& s, const AnyFormat& f, double density) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(0, 1);
  std::vector<float> w(s.M * s.K);
  const bool nm = f.bytes == sc_nm_bytes;
  const int64_t rows = nm || !f.p ? 1 : f.p, columns = f.q ? f.q : 1;
  for (int64_t m = 0; m < s.M; m += rows)
    for (int64_t k = 0; k < s.K; k += columns) {
      const bool live = uniform(random) < density;
      const int64_t skip = nm ? int64_t(random() % columns) : 0;
      for (int64_t r = m; r < std::min(s.M, m + rows); r++)
        for (int64_t i = 0; i < std::min(columns, s.K - k); i++) {
          const bool here = nm ? (i + skip) % columns < f.p : live;
          if (here) w[r * s.K + k + i] = uniform(random) - .5f;
        }
    }
  return w;
}

static void time_format(const Setting& s, const AnyFormat& f, const std::vector<float>& weight,
                        const Tiles& tiles) {
  const int64_t ld = ((s.n + 15) / 16 | 1) * 16;
  const Matrix matrix{weight.data(), s.M, s.K, s.K, 1};
  std::vector<void*> blobs;
  for (int l = 0; l < s.layers; l++) {
    blobs.push_back(aligned_alloc(64, f.bytes(&matrix, &tiles)));
    f.pack(&matrix, &tiles, blobs[l]);
  }
  float *x = floats(s.K * ld), *y = floats(s.M * ld), *bias = floats(s.M);
  for (int64_t i = 0; i < s.K * ld; i++) x[i] = float(i * 7919 % 1000) / 500 - 1;
  std::vector<float*> scratch;
  for (int t = 0; t < s.threads; t++) scratch.push_back(floats(linear_scratch_floats(blobs[0])));
  Barrier barrier;
  const auto run = [&] {
#pragma omp parallel num_threads(s.threads)
    {
      Team team(omp_get_thread_num(), s.threads, &barrier);
      for (void* blob : blobs) {
        linear_any(team, blob, x, ld, y, ld, s.n, scratch[team.id], Bias{bias});
        team.sync();
      }
    }
  };
  std::vector<double> times;
  const auto begin = std::chrono::steady_clock::now();
  const auto seconds = [](auto from) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count();
  };
  while (times.size() < 7 || (seconds(begin) < 0.3 && times.size() < 200)) {
    const auto start = std::chrono::steady_clock::now();
    run();
    times.push_back(seconds(start) / s.layers * 1e3);
  }
  std::sort(times.begin(), times.end());
  int64_t nnz = 0;
  for (float w : weight) nnz += w != 0;
  std::printf("%-10s k_tile %4d panel %2d rows %3d  best %.4f median %.4f ms  %.1f GFLOP/s\n",
              f.name, tiles.k_tile, tiles.panel_vectors, tiles.row_block, times[0],
              times[times.size() / 2], 2 * double(nnz) * double(s.n) / times[0] / 1e6);
  for (void* blob : blobs) std::free(blob);
  for (float* p : scratch) std::free(p);
  std::free(x), std::free(y), std::free(bias);
}

int main(int argc, char** argv) {
  if (argc < 5) return std::fprintf(stderr, "linear M K n density [layers] [format tiles]\n"), 2;
  const double density = std::atof(argv[4]);
  const Setting s{std::atoi(argv[1]), std::atoi(argv[2]), std::atoi(argv[3]),
                  argc > 5 ? std::atoi(argv[5]) : 1, omp_get_max_threads()};
  for (const AnyFormat& f : kAnyFormat) {
    if (argc > 6 && std::string(argv[6]) != f.name) continue;
    const auto weight = weight_for(s, f, density);
    int64_t nnz = 0;
    for (float w : weight) nnz += w != 0;
    const Layer layer{s.M, s.K, nnz, s.n, 0, W, 0};
    Tiles tiles{0, 0, 0, f.p, f.q, kF32};
    f.tiles(&layer, &tiles);
    int32_t* forced[] = {&tiles.k_tile, &tiles.panel_vectors, &tiles.row_block};
    for (int i = 0; i < 3 && argc > 7 + i; i++)
      if (std::atoi(argv[7 + i])) *forced[i] = std::atoi(argv[7 + i]);
    time_format(s, f, weight, tiles);
  }
}
