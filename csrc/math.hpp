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
  static constexpr double exp[] = {2.5100472505694996003e-8,  2.7620201591031548792e-7,
                                   2.7557268276905696187e-6,  0.000024801521057868205199,
                                   0.00019841269863171556026, 0.0013888888917367080562,
                                   0.0083333333333300381973,  0.041666666666623820532,
                                   0.1666666666666666746,     0.5};
  static constexpr double log[] = {1.479819860511658591e-01, 1.531383769920937332e-01, 1.818357216161805012e-01,
                                   2.222219843214978396e-01, 2.857142874366239149e-01, 3.999999999940941908e-01,
                                   6.666666666666735130e-01};
  static constexpr double sine[] = {1.58969099521155010221e-10, -2.50507602534068634195e-08,
                                    2.75573137070700676789e-06, -1.98412698298579493134e-04,
                                    8.33333333332248946124e-03, -1.66666666666666324348e-01};
  static constexpr double cosine[] = {-1.13596475577881948265e-11, 2.08757232129817482790e-09,
                                      -2.75573143513906633035e-07, 2.48015872894767294178e-05,
                                      -1.38888888888741095749e-03, 4.16666666666666019037e-02};
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

// x = n ln 2 + r with |r| <= ln 2 / 2; p = exp(r) - 1. NaN passes the clamp.
template <class T> struct ExpParts {
  Vec<T> shifted, p;  // n stands in the low bits of `shifted`
  RECURRA_INLINE Vec<T> n() const { return shifted - Vec<T>(MathConstants<T>::round_magic); }
  RECURRA_INLINE typename Types<T>::Bits bits() const {
    return bits_of(shifted) - bits_of(Vec<T>(MathConstants<T>::round_magic));
  }
};
template <class T> RECURRA_INLINE ExpParts<T> exp_parts(Vec<T> x) {
  using C = MathConstants<T>;
  const Vec<T> shifted = fma_(x, Vec<T>(T(1.44269504088896340736)), Vec<T>(C::round_magic));
  const Vec<T> n = shifted - Vec<T>(C::round_magic);
  Vec<T> r = fma_(n, Vec<T>(-C::ln2_high), x);
  r = fma_(n, Vec<T>(-C::ln2_low), r);
  return {shifted, fma_(polynomial(r, C::exp), r * r, r)};
}

// exp of numbers below the upper limit.
template <class T> RECURRA_INLINE Vec<T> exp_limited(Vec<T> x) {
  const ExpParts<T> parts = exp_parts(at_least(Vec<T>(MathConstants<T>::exp_low), x));
  const Vec<T> significand = parts.p + Vec<T>(T(1));
#if defined(RECURRA_AVX512)
  return scale_(significand, parts.n());
#else
  // Two factors, for 2^n alone leaves the range of normal numbers where the result is denormal or barely finite.
  const auto n = parts.bits(), half = n >> 1;
  return significand * power_of_two<T>(half) * power_of_two<T>(n - half);
#endif
}

template <class T> RECURRA_INLINE Vec<T> exp_(Vec<T> x) {
  return exp_limited(at_most(Vec<T>(MathConstants<T>::exp_high), x));
}

template <class T> RECURRA_INLINE Vec<T> expm1_(Vec<T> x) {
  // Below -60 the result is -1.
  const Vec<T> y = at_least(Vec<T>(T(-60)), at_most(Vec<T>(MathConstants<T>::exp_high), x));
  const ExpParts<T> parts = exp_parts(y);
  // One factor of two is held back: 2^n overflows where the result may still be finite.
  const Vec<T> scale = power_of_two<T>(parts.bits() - 1);
  const Vec<T> result = fma_(scale, parts.p, scale - Vec<T>(T(0.5))) * Vec<T>(T(2));
  // The sum loses the sign of -0.
  return select(x == Vec<T>(T(0)), x, result);
}

template <class T> RECURRA_INLINE Vec<T> sigmoid_(Vec<T> x) {
  const Vec<T> e = exp_limited(-abs_(x)), one(T(1));
  return select(x < Vec<T>(T(0)), e, one) / (one + e);
}

template <class T> RECURRA_INLINE Vec<T> tanh_(Vec<T> x) {
  // tanh |x| = -m / (2 + m) with m = exp(-2 |x|) - 1, which keeps the relative accuracy near zero. Beyond 30 it is 1.
  const ExpParts<T> parts = exp_parts(at_least(Vec<T>(T(-60)), abs_(x) * Vec<T>(T(-2))));
  const Vec<T> scale = power_of_two<T>(parts.bits());
  const Vec<T> m = fma_(scale, parts.p, scale - Vec<T>(T(1)));
  return copysign_(m / (m + Vec<T>(T(2))), x);
}

// x = 2^k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), for positive normal x.
template <class T> struct LogParts {
  typename Types<T>::Bits k;
  Vec<T> f;
};
template <class T> RECURRA_INLINE LogParts<T> log_parts(Vec<T> x) {
  constexpr int mantissa = Types<T>::mantissa_bits;
  const auto k = (bits_of(x) - bits_of(Vec<T>(T(0.70710678118654752440)))) >> mantissa;
  return {k, from_bits<T>(bits_of(x) - (k << mantissa)) - Vec<T>(T(1))};
}
// k ln 2 + log(1 + f), with log(1 + f) = 2 artanh s.
template <class T> RECURRA_INLINE Vec<T> log_sum(typename Types<T>::Bits k, Vec<T> f) {
  using C = MathConstants<T>;
  const Vec<T> exponent = from_bits<T>(k + bits_of(Vec<T>(C::round_magic))) - Vec<T>(C::round_magic);
  const Vec<T> s = f / (f + Vec<T>(T(2))), z = s * s, half_square = f * f * Vec<T>(T(0.5));
  const Vec<T> rest = z * polynomial(z, C::log);
  const Vec<T> low = fma_(exponent, Vec<T>(C::ln2_low), s * (half_square + rest));
  return fma_(exponent, Vec<T>(C::ln2_high), f - (half_square - low));
}

// `value` for x between the limits, which map to -inf and inf; NaN elsewhere.
template <class T> RECURRA_INLINE Vec<T> log_result(Vec<T> x, T lowest, Mask<T> ordinary, Vec<T> value) {
  const Vec<T> infinity{T(__builtin_inf())}, nan{T(__builtin_nan(""))};
  return select(ordinary, value, select(x == Vec<T>(lowest), -infinity, select(x == infinity, x, nan)));
}

template <class T> RECURRA_INLINE Vec<T> log_(Vec<T> x) {
  using Bits = typename Types<T>::Bits;
  using Integer = typename Types<T>::Integer;
  constexpr Integer shift = Types<T>::mantissa_bits + 1;
  const Mask<T> ordinary = (x > Vec<T>(T(0))) & (x < Vec<T>(T(__builtin_inf())));
  const Vec<T> y = select(ordinary, x, Vec<T>(T(1)));
  const Mask<T> denormal = y < power_of_two<T>(Bits{} + Integer(1 - Types<T>::exponent_bias));
  const LogParts<T> parts = log_parts(select(denormal, y * power_of_two<T>(Bits{} + shift), y));
  return log_result(x, T(0), ordinary, log_sum(parts.k - (denormal.bits & shift), parts.f));
}

// log(1 + x) for x > -1: what rounding 1 + x took away goes back into f.
template <class T> RECURRA_INLINE Vec<T> log1p_finite(Vec<T> x) {
  const Vec<T> one(T(1)), u = one + x;
  const LogParts<T> parts = log_parts(u);
  // 2^(1 - k), for with the largest x 2^-k has no bits as a normal number.
  const Vec<T> lost = (x - (u - one)) * Vec<T>(T(0.5));
  return log_sum(parts.k, fma_(lost, power_of_two<T>(1 - parts.k), parts.f));
}

template <class T> RECURRA_INLINE Vec<T> log1p_(Vec<T> x) {
  const Mask<T> ordinary = (x > Vec<T>(T(-1))) & (x < Vec<T>(T(__builtin_inf())));
  const Vec<T> value = log1p_finite(select(ordinary, x, Vec<T>(T(0))));
  // The sum loses the sign of -0.
  return log_result(x, T(-1), ordinary, select(x == Vec<T>(T(0)), x, value));
}

template <class T> RECURRA_INLINE Vec<T> softplus_(Vec<T> x) {
  // Where x is NaN the first summand is.
  const Vec<T> zero(T(0));
  return select(x < zero, zero, x) + log1p_finite(exp_limited(-abs_(x)));
}

template <class T> RECURRA_INLINE Vec<T> rsqrt_(Vec<T> x) { return Vec<T>(T(1)) / sqrt_(x); }

// One lane of mod_: exact but for the sum that gives the result the sign of b.
template <class T> RECURRA_INLINE T mod_lane(T a, T b) {
  const T r = scalar_mod(a, b);
  if (r == 0) return b < 0 ? T(-0.0) : T(0);
  return (r < 0) != (b < 0) ? r + b : r;
}

// numpy's mod: the result has the sign of b.
template <class T> RECURRA_INLINE Vec<T> mod_(Vec<T> a, Vec<T> b) {
  Vec<T> result(T(0));
  Mask<T> settled = result != result;
#if defined(RECURRA_FUSED)
  // The quotient rounds to the right whole number or to the one above it, and the remainder is then exact.
  const Vec<T> zero(T(0)), quotient = a / b, r = fma_(-floor_(quotient), b, a);
  const Vec<T> moved = select(((r < zero) & (b > zero)) | ((r > zero) & (b < zero)), r + b, r);
  result = select(r == zero, copysign_(zero, b), moved);
  settled = (abs_(quotient) < Vec<T>(MathConstants<T>::exact_integer)) & (r == r);
#endif
  if (!(!settled).any()) return result;
  for (long lane = 0; lane < Vec<T>::V; ++lane)
    if (!settled.bits[lane]) result.raw[lane] = mod_lane(T(a.raw[lane]), T(b.raw[lane]));
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
  const Mask<T> far = !(abs_(x) <= Vec<T>(MathConstants<T>::circular_limit));
  const Quadrant<T> q = quadrant(select(far, Vec<T>(T(0)), x));
  const auto n = q.n + typename Types<T>::Integer(cosine ? 1 : 0);
  const Vec<T> magnitude = select(Mask<T>{(n & 1) != 0}, q.cosine, q.sine);
  Vec<T> result = select(Mask<T>{(n & 2) != 0}, -magnitude, magnitude);
  if (__builtin_expect(far.any(), 0)) {
    for (long lane = 0; lane < Vec<T>::V; ++lane)
      if (far.bits[lane]) result.raw[lane] = cosine ? scalar_cos(T(x.raw[lane])) : scalar_sin(T(x.raw[lane]));
  }
  return cosine ? result : select(x == Vec<T>(T(0)), x, result);
}
template <class T> RECURRA_INLINE Vec<T> sin_(Vec<T> x) { return circular(x, false); }
template <class T> RECURRA_INLINE Vec<T> cos_(Vec<T> x) { return circular(x, true); }

// The whole numbers nearest to v, which lies in [0, 2^24), and back.
RECURRA_INLINE Types<float>::Words words_of(Vec<float> v) {
  const Vec<float> magic(0x1p23f);
  const Vec<float> whole = select(v < magic, (v + magic) - magic, v);
  return Types<float>::Words(__builtin_convertvector(whole.raw, Types<float>::Bits));
}
RECURRA_INLINE Types<double>::Words words_of(Vec<double> v) {
  return Types<double>::Words(bits_of(v + Vec<double>(0x1p52))) & 0xffffffu;
}
RECURRA_INLINE Vec<float> from_words(Types<float>::Words w) {
  return {__builtin_convertvector(Types<float>::Bits(w), Types<float>::Raw)};
}
RECURRA_INLINE Vec<double> from_words(Types<double>::Words w) {
  const Vec<double> magic(0x1p52);
  return from_bits<double>(Types<double>::Bits(w) | bits_of(magic)) - magic;
}

// A product modulo 2^32. Words of 64 bits hold one of 32 each.
template <class Words> RECURRA_INLINE Words times(Words w, uint32_t factor) {
  w *= factor;
  return sizeof(w[0]) > 4 ? w & 0xffffffffu : w;
}
template <class Words> RECURRA_INLINE Words stirred(Words w, uint32_t factor, int shift) {
  w = times(w, factor);
  return w ^ (w >> shift);
}

// A hash of two whole numbers in [0, 2^24), which is one again; NaN for others. operations.py has the same in Python.
template <class T> RECURRA_INLINE Vec<T> mix_(Vec<T> a, Vec<T> b) {
  const Vec<T> low(T(-0.5)), high(T(0x1p24 - 0.5)), zero(T(0));
  const Mask<T> fits = (a >= low) & (a < high) & (b >= low) & (b < high);
  const auto key = stirred(words_of(at_least(zero, select(fits, a, zero))) ^ 0x5bd1e995u, 0x21f0aaadu, 15);
  auto w = key ^ times(words_of(at_least(zero, select(fits, b, zero))), 0x9e3779b1u);
  w = stirred(stirred(w, 0x7feb352du, 15), 0x846ca68bu, 16);
  return select(fits, from_words(w >> 8), Vec<T>(T(__builtin_nan(""))));
}

}  // namespace RECURRA_ISA
}  // namespace recurra
