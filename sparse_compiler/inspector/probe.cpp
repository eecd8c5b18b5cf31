// The machine's two roofs, measured: fused multiply-adds per second and bytes read per second.
// argv: threads. Prints JSON. Twelve independent accumulators cover the latency of two FMA
// pipes (4 to 5 cycles each) and fit the sixteen registers of AVX2 beside the operands.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <numeric>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
#define WIDTH 64
#elif defined(__AVX__)
#define WIDTH 32
#else
#define WIDTH 16
#endif

typedef float vec __attribute__((vector_size(WIDTH)));
constexpr int lanes = WIDTH / sizeof(float);
constexpr int accumulators = 12;
using seconds = std::chrono::duration<double>;

static double now() { return seconds(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// (1 + e)(1 - e) - 1 is -e^2 when fused, and 0 when the product is rounded to float first.
static bool fuses(float one_plus, float one_minus, float minus_one) {
  vec a = vec{} + one_plus, b = vec{} + one_minus, c = vec{} + minus_one;
  vec d = a * b + c;
  return d[0] != 0.0f;
}

static float multiply_add(int64_t steps, float scale, float shift) {
  vec acc[accumulators], a = vec{} + scale, b = vec{} + shift;
  for (int i = 0; i < accumulators; ++i) acc[i] = vec{} + float(i);
  for (int64_t s = 0; s < steps; ++s) {
#pragma GCC unroll 12
    for (int i = 0; i < accumulators; ++i) acc[i] = acc[i] * a + b;
  }
  vec sum = vec{};
  for (int i = 0; i < accumulators; ++i) sum += acc[i];
  float total = 0;
  for (int l = 0; l < lanes; ++l) total += sum[l];
  return total;
}

static float read_all(const float* p, int64_t n) {
  vec acc[accumulators] = {};
  int64_t i = 0;
  for (; i + accumulators * lanes <= n; i += accumulators * lanes) {
#pragma GCC unroll 12
    for (int k = 0; k < accumulators; ++k) {
      vec v;
      std::memcpy(&v, p + i + k * lanes, sizeof v);
      acc[k] += v;
    }
  }
  float total = 0;
  for (int k = 0; k < accumulators; ++k)
    for (int l = 0; l < lanes; ++l) total += acc[k][l];
  return total;
}

struct Try {
  double wall;  // seconds, all threads at once
  double busy;  // share of it that the threads had a core, on average
};

static double thread_time() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

// The fastest of `tries` runs of work(thread) on all threads at once.
static Try best(int threads, int tries, const std::function<void(int)>& work) {
  Try least{1e30, 0};
  for (int t = 0; t < tries; ++t) {
    std::atomic<int> ready{0};
    std::atomic<bool> go{false};
    std::vector<double> spent(threads);
    std::vector<std::thread> team;
    for (int k = 0; k < threads; ++k)
      team.emplace_back([&, k] {
        ++ready;
        while (!go) std::this_thread::yield();
        double begin = thread_time();
        work(k);
        spent[k] = thread_time() - begin;
      });
    while (ready < threads) std::this_thread::yield();
    double start = now();
    go = true;
    for (auto& member : team) member.join();
    double wall = now() - start;
    double busy = std::accumulate(spent.begin(), spent.end(), 0.0) / (threads * wall);
    if (wall < least.wall) least = {wall, busy};
  }
  return least;
}

int main(int argc, char** argv) {
  int threads = argc > 1 ? std::max(1, std::atoi(argv[1])) : 1;
  volatile float e = 1.0f / 4096, one = 1.0f, sink = 0;
  bool fused = fuses(one + e, one - e, -one);

  const int64_t steps = 5000000;
  float scale = 0.5f * one, shift = 0.25f * one;
  Try sums = best(threads, 12, [&](int) { sink = multiply_add(steps, scale, shift); });
  double flops = 2.0 * threads * steps * accumulators * lanes / sums.wall;

  const int64_t each = (int64_t(256) << 20) / sizeof(float) / threads;
  std::vector<std::vector<float>> data(threads);
  for (auto& part : data) part.assign(each, 1.0f);
  Try reads = best(threads, 12, [&](int k) { sink = read_all(data[k].data(), each); });
  double bytes = double(threads) * each * sizeof(float) / reads.wall;
  const char* text = "{\"flops\": %.6g, \"bytes_per_s\": %.6g, \"fma\": %s, \"vector_bytes\": %d, "
                     "\"busy\": %.3g}\n";
  std::printf(text, flops, bytes, fused ? "true" : "false", WIDTH, std::min(sums.busy, reads.busy));
}
