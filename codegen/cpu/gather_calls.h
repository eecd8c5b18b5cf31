// Indexing as generated code calls it: the indices in one aggregate.
#pragma once
#include "gather.h"

namespace sc {

template <class I, int R, int K>
struct Indices {
  Index<I, R> at[K];
};

template <class T, class I, int R, int K>
void index_at(Team& team, const Box<R>& box, At<T, R> to, At<const T, R> from,
              const Indices<I, R, K>& indices, bool wrap, int64_t* error) {
  index<T, I, R, K>(team, box, to, from, indices.at, wrap, error);
}

}  // namespace sc
