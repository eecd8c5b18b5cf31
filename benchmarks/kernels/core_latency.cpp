// Latency between two cores: a number passed to and fro. g++ -O2 -pthread core_latency.cpp
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <thread>

static void pin(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

alignas(64) static std::atomic<int> turn{0};

static void pass(int first, int rounds) {
  for (int i = 0; i < rounds; i++) {
    while (turn.load(std::memory_order_acquire) != 2 * i + first) {
    }
    turn.store(2 * i + first + 1, std::memory_order_release);
  }
}

int main() {
  constexpr int rounds = 2000000;
  for (int run = 0; run < 5; run++) {
    turn = 0;
    std::thread other([] {
      pin(1);
      pass(1, rounds);
    });
    pin(0);
    const auto began = std::chrono::steady_clock::now();
    pass(0, rounds);
    other.join();
    const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - began;
    std::printf("%.1f ns one way\n", spent.count() / rounds / 2);
  }
}
