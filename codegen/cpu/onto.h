// Epilogues that have the sums begin with what y holds: y = epilogue(y + W x). A kernel keeps its sums
// in y between tiles of W, so what is added to them may lie there from the start, and cost no memory
// of its own.
#pragma once
#include <type_traits>

namespace sc {

template <class Epilogue, class = void>
constexpr bool kOnto = false;
template <class Epilogue>
constexpr bool kOnto<Epilogue, std::enable_if_t<Epilogue::onto>> = true;

}  // namespace sc
