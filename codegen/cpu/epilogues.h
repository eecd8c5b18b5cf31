// Epilogues that need no generated code.
#pragma once
#include "vec.h"

namespace sc {

struct Same {
  SC_INLINE V operator()(V x, int64_t, int64_t) const { return x; }
};
struct Divided {  // of a sum: the mean of n
  int64_t n;
  SC_INLINE V operator()(V x, int64_t, int64_t) const { return x / splat(float(n)); }
};

}  // namespace sc
