// The library of packers: every format's, in one unit. Stands alone: no vector width.
#include "pack_bitmap.cpp"
#include "pack_block.cpp"
#include "pack_csr.cpp"
#include "pack_dense.cpp"
#include "pack_nm.cpp"

int64_t sc_linear_scratch_floats(const void* packed, int width) {
  const auto* h = static_cast<const sc::PackedHeader*>(packed);
  return sc::group_vectors(h, width) * std::min<int64_t>(h->k_tile, h->cols) * width +
         sc::own_floats(h);
}
