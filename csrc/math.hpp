// Elementary functions on vectors, within 4 units in the last place, float and double.
// NaN in, NaN out; infinities, signed zeros and denormals as in the C library.
#pragma once

#include "vector.hpp"

namespace recurra {
namespace RECURRA_ISA {

template <class T> struct MathConstants;
template <> struct MathConstants<float> {
  // ln 2 and pi / 2 are split into parts so short that their products with small integers are exact.
  static constexpr float ln2_high = 0x1.62ep-1f, ln2_low = 0x1.0bfbe8e7bcd5ep-15f;
  static constexpr float round_magic = 0x1.8p23f, exp_low = -110.0f, exp_high = 89.0f;
  static constexpr float pio2[4] = {0x1.92p+0f, 0x1.fb4p-12f, 0x1.444p-24f, 0x1.68c234c4c6629p-39f};
  static constexpr float circular_limit = 8192.0f, exact_integer = 0x1p22f;
  // (exp(r) - 1 - r) / r^2 on |r| <= ln 2 / 2, highest power first.
  static constexpr float exp[] = {1.3926250831e-3f, 8.3632328837e-3f, 4.1666554213e-2f, 1.6666576667e-1f, 0.5f};
  static constexpr float log[] = {0xf89e26.0p-26f, 0x91e9ee.0p-25f, 0xccce13.0p-25f, 0xaaaaaa.0p-24f};
  static constexpr float sine[] = {-1.9515295891e-4f, 8.3321608736e-3f, -1.6666654611e-1f};
  static constexpr float cosine[] = {2.443315711809948e-5f, -1.388731625493765e-3f, 4.166664568298827e-2f};
};
template <> struct MathConstants<double> {
  static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr double round_magic = 0x1.8p52, exp_low = -760.0, exp_high = 710.0;
  static constexpr double pio2[4] = {0x1.921fb544p+0, 0x1.0b4611a6p-34, 0x1.3198a2ep-69, 0x1.b839a252049c1p-104};
  static constexpr double circular_limit = 524288.0, exact_integer = 0x1p51;
  static constexpr double exp[] = {2.5100472505694996003e-8, 2.7620201591031548792e-7, 2.7557268276905696187e-6,
                                   0.000024801521057868205199, 0.00019841269863171556026, 0.0013888888917367080562,
                                   0.0083333333333300381973, 0.041666666666623820532, 0.1666666666666666746, 0.5};
  static constexpr double log[] = {1.479819860511658591e-01, 1.531383769920937332e-01, 1.818357216161805012e-01,
                                   2.222219843214978396e-01, 2.857142874366239149e-01, 3.999999999940941908e-01,
                                   6.666666666666735130e-01};
  static constexpr double sine[] = {1.58969099521155010221e-10, -2.50507602534068634195e-08, 2.75573137070700676789e-06,
                                    -1.98412698298579493134e-04, 8.33333333332248946124e-03, -1.66666666666666324348e-01};
  static constexpr double cosine[] = {-1.13596475577881948265e-11, 2.08757232129817482790e-09, -2.75573143513906633035e-07,
                                      2.48015872894767294178e-05, -1.38888888888741095749e-03, 4.16666666666666019037e-02};
};

template <class T, int count> RECURRA_INLINE Vec<T> polynomial(Vec<T> x, const T (&coefficients)[count]) {
  Vec<T> sum(coefficients[0]);
#pragma GCC unroll 16
  for (int i = 1; i < count; ++i) sum = fma_(sum, x, Vec<T>(coefficients[i]));
  return sum;
}

RECURRA_INLINE float scalar_mod(float a, float b) { return __builtin_fmodf(a, b); }
RECURRA_INLINE double scalar_mod(double a, double b) { return __builtin_fmod(a, b); }
RECURRA_INLINE float scalar_sin(float x) { return __builtin_sinf(x); }
RECURRA_INLINE double scalar_sin(double x) { return __builtin_sin(x); }
RECURRA_INLINE float scalar_cos(float x) { return __builtin_cosf(x); }
RECURRA_INLINE double scalar_cos(double x) { return __builtin_cos(x); }

// 2^n for integers n in the range of the exponents of normal numbers.
template <class T> RECURRA_INLINE Vec<T> power_of_two(typename Types<T>::Bits n) {
  return from_bits<T>((n + typename Types<T>::Integer(Types<T>::exponent_bias)) << Types<T>::mantissa_bits);
}

// x = n ln 2 + r with |r| <= ln 2 / 2; p = exp(r) - 1. NaN passes both comparisons of the clamp unchanged.
template <class T> struct ExpParts {
  typename Types<T>::Bits n;
  Vec<T> p;
};
template <class T> RECURRA_INLINE ExpParts<T> exp_parts(Vec<T> x) {
  using C = MathConstants<T>;
  x = select(Vec<T>(C::exp_low) > x, Vec<T>(C::exp_low), x);
  x = select(Vec<T>(C::exp_high) < x, Vec<T>(C::exp_high), x);
  const Vec<T> shifted = fma_(x, Vec<T>(T(1.44269504088896340736)), Vec<T>(C::round_magic));
  const Vec<T> whole = shifted - Vec<T>(C::round_magic);
  Vec<T> r = fma_(whole, Vec<T>(-C::ln2_high), x);
  r = fma_(whole, Vec<T>(-C::ln2_low), r);
  return {bits_of(shifted) - bits_of(Vec<T>(C::round_magic)), fma_(polynomial(r, C::exp), r * r, r)};
}

template <class T> RECURRA_INLINE Vec<T> exp_(Vec<T> x) {
  const ExpParts<T> parts = exp_parts(x);
  // Two factors, for 2^n alone leaves the range of normal numbers where the result is denormal or barely finite.
  const auto half = parts.n >> 1;
  return (parts.p + Vec<T>(T(1))) * power_of_two<T>(half) * power_of_two<T>(parts.n - half);
}

template <class T> RECURRA_INLINE Vec<T> expm1_(Vec<T> x) {
  const ExpParts<T> parts = exp_parts(x);
  // One factor of two is held back: 2^n overflows where the result may still be finite. Below -60 the result is -1.
  const Vec<T> limited = select(x < Vec<T>(T(-60)), Vec<T>(T(-1)), Vec<T>(T(0)));
  auto n = parts.n - 1;
  const typename Types<T>::Bits lowest = typename Types<T>::Bits{} - 100;
  n = n < lowest ? lowest : n;
  const Vec<T> scale = power_of_two<T>(n);
  const Vec<T> result = fma_(scale, parts.p, scale - Vec<T>(T(0.5))) * Vec<T>(T(2));
  // r is x itself where n = 0, but the clamp, the polynomial and the sum lose the sign of -0.
  return select(x == Vec<T>(T(0)), x, select(limited != Vec<T>(T(0)), limited, result));
}

template <class T> RECURRA_INLINE Vec<T> sigmoid_(Vec<T> x) {
  const Vec<T> e = exp_(-abs_(x)), one(T(1));
  return select(x < Vec<T>(T(0)), e, one) / (one + e);
}

template <class T> RECURRA_INLINE Vec<T> tanh_(Vec<T> x) {
  // tanh |x| = -m / (2 + m) with m = exp(-2 |x|) - 1, which keeps the relative accuracy near zero.
  const ExpParts<T> parts = exp_parts(abs_(x) * Vec<T>(T(-2)));
  const typename Types<T>::Bits lowest = typename Types<T>::Bits{} - 100;
  const Vec<T> scale = power_of_two<T>(parts.n < lowest ? lowest : parts.n);
  const Vec<T> m = fma_(scale, parts.p, scale - Vec<T>(T(1)));
  return copysign_(m / (m + Vec<T>(T(2))), x);
}

// log of a positive, finite, normal or denormal number.
template <class T> RECURRA_INLINE Vec<T> log_positive(Vec<T> x) {
  using C = MathConstants<T>;
  using Bits = typename Types<T>::Bits;
  using Integer = typename Types<T>::Integer;
  constexpr int mantissa = Types<T>::mantissa_bits;
  const Vec<T> smallest_normal = power_of_two<T>(Bits{} + Integer(1 - Types<T>::exponent_bias));
  const Mask<T> denormal = x < smallest_normal;
  x = select(denormal, x * power_of_two<T>(Bits{} + Integer(mantissa + 1)), x);
  Bits exponent = denormal.bits & Integer(-(mantissa + 1));
  // The exponent that leaves a significand in [sqrt(1/2), sqrt(2)).
  const Bits base = bits_of(Vec<T>(T(0.70710678118654752440)));
  const Bits offset = (bits_of(x) - base) >> mantissa;
  exponent += offset;
  const Vec<T> f = from_bits<T>(bits_of(x) - (offset << mantissa)) - Vec<T>(T(1));
  const Vec<T> k = from_bits<T>(exponent + bits_of(Vec<T>(C::round_magic))) - Vec<T>(C::round_magic);
  const Vec<T> s = f / (f + Vec<T>(T(2))), z = s * s, half_square = f * f * Vec<T>(T(0.5));
  const Vec<T> rest = z * polynomial(z, C::log);
  const Vec<T> low = fma_(k, Vec<T>(C::ln2_low), s * (half_square + rest));
  return fma_(k, Vec<T>(C::ln2_high), f - (half_square - low));
}

template <class T> RECURRA_INLINE Vec<T> log_(Vec<T> x) {
  const Vec<T> zero(T(0)), infinity{T(__builtin_inf())};
  Vec<T> result = log_positive(x);
  result = select(x == zero, -infinity, result);
  result = select((x >= zero) & (x < infinity), result, select(x == infinity, x, Vec<T>(T(__builtin_nan("")))));
  return result;
}

template <class T> RECURRA_INLINE Vec<T> log1p_(Vec<T> x) {
  // Rounding 1 + x is undone by the factor x / (u - 1).
  const Vec<T> one(T(1)), u = one + x, d = u - one;
  const Vec<T> result = log_(u) * (x / d);
  const Mask<T> unchanged = (u == one) | (x == Vec<T>(T(__builtin_inf())));
  return select(unchanged, x, result);
}

template <class T> RECURRA_INLINE Vec<T> softplus_(Vec<T> x) {
  const Vec<T> zero(T(0));
  return select(x < zero, zero, x) + log1p_(exp_(-abs_(x)));
}

template <class T> RECURRA_INLINE Vec<T> rsqrt_(Vec<T> x) { return Vec<T>(T(1)) / sqrt_(x); }

template <class T> RECURRA_INLINE Vec<T> trunc_magnitude(Vec<T> magnitude) {
  const Vec<T> magic(T(Types<T>::mantissa_bits == 23 ? 0x1p23 : 0x1p52));
  const Vec<T> rounded = (magnitude + magic) - magic;
  const Vec<T> whole = rounded - select(rounded > magnitude, Vec<T>(T(1)), Vec<T>(T(0)));
  return select(magnitude < magic, whole, magnitude);
}
template <class T> RECURRA_INLINE Vec<T> floor_(Vec<T> x) {
  const Vec<T> toward_zero = copysign_(trunc_magnitude(abs_(x)), x);
  const Vec<T> result = toward_zero - select(toward_zero > x, Vec<T>(T(1)), Vec<T>(T(0)));
  return copysign_(result, x);
}

// numpy's mod: the result has the sign of b and is exact but for the sum that moves it there.
template <class T> RECURRA_INLINE Vec<T> mod_(Vec<T> a, Vec<T> b) {
  Vec<T> result;
  for (long lane = 0; lane < Vec<T>::V; ++lane) {
    T r = scalar_mod(T(a.raw[lane]), T(b.raw[lane]));
    if (r == 0) r = b.raw[lane] < 0 ? T(-0.0) : T(0);
    else if ((r < 0) != (b.raw[lane] < 0)) r += b.raw[lane];
    result.raw[lane] = r;
  }
  return result;
}

template <class T> struct Quadrant {
  typename Types<T>::Bits n;
  Vec<T> sine, cosine;
};
// sin r and cos r with x = n pi / 2 + r, for |x| <= circular_limit.
template <class T> RECURRA_INLINE Quadrant<T> quadrant(Vec<T> x) {
  using C = MathConstants<T>;
  const Vec<T> shifted = fma_(x, Vec<T>(T(0.63661977236758134308)), Vec<T>(C::round_magic));
  const Vec<T> whole = shifted - Vec<T>(C::round_magic);
  Vec<T> r = x;
  for (int i = 0; i < 4; ++i) r = fma_(whole, Vec<T>(-C::pio2[i]), r);
  const Vec<T> z = r * r;
  const Vec<T> sine = fma_(polynomial(z, C::sine), z * r, r);
  const Vec<T> half = z * Vec<T>(T(0.5)), head = Vec<T>(T(1)) - half;
  const Vec<T> cosine = head + fma_(polynomial(z, C::cosine), z * z, (Vec<T>(T(1)) - head) - half);
  return {bits_of(shifted) - bits_of(Vec<T>(C::round_magic)), sine, cosine};
}
template <class T> RECURRA_INLINE Vec<T> circular(Vec<T> x, bool cosine) {
  const Quadrant<T> q = quadrant(x);
  const auto n = q.n + typename Types<T>::Integer(cosine ? 1 : 0);
  const Vec<T> magnitude = select(Mask<T>{(n & 1) != 0}, q.cosine, q.sine);
  Vec<T> result = select(Mask<T>{(n & 2) != 0}, -magnitude, magnitude);
  const Mask<T> far = !(abs_(x) <= Vec<T>(MathConstants<T>::circular_limit));
  if (__builtin_expect(far.any(), 0)) {
    for (long lane = 0; lane < Vec<T>::V; ++lane)
      if (far.bits[lane]) result.raw[lane] = cosine ? scalar_cos(T(x.raw[lane])) : scalar_sin(T(x.raw[lane]));
  }
  return cosine ? result : select(x == Vec<T>(T(0)), x, result);
}
template <class T> RECURRA_INLINE Vec<T> sin_(Vec<T> x) { return circular(x, false); }
template <class T> RECURRA_INLINE Vec<T> cos_(Vec<T> x) { return circular(x, true); }

}  // namespace RECURRA_ISA
}  // namespace recurra
