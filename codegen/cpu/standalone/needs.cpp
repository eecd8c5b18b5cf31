// Built with the kernels' own flags, unlike the functions that ask the CPU: so it holds no code.
#include <cstdint>

#include "extensions.h"

namespace sc::standalone {

namespace {
enum Place {
#define SC_PLACE(MACRO, name) kPlace##MACRO,
  SC_FEATURES(SC_PLACE)
#undef SC_PLACE
  kPlaces
};
static_assert(kPlaces <= 64, "one bit each");

// An undefined macro stays its own name, a defined one becomes 1.
#define SC_TEXT_OF(x) #x
#define SC_TEXT(x) SC_TEXT_OF(x)
#define SC_BIT(MACRO, name) (SC_TEXT(__##MACRO##__)[0] == '1' ? uint64_t(1) << kPlace##MACRO : 0) |
constexpr uint64_t kBits = SC_FEATURES(SC_BIT) 0;
#undef SC_BIT
}  // namespace

extern const uint64_t kNeeded;
const uint64_t kNeeded = kBits;

}  // namespace sc::standalone
