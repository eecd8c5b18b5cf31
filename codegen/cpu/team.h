// SPMD threads: every kernel is called by all threads of a team, does its own static share and
// returns without waiting; the generated unit calls sync() between dependent steps.
#pragma once
#include <sched.h>

#include <atomic>
#include <cstdint>

#include "vec.h"

namespace sc {

SC_INLINE void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// A centralised sense-counting barrier (0.1 us on two cores; libgomp's takes 0.3 us, and 6 us under
// OMP_WAIT_POLICY=passive). It yields after a while, so an oversubscribed machine makes progress.
struct alignas(64) Barrier {
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<int> phase{0};
};

// Columns that every thread of `size` has, behind its own; `start` is the first of them in a whole
// sample. stride: floats from one thread's buffers to those of the next.
struct Rest {
  int id = 0, size = 1;
  int64_t columns = 0, start = 0, stride = 0;
};

struct Team {
  int id;
  int size;
  Barrier* barrier;
  int phase = 0;
  Rest rest = {};

  Team(int id, int size, Barrier* barrier, const Rest& rest = {})
      : id(id), size(size), barrier(barrier), rest(rest) {
    phase = barrier->phase.load(std::memory_order_relaxed);
  }

  void sync() {
    if (size == 1) return;
    const int next = phase + 1;
    if (barrier->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
      barrier->arrived.store(0, std::memory_order_relaxed);
      barrier->phase.store(next, std::memory_order_release);
    } else {
      for (int spins = 0; barrier->phase.load(std::memory_order_acquire) != next;) {
        cpu_relax();
        if (++spins > 2000) {
          sched_yield();
          spins = 0;
        }
      }
    }
    phase = next;
  }

  // This thread's part [first, last) of n equal items.
  SC_INLINE int64_t first(int64_t n) const { return n * id / size; }
  SC_INLINE int64_t last(int64_t n) const { return n * (id + 1) / size; }
};

}  // namespace sc
