// y = epilogue(W x), W the sum of two weights (split blob), x and y planar: two applications, the
// second of which adds to the sums that the first has left in y. Their row blocks are the same.
#pragma once
#include "linear_compact.h"
#include "linear_nm.h"

namespace sc {

struct NoEpilogue {
  SC_INLINE V operator()(V sum, int64_t, int64_t) const { return sum; }
};

// One thread's share. groups: whether the first part is N:M.
template <bool groups, class T = float, class Source, class Epilogue>
SC_INLINE void apply_split(const PackedHeader* h, const Share& share, const Source& source,
                           float* y, int64_t ldy, float* scratch, const Epilogue& epilogue) {
  Share part = share;
  part.copied = 0;  // by the other part, in panels of another width
  part.opens = share.first<Epilogue>(0), part.closes = false;
  const auto* first = section<PackedHeader>(h, h->index_at);
  if constexpr (groups) apply_nm<T>(first, part, source, y, ldy, scratch, NoEpilogue());
  else apply_compact<T>(first, part, source, y, ldy, scratch, NoEpilogue());
  part.opens = false, part.closes = true;
  apply_csr<T>(section<PackedHeader>(h, h->value_at), part, source, y, ldy, scratch, epilogue);
}

// As linear_csr.
template <bool groups, class T = float, class Epilogue>
void linear_split(Team& team, const void* packed_weight, const float* x, int64_t ldx, float* y,
                  int64_t ldy, int64_t n, float* scratch, const Epilogue& epilogue) {
  if (is_decode(packed_weight))
    return decode_planes(team, packed_weight, x, ldx, y, ldy, n, scratch, epilogue);
  const auto* h = static_cast<const PackedHeader*>(packed_weight);
  for_each_share(team, h, n, y, ldy, [&](const Share& share) {
    apply_split<groups, T>(h, share, PlainRows{x, ldx}, y, ldy, scratch, epilogue);
  });
}

}  // namespace sc
