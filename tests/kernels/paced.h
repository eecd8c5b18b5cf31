// Teams whose threads are taken to be unlike, for test_pace.py.
#pragma once
#include "team.h"

extern "C" {
float first_part = 0;  // of the first thread; the others share the rest alike. 0: all alike

// Enters `calls` calls in which thread i did work[i] in ticks[i]; part: what each has from then on,
// cut: where it begins.
void learn(int threads, int calls, const double* work, const double* ticks, float* part,
           double* cut) {
  sc::Pace pace{};
  for (int i = 0; i < calls; i++) {
    sc::PacedCall call(pace, threads);
    for (int t = 0; t < threads; t++) call.own[t].work = work[t], call.own[t].ticks = ticks[t];
    call.learn();
  }
  sc::PacedCall call(pace, threads);
  for (int t = 0; t < threads && t < sc::Pace::kThreads; t++) part[t] = pace.part[t];
  for (int t = 0; t <= threads; t++) {
    sc::Barrier barrier;
    sc::Team team(0, threads, &barrier);
    team.paced = &call;
    cut[t] = double(team.cut(t, threads, 1000000)) / 1e6;
  }
}
}

inline sc::Pace& unlike(sc::Pace& pace, int threads) {
  for (int i = 0; i < threads && first_part > 0; i++)
    pace.part[i] = i ? (1 - first_part) / float(threads - 1) : first_part;
  return pace;
}
