// Elementwise functions on vectors. Unless a line says otherwise the relative error is below 4e-7,
// NaN propagates and infinities give the limits; results below 1.2e-38 may lose their precision.
// Method: argument reduction, then minimax polynomials or rationals (fitted by Lawson's algorithm).
// Needs strict arithmetic: never compile this with -ffast-math.
#pragma once
#include "scalar.h"
#include "vec.h"

namespace sc {

constexpr float kInfinity = __builtin_inff();

// The lanes of f(x); GCC turns roots and roundings into the vector instruction.
template <class F>
SC_INLINE V each_lane(V x, const F& f) {
  V r = x;
  for (int i = 0; i < W; i++) r[i] = f(x[i]);
  return r;
}
template <class F>
SC_INLINE V each_lane(V x, V y, const F& f) {
  V r = x;
  for (int i = 0; i < W; i++) r[i] = f(x[i], y[i]);
  return r;
}
SC_INLINE bool any(VI mask) {
  int32_t r = 0;
  for (int i = 0; i < W; i++) r |= mask[i];
  return r != 0;
}
SC_INLINE V truth(VI mask) { return select(mask, splat(1.f), splat(0.f)); }
SC_INLINE VI select(VI mask, VI a, VI b) { return mask ? a : b; }
SC_INLINE VI isnan(V x) { return x != x; }
SC_INLINE VI bits(V x) { return (VI)x; }
SC_INLINE V from_bits(VI i) { return (V)i; }

// c[0] + c[1] x + c[2] x^2 + ...
template <int N>
SC_INLINE V polynomial(V x, const float (&c)[N]) {
  V r = splat(c[N - 1]);
#pragma GCC unroll 16
  for (int i = N - 2; i >= 0; i--) r = r * x + splat(c[i]);
  return r;
}

// ---- exact ones -----------------------------------------------------------------------------
SC_INLINE V abs(V x) { return from_bits(bits(x) & splat_int(0x7fffffff)); }
SC_INLINE V neg(V x) { return -x; }
SC_INLINE V copysign(V magnitude, V sign) {
  return from_bits((bits(magnitude) & splat_int(0x7fffffff)) |
                   (bits(sign) & splat_int(int32_t(0x80000000u))));
}
// One instruction; a NaN in b stays, a NaN in a gives b.
SC_INLINE V max_right(V a, V b) { return a > b ? a : b; }
SC_INLINE V min_right(V a, V b) { return a < b ? a : b; }
// As torch.maximum and torch.minimum: a NaN on either side gives NaN.
SC_INLINE V max(V a, V b) { return select(a != a, a, max_right(a, b)); }
SC_INLINE V min(V a, V b) { return select(a != a, a, min_right(a, b)); }
SC_INLINE V clamp(V x, float lo, float hi) { return min_right(splat(hi), max_right(splat(lo), x)); }
SC_INLINE V clamp(V x, V lo, V hi) { return min(max(x, lo), hi); }
SC_INLINE VI isinf(V x) { return abs(x) == splat(kInfinity); }
// As in torch, 0 for NaN.
SC_INLINE V sign(V x) { return truth(x > splat(0.f)) - truth(x < splat(0.f)); }
SC_INLINE V fmod(V x, V y) { return each_lane(x, y, scalar::fmod<float>); }
SC_INLINE V remainder(V x, V y) { return each_lane(x, y, scalar::remainder<float>); }
SC_INLINE V floor_div(V x, V y) { return each_lane(x, y, scalar::floor_div<float>); }
SC_INLINE V relu(V x) { return max_right(splat(0.f), x); }
SC_INLINE V relu6(V x) { return clamp(x, 0.f, 6.f); }
SC_INLINE V hardtanh(V x, float lo, float hi) { return clamp(x, lo, hi); }
SC_INLINE V leaky_relu(V x, float slope) { return select(x > splat(0.f), x, x * splat(slope)); }
SC_INLINE V sqrt(V x) {
  return each_lane(x, [](float f) { return __builtin_sqrtf(f); });
}
SC_INLINE V rsqrt(V x) { return splat(1.f) / sqrt(x); }
SC_INLINE V reciprocal(V x) { return splat(1.f) / x; }
SC_INLINE V floor(V x) {
  return each_lane(x, [](float f) { return __builtin_floorf(f); });
}
SC_INLINE V ceil(V x) {
  return each_lane(x, [](float f) { return __builtin_ceilf(f); });
}
SC_INLINE V trunc(V x) {
  return each_lane(x, [](float f) { return __builtin_truncf(f); });
}
// Halves go to the even neighbour, as in torch.
SC_INLINE V round(V x) {
  return each_lane(x, [](float f) { return __builtin_rintf(f); });
}

// ---- exponentials ---------------------------------------------------------------------------
// x = n ln 2 + r, |r| <= ln 2 / 2. Adding 1.5 * 2^23 rounds to an integer in the low mantissa bits.
struct Reduced {
  V r;   // the remainder
  VI n;  // the integer, as a vector of int32
};
SC_INLINE Reduced reduce_by_ln2(V x) {
  const V magic = splat(12582912.f);
  const V t = x * splat(1.44269504f) + magic;
  const V n = t - magic;
  const V r = x - n * splat(0.693359375f) + n * splat(2.12194440e-4f);
  return {r, bits(t) - splat_int(0x4B400000)};
}
SC_INLINE V power_of_two(VI n) { return from_bits((n + splat_int(127)) << 23); }
// exp(r) - 1 for |r| <= 0.35
SC_INLINE V expm1_reduced(V r) {
  return r + r * r * polynomial(r, {0.49999994f, 0.166665152f, 0.041668456f, 0.00836941879f,
                                    0.00138131424f});
}
// Two scalings, so that results down to the smallest subnormal come out.
SC_INLINE V exp(V x) {
  const Reduced a = reduce_by_ln2(clamp(x, -104.f, 89.f));
  const V y = splat(1.f) + expm1_reduced(a.r);
  const VI half = a.n >> 1;
  return y * power_of_two(half) * power_of_two(a.n - half);
}
// For x <= 0 only, where exp(x) below 1.3e-38 (x = -inf too) comes out as 1.3e-38 or less: softmax.
// The relative error is 4e-7 + 1.5e-8 |x|, which is below 4e-7 of exp(0).
SC_INLINE V exp_nonpositive(V x) {
  x = max_right(splat(-87.3f), x);
  const V magic = splat(12582912.f);
  const V t = x * splat(1.44269504f) + magic;
  const V r = x * splat(1.44269504f) - (t - magic);
  const V y = polynomial(r, {1.f, 0.6931470036506653f, 0.24022242426872253f, 0.05550733581185341f,
                             0.009671512991189957f, 0.001326472731307149f});
  return from_bits(bits(y) + (bits(t) << 23));
}
SC_INLINE V exp2(V x) {
  const V magic = splat(12582912.f);
  const V c = clamp(x, -150.f, 129.f), t = c + magic;
  const VI n = bits(t) - splat_int(0x4B400000), half = n >> 1;
  const V y = splat(1.f) + expm1_reduced((c - (t - magic)) * splat(0.693147181f));
  return y * power_of_two(half) * power_of_two(n - half);
}
SC_INLINE V expm1(V x) {
  const Reduced a = reduce_by_ln2(clamp(x, -18.f, 89.f));
  const V half_scale = power_of_two(a.n - splat_int(1));  // 2^n itself overflows for n = 128
  const V y = splat(2.f) * (expm1_reduced(a.r) * half_scale + (half_scale - splat(0.5f)));
  // keeps the sign of zero and the tiny ones
  return select(abs(x) < splat(1e-8f), x, y);
}

// ---- logarithms -----------------------------------------------------------------------------
// x = m 2^e, sqrt(1/2) <= m < sqrt 2; log m = f - f^2/2 + f^3 P(f), f = m - 1.
SC_INLINE V log(V x) {
  const VI tiny = x < splat(1.17549435e-38f);
  const V scaled = select(tiny, x * splat(16777216.f), x);
  const VI e = (bits(scaled) - splat_int(0x3F3504F3)) >> 23;
  const V f = from_bits(bits(scaled) - (e << 23)) - splat(1.f);
  const V n = __builtin_convertvector(e, V) - select(tiny, splat(24.f), splat(0.f));
  const V p = polynomial(f, {0.333333105f, -0.250000089f, 0.200021669f, -0.166680902f,
                             0.142185524f, -0.124030866f, 0.11893525f, -0.116943248f,
                             0.0675753057f});
  const V low = f * f * (f * p - splat(0.5f)) - n * splat(2.12194440e-4f);
  const V y = n * splat(0.693359375f) + (f + low);
  const V special = select(x == splat(0.f), splat(-kInfinity), splat(__builtin_nanf("")));
  return select(x == splat(kInfinity), x, select(x > splat(0.f), y, special));
}
SC_INLINE V log2(V x) { return log(x) * splat(1.44269504f); }
// log(1 + x) with w = 1 + x rounded, plus the first order of what rounding lost.
SC_INLINE V log1p(V x) {
  const V w = splat(1.f) + x;
  const V lost = x - (w - splat(1.f));
  const V y = log(w);
  const V sum = select((w == splat(0.f)) | (w == splat(kInfinity)), y, y + lost / w);
  return select(w == splat(1.f), x, sum);
}
// log(1 + e^b) = max(b, 0) + log(1 + u), u = e^-|b| <= 1; log(1 + u) = 2 atanh(s), s = u / (2 + u).
// As torch: x itself where beta x > threshold.
SC_INLINE V softplus(V x, float beta, float threshold) {
  const V b = x * splat(beta);
  const V u = exp(-abs(b));
  const V s = u / (splat(2.f) + u);
  const V z = s * s;
  const V p = polynomial(z, {0.666666746f, 0.399988741f, 0.286170363f, 0.214258507f, 0.243083254f});
  const V y = (relu(b) + (s + s + s * z * p)) * splat(1.f / beta);
  return select(b > splat(threshold), x, y);
}

// ---- sigmoids -------------------------------------------------------------------------------
// Results below 4e-37, where exp(-x) overflows, come out as 0.
SC_INLINE V sigmoid(V x) { return splat(1.f) / (splat(1.f) + exp(-x)); }
SC_INLINE V silu(V x) { return x / (splat(1.f) + exp(-x)); }
// Odd rationals x P(x^2) / Q(x^2); beyond the clamp the float result is 1.
SC_INLINE V tanh(V x) {
  const V c = clamp(x, -9.02f, 9.02f);
  const V z = c * c;
  const V p = polynomial(z, {1.f, 0.133797199f, 0.00349403615f, 2.05835022e-05f, 1.3319096e-08f});
  const V q = polynomial(z, {1.f, 0.467130333f, 0.0258710794f, 0.000328309514f, 7.7620308e-07f});
  return c * p / q;
}
SC_INLINE V erf(V x) {
  const V c = clamp(x, -4.f, 4.f);
  const V z = c * c;
  const V p = polynomial(z, {1.12837911f, 0.193547532f, 0.0531020276f, 0.0038834326f,
                             0.000284565176f, 1.98673206e-06f});
  const V q = polynomial(z, {1.f, 0.504859567f, 0.115350977f, 0.0152074378f, 0.00118558714f,
                             3.74196024e-05f});
  return c * p / q;
}
// The two GELUs: absolute error below 2.5e-7 max(1, |x|); relative precision is lost for x < -3,
// as in torch, whose formula they share. -inf gives NaN, as in torch.
SC_INLINE V gelu(V x) {
  return splat(0.5f) * x * (splat(1.f) + erf(x * splat(0.707106781f)));
}
SC_INLINE V gelu_tanh(V x) {
  const V t = tanh(x * (splat(0.797884561f) + splat(0.0356774081f) * x * x));
  return splat(0.5f) * x * (splat(1.f) + t);
}
SC_INLINE V hardsigmoid(V x) { return clamp(x + splat(3.f), 0.f, 6.f) * splat(1.f / 6.f); }
SC_INLINE V hardswish(V x) { return x * clamp(x + splat(3.f), 0.f, 6.f) * splat(1.f / 6.f); }
// tanh(log(1 + e^x)) = m / (m + 2) with m = e^x (e^x + 2)
SC_INLINE V mish(V x) {
  const V e = exp(min_right(splat(20.f), x));
  const V m = e * (e + splat(2.f));
  return x * (m / (m + splat(2.f)));
}
SC_INLINE V elu(V x, float alpha = 1.f, float scale = 1.f, float input_scale = 1.f) {
  const V negative = expm1(x * splat(input_scale)) * splat(alpha * scale);
  return select(x <= splat(0.f), negative, x * splat(scale));
}

// ---- sine and cosine: absolute error below 1e-7 -----------------------------------------------
// x = n pi/2 + r. Three constants keep r exact to |x| = 2^15; beyond, the C library.
SC_INLINE V sine_of_quadrant(V x, int32_t shift) {
  const V magic = splat(12582912.f);
  const V t = x * splat(0.636619772f) + magic;
  const V n = t - magic;
  const V r = x - n * splat(1.57079637f) + n * splat(4.37113883e-08f) + n * splat(1.71512451e-15f);
  const VI quadrant = bits(t) + splat_int(shift);
  const V z = r * r;
  const V s = r + r * z * polynomial(z, {-0.166666672f, 0.00833332911f, -0.000198392561f,
                                         2.71756448e-06f});
  const V c = splat(1.f) - splat(0.5f) * z +
              z * z * polynomial(z, {0.0416666456f, -0.0013887306f, 2.44312032e-05f});
  const V y = select((quadrant & splat_int(1)) == splat_int(0), s, c);
  return from_bits(bits(y) ^ ((quadrant & splat_int(2)) << 30));
}
SC_INLINE V sin(V x) {
  if (any(abs(x) > splat(32768.f)))
    return each_lane(x, [](float f) { return __builtin_sinf(f); });
  return sine_of_quadrant(x, 0);
}
SC_INLINE V cos(V x) {
  if (any(abs(x) > splat(32768.f)))
    return each_lane(x, [](float f) { return __builtin_cosf(f); });
  return sine_of_quadrant(x, 1);
}

// ---- powers ---------------------------------------------------------------------------------
// In double, so that the roundings of the product do not add up.
SC_INLINE V integer_power(V x, int n) {
  V r = x;
  for (int i = 0; i < W; i++) {
    double base = x[i], y = 1;
    for (int k = n < 0 ? -n : n; k; k >>= 1, base *= base)
      if (k & 1) y *= base;
    r[i] = float(n < 0 ? 1 / y : y);
  }
  return r;
}
// Halves are roots, as in torch: pow(-inf, 0.5) is NaN, unlike C's.
SC_INLINE V pow(V x, float s) {
  if (s == 1.f) return x;
  if (s == 2.f) return x * x;
  if (s == 3.f) return x * x * x;
  if (s == 0.5f) return sqrt(x);
  if (s == -0.5f) return rsqrt(x);
  if (s == -1.f) return splat(1.f) / x;
  if (s >= -64.f && s <= 64.f && s == float(int(s))) return integer_power(x, int(s));
  return each_lane(x, [s](float f) { return __builtin_powf(f, s); });
}
SC_INLINE V pow(V x, V y) {
  return each_lane(x, y, [](float a, float b) { return __builtin_powf(a, b); });
}

}  // namespace sc
