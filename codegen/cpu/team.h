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

// A count that rises with time, alike on all cores; 0 where there is none that is as cheap to read.
SC_INLINE uint64_t ticks() {
#if defined(__x86_64__)
  return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
  uint64_t now;
  asm volatile("mrs %0, cntvct_el0" : "=r"(now));
  return now;
#else
  return 0;
#endif
}

// What each thread has done of late, across calls, and so its part of what is to be done. Cores are
// not alike (efficiency cores, what else runs on a core, a virtual machine's neighbours), and a step
// takes as long as its slowest thread: of two cores that did 64 and 92 GFLOP/s for seconds, the
// faster waited for a quarter of the time.
struct Pace {
  static constexpr int kThreads = 64;
  std::atomic<float> part[kThreads];  // of the whole; 0: not known
};

// One call's view of it. Nobody changes `cut` while it runs, so all threads cut alike.
struct PacedCall {
  struct alignas(64) Own {
    double work = 0;  // in any unit that is alike for all threads
    uint64_t ticks = 0;
  };
  Pace& pace;
  const int size;
  const bool used;  // whether there is something to share, and room to remember it
  bool even = true;
  double cut[Pace::kThreads + 1];  // where the part of each thread begins, in [0, 1]
  Own own[Pace::kThreads];

  PacedCall(Pace& pace, int size)
      : pace(pace), size(size), used(size > 1 && size <= Pace::kThreads) {
    if (!used) return;
    double sum = 0;
    for (int i = 0; i < size; i++) {
      const float part = pace.part[i].load(std::memory_order_relaxed);
      cut[i] = sum, sum += part > 0 ? part : 1. / size;
      // What differs less is chance, and who has what in its cache should not change for that.
      even &= part == 0 || (part * float(size) > .97f && part * float(size) < 1.03f);
    }
    for (int i = 1; i < size; i++) cut[i] /= sum;
    cut[0] = 0, cut[size] = 1;
  }

  // After the call: what it tells, a fifth of what is known from then on.
  void learn() const {
    if (!used) return;
    double all = 0;
    for (int i = 0; i < size; i++) {
      if (own[i].work <= 0 || own[i].ticks < 20000) return;
      all += own[i].work / double(own[i].ticks);
    }
    for (int i = 0; i < size; i++) {
      const double speed = own[i].work / double(own[i].ticks) / all * size;
      const double part = (speed < .5 ? .5 : speed > 2 ? 2 : speed) / size;
      const float old = pace.part[i].load(std::memory_order_relaxed);
      const double next = old > 0 ? old + .2 * (part - old) : part;
      pace.part[i].store(float(next), std::memory_order_relaxed);
    }
  }
};

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
  PacedCall* paced = nullptr;  // null: all threads are taken to be alike

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

  // Where part i of `parts` of n items begins; by what threads have done of late, if each has one:
  // for kernels whose results do not depend on it, so that a model's do not change from call to call.
  SC_INLINE int64_t cut(int64_t i, int64_t parts, int64_t n) const {
    if (parts != size || !paced || paced->even) return n * i / parts;
    return int64_t(paced->cut[i] * double(n) + .5);
  }
  SC_INLINE int64_t cut_first(int64_t n) const { return cut(id, size, n); }
  SC_INLINE int64_t cut_last(int64_t n) const { return cut(id + 1, size, n); }
};

// While it lives, this thread does its part of a step: so much work.
struct Stint {
  PacedCall::Own* own;
  uint64_t began;

  Stint(const Team& team, double work) : own(team.paced ? &team.paced->own[team.id] : nullptr) {
    if (own) own->work += work, began = ticks();
  }
  ~Stint() {
    if (own) own->ticks += ticks() - began;
  }
  Stint(const Stint&) = delete;
};

}  // namespace sc
