// The functions of ops/scalar.py on single elements, for buffers of any dtype: scalar::name<T>(...)
// computes in T, to which the arguments convert. Semantics are torch's: NaN propagates through
// extremes, integers wrap around, division rounds down, `remainder` has the divisor's sign. An
// integer divided by zero gives 0, where torch raises.
#pragma once
#include <cstdint>
#include <type_traits>

#include "half.h"

namespace sc {
namespace scalar {

#define SC_SCALAR template <class T> inline __attribute__((always_inline))

template <class T>
constexpr bool kFloating = std::is_floating_point_v<T>;
template <class T>
constexpr bool kHalf = std::is_same_v<T, F16> || std::is_same_v<T, Bf16>;
template <class T>
constexpr bool kDouble = std::is_same_v<T, double>;

// Integers are added and multiplied as unsigned ones, which may wrap; sums of booleans are "or".
SC_SCALAR T add(T a, T b) {
  if constexpr (kFloating<T> || std::is_same_v<T, bool>) return T(a + b);
  else return T(uint64_t(a) + uint64_t(b));
}
SC_SCALAR T sub(T a, T b) {
  if constexpr (kFloating<T> || std::is_same_v<T, bool>) return T(a - b);
  else return T(uint64_t(a) - uint64_t(b));
}
SC_SCALAR T mul(T a, T b) {
  if constexpr (kFloating<T> || std::is_same_v<T, bool>) return T(a * b);
  else return T(uint64_t(a) * uint64_t(b));
}
SC_SCALAR T neg(T a) {
  if constexpr (kFloating<T>) return -a;
  else return sub<T>(0, a);
}
SC_SCALAR T abs(T a) {
  if constexpr (kDouble<T>) return __builtin_fabs(a);
  else if constexpr (kFloating<T>) return __builtin_fabsf(a);
  else return a < 0 ? neg<T>(a) : a;
}
SC_SCALAR T sign(T a) { return T((a > 0) - (a < 0)); }
SC_SCALAR T maximum(T a, T b) { return (a != a) | (a > b) ? a : b; }
SC_SCALAR T minimum(T a, T b) { return (a != a) | (a < b) ? a : b; }
SC_SCALAR T clamp(T x, T low, T high) { return minimum<T>(maximum<T>(x, low), high); }

// ---- the C library's, by type -----------------------------------------------------------------
#define SC_LIBRARY(NAME, BUILTIN)                          \
  SC_SCALAR T NAME(T a) {                                  \
    if constexpr (kDouble<T>) return __builtin_##BUILTIN(a); \
    else return __builtin_##BUILTIN##f(a);                 \
  }
#define SC_ROUNDING(NAME, BUILTIN)                                \
  SC_SCALAR T NAME(T a) {                                         \
    if constexpr (!kFloating<T>) return a;                        \
    else if constexpr (kDouble<T>) return __builtin_##BUILTIN(a); \
    else return __builtin_##BUILTIN##f(a);                        \
  }
SC_ROUNDING(floor, floor)
SC_ROUNDING(ceil, ceil)
SC_ROUNDING(trunc, trunc)
SC_ROUNDING(round, rint)  // halves to even
SC_LIBRARY(exp, exp)
SC_LIBRARY(exp2, exp2)
SC_LIBRARY(expm1, expm1)
SC_LIBRARY(log, log)
SC_LIBRARY(log2, log2)
SC_LIBRARY(log1p, log1p)
SC_LIBRARY(erf, erf)
SC_LIBRARY(sin, sin)
SC_LIBRARY(cos, cos)
SC_LIBRARY(tanh, tanh)
SC_LIBRARY(sqrt, sqrt)
#undef SC_LIBRARY
#undef SC_ROUNDING
SC_SCALAR T rsqrt(T a) { return T(1) / sqrt<T>(a); }
SC_SCALAR T reciprocal(T a) { return T(1) / a; }
SC_SCALAR T div(T a, T b) { return a / b; }  // of floats: integers come as f32

// ---- divisions with a rest --------------------------------------------------------------------
SC_SCALAR T fmod(T a, T b) {
  if constexpr (kDouble<T>) return __builtin_fmod(a, b);
  else if constexpr (kFloating<T>) return __builtin_fmodf(a, b);
  else return b == 0 || b == T(-1) ? T(0) : T(a % b);  // the least integer over -1 would trap
}
SC_SCALAR T remainder(T a, T b) {
  const T rest = fmod<T>(a, b);
  return rest != 0 && (rest < 0) != (b < 0) ? T(rest + b) : rest;
}
// Of floats: from the exact rest, so that a / b rounded up to a whole number does not count.
SC_SCALAR T floor_div(T a, T b) {
  if constexpr (kFloating<T>) {
    if (b == 0) return a / b;
    const T rest = fmod<T>(a, b);
    T whole = (a - rest) / b;
    if (rest != 0 && (rest < 0) != (b < 0)) whole -= 1;
    if (whole == 0) return T(__builtin_copysign(0, a / b));
    const T down = floor<T>(whole);
    return whole - down > T(0.5) ? down + 1 : down;
  } else if constexpr (std::is_signed_v<T>) {
    if (b == 0) return 0;
    if (b == T(-1)) return neg<T>(a);
    return T(a / b - (a % b != 0 && (a < 0) != (b < 0)));
  } else {
    return b == 0 ? T(0) : T(a / b);
  }
}
// Halves are roots, as in torch where the exponent is a number: pow(-inf, 0.5) is NaN. Negative
// powers of integers are whole too.
SC_SCALAR T pow(T a, T b) {
  if constexpr (kFloating<T>) {
    if (b == T(0.5)) return sqrt<T>(a);
    if (b == T(-0.5)) return rsqrt<T>(a);
    if constexpr (kDouble<T>) return __builtin_pow(a, b);
    else return __builtin_powf(a, b);
  } else {
    if (b < 0) {
      const T odd = b % 2 != 0 ? a : T(1);
      return a == 1 || a == T(-1) ? odd : T(0);
    }
    uint64_t base = uint64_t(a), result = 1;
    for (uint64_t n = uint64_t(b); n; n >>= 1, base *= base)
      if (n & 1) result *= base;
    return T(result);
  }
}

// ---- activations ------------------------------------------------------------------------------
SC_SCALAR T relu(T x) { return x < 0 ? T(0) : x; }
SC_SCALAR T sigmoid(T x) { return T(1) / (T(1) + exp<T>(-x)); }
SC_SCALAR T silu(T x) { return x / (T(1) + exp<T>(-x)); }
SC_SCALAR T gelu(T x) { return T(0.5) * x * (T(1) + erf<T>(x * T(0.70710678118654752))); }
SC_SCALAR T gelu_tanh(T x) {
  const T inner = T(0.79788456080286536) * (x + T(0.044715) * x * x * x);
  return T(0.5) * x * (T(1) + tanh<T>(inner));
}
SC_SCALAR T leaky_relu(T x, T slope) { return x > 0 ? x : x * slope; }
SC_SCALAR T elu(T x, T alpha) { return x <= 0 ? expm1<T>(x) * alpha : x; }
SC_SCALAR T hardsigmoid(T x) { return clamp<T>(x + 3, 0, 6) / 6; }
SC_SCALAR T hardswish(T x) { return x * clamp<T>(x + 3, 0, 6) / 6; }
SC_SCALAR T softplus(T x) { return x > T(20) ? x : log1p<T>(exp<T>(x)); }
SC_SCALAR T mish(T x) { return x * tanh<T>(log1p<T>(exp<T>(x))); }

// ---- tests and choices ------------------------------------------------------------------------
SC_SCALAR bool eq(T a, T b) { return a == b; }
SC_SCALAR bool ne(T a, T b) { return a != b; }
SC_SCALAR bool lt(T a, T b) { return a < b; }
SC_SCALAR bool le(T a, T b) { return a <= b; }
SC_SCALAR bool gt(T a, T b) { return a > b; }
SC_SCALAR bool ge(T a, T b) { return a >= b; }
SC_SCALAR bool isnan(T a) { return a != a; }
SC_SCALAR bool isinf(T a) {
  if constexpr (kFloating<T>) return abs<T>(a) == T(__builtin_inf());
  else return false;
}
SC_SCALAR bool logical_and(T a, T b) { return (a != 0) & (b != 0); }
SC_SCALAR bool logical_or(T a, T b) { return (a != 0) | (b != 0); }
SC_SCALAR bool logical_xor(T a, T b) { return (a != 0) != (b != 0); }
SC_SCALAR bool logical_not(T a) { return a == 0; }
SC_SCALAR T where(bool condition, T a, T b) { return condition ? a : b; }

// ---- bits -------------------------------------------------------------------------------------
SC_SCALAR T bitwise_and(T a, T b) { return T(a & b); }
SC_SCALAR T bitwise_or(T a, T b) { return T(a | b); }
SC_SCALAR T bitwise_xor(T a, T b) { return T(a ^ b); }
SC_SCALAR T bitwise_not(T a) {
  if constexpr (std::is_same_v<T, bool>) return !a;
  else return T(~a);
}
// Shifts by as many bits as there are, or more, or fewer than none, push everything out.
SC_SCALAR T shift_left(T a, T b) {
  return uint64_t(b) >= sizeof(T) * 8 ? T(0) : T(uint64_t(a) << uint64_t(b));
}
SC_SCALAR T shift_right(T a, T b) {
  return T(a >> (uint64_t(b) >= sizeof(T) * 8 ? sizeof(T) * 8 - 1 : uint64_t(b)));
}

// Fractions are cut off; what a number is not false is true.
template <class T, class X>
inline __attribute__((always_inline)) T to(X x) {
  if constexpr (kHalf<X> && !std::is_same_v<T, X>) {
    return to<T>(widened(x));
  } else if constexpr (kHalf<T> && !std::is_same_v<T, X>) {
    T half;
    narrow(to<float>(x), half);
    return half;
  } else if constexpr (std::is_same_v<T, bool>) {
    return x != X(0);
  } else {
    return T(x);
  }
}

#undef SC_SCALAR

}  // namespace scalar
}  // namespace sc
