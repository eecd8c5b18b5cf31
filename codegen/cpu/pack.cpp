// The library of packers: every format's, in one unit. Stands alone: no vector width.
#include "pack_bitmap.cpp"
#include "pack_block.cpp"
#include "pack_compact.cpp"
#include "pack_csr.cpp"
#include "pack_dense.cpp"
#include "pack_nm.cpp"
#include "pack_split.cpp"

int64_t sc_linear_scratch_floats(const void* packed, int width) {
  return sc::applied_floats(static_cast<const sc::PackedHeader*>(packed), width);
}
