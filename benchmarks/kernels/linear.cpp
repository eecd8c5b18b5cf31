// Micro benchmark of the linear kernels on planes, csr against our own dense.
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

#include "linear.h"

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

static void time_format(const Setting& s, bool csr, const std::vector<float>& weight, int k_tile,
                        int panel_vectors, int row_block) {
  const int64_t ld = ((s.n + 15) / 16 | 1) * 16;
  std::vector<void*> blobs;
  for (int l = 0; l < s.layers; l++) {
    const int64_t bytes =
        csr ? sc_csr_packed_bytes(weight.data(), s.M, s.K, s.K, k_tile, panel_vectors, row_block)
            : sc_dense_packed_bytes(nullptr, s.M, s.K, s.K, k_tile, panel_vectors,
                                    row_block);
    blobs.push_back(aligned_alloc(64, bytes));
    csr ? sc_csr_pack(weight.data(), s.M, s.K, s.K, k_tile, panel_vectors, row_block, blobs[l])
        : sc_dense_pack(weight.data(), s.M, s.K, s.K, k_tile, panel_vectors, row_block, blobs[l]);
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
        if (csr) linear_csr(team, blob, x, ld, y, ld, s.n, scratch[team.id], Bias{bias});
        else linear_dense(team, blob, x, ld, y, ld, s.n, scratch[team.id], Bias{bias});
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
  const double nnz = double(static_cast<PackedHeader*>(blobs[0])->nnz);
  std::printf("%-5s k_tile %4d panel %2d rows %3d  best %.4f median %.4f ms  %.1f GFLOP/s\n",
              csr ? "csr" : "dense", k_tile, panel_vectors, row_block, times[0],
              times[times.size() / 2], 2 * nnz * s.n / times[0] / 1e6);
  for (void* blob : blobs) std::free(blob);
  for (float* p : scratch) std::free(p);
  std::free(x), std::free(y), std::free(bias);
}

int main(int argc, char** argv) {
  if (argc < 5) return std::fprintf(stderr, "linear M K n density [layers] [format tiles]\n"), 2;
  const double density = std::atof(argv[4]);
  const Setting s{std::atoi(argv[1]), std::atoi(argv[2]), std::atoi(argv[3]),
                  argc > 5 ? std::atoi(argv[5]) : 1, omp_get_max_threads()};
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(0, 1);
  std::vector<float> weight(s.M * s.K);
  int64_t nnz = 0;
  for (float& w : weight) w = uniform(random) < density ? uniform(random) - .5f : 0;
  for (float w : weight) nnz += w != 0;
  int tiles[3];
  for (bool csr : {true, false}) {
    if (argc > 6 && (std::string(argv[6]) == "csr") != csr) continue;
    if (csr) sc_csr_default_tiles(s.M, s.K, nnz, s.n, W, tiles, tiles + 1, tiles + 2);
    else sc_dense_default_tiles(s.M, s.K, 0, 0, W, tiles, tiles + 1, tiles + 2);
    for (int i = 0; i < 3 && argc > 7 + i; i++) tiles[i] = std::atoi(argv[7 + i]);
    time_format(s, csr, weight, tiles[0], tiles[1], tiles[2]);
  }
}
