// Vectors of floats or doubles on GCC and Clang vector types, as wide as the instruction set that this file is compiled for.
//
// Everything stands in a namespace named after the instruction set: the builds for several of them are linked into one
// library, and an inline function outside of it would be merged across them and might then run where it must not.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

#ifndef RECURRA_ISA
#define RECURRA_ISA generic
#endif
#define RECURRA_INLINE __attribute__((always_inline)) inline
// The wide types are never passed through a call that is not inlined, so the calling convention GCC warns of has no effect.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace recurra {
namespace RECURRA_ISA {

#if defined(__AVX512F__)
constexpr long vector_bytes = 64;
#elif defined(__AVX__)
constexpr long vector_bytes = 32;
#else
constexpr long vector_bytes = 16;
#endif

template <class T> struct Types;
template <> struct Types<float> {
  using Integer = int32_t;
  typedef float Raw __attribute__((vector_size(vector_bytes)));
  typedef int32_t Bits __attribute__((vector_size(vector_bytes)));
  typedef float Unaligned __attribute__((vector_size(vector_bytes), aligned(4), may_alias));
  static constexpr int mantissa_bits = 23, exponent_bias = 127;
};
template <> struct Types<double> {
  using Integer = int64_t;
  typedef double Raw __attribute__((vector_size(vector_bytes)));
  typedef int64_t Bits __attribute__((vector_size(vector_bytes)));
  typedef double Unaligned __attribute__((vector_size(vector_bytes), aligned(8), may_alias));
  static constexpr int mantissa_bits = 52, exponent_bias = 1023;
};

// One boolean for each lane: all bits set, or none.
template <class T> struct Mask {
  using Bits = typename Types<T>::Bits;
  Bits bits;
  friend RECURRA_INLINE Mask operator&(Mask a, Mask b) { return {a.bits & b.bits}; }
  friend RECURRA_INLINE Mask operator|(Mask a, Mask b) { return {a.bits | b.bits}; }
  friend RECURRA_INLINE Mask operator!(Mask a) { return {~a.bits}; }
  RECURRA_INLINE bool any() const {
    typename Types<T>::Integer combined = 0;
    for (long lane = 0; lane < vector_bytes / long(sizeof(T)); ++lane) combined |= bits[lane];
    return combined != 0;
  }
};

template <class T> struct Vec {
  using Raw = typename Types<T>::Raw;
  using Bits = typename Types<T>::Bits;
  using Integer = typename Types<T>::Integer;
  static constexpr long V = vector_bytes / long(sizeof(T));
  Raw raw;

  Vec() = default;
  RECURRA_INLINE Vec(Raw value) : raw(value) {}
  // Subtracting zero keeps the sign of -0, which adding it would lose.
  RECURRA_INLINE Vec(T value) : raw(value - Raw{}) {}

  static RECURRA_INLINE Vec load(const T* p) { return Vec(Raw(*reinterpret_cast<const typename Types<T>::Unaligned*>(p))); }
  static RECURRA_INLINE void store(T* p, Vec v) { *reinterpret_cast<typename Types<T>::Unaligned*>(p) = v.raw; }
  // The first n lanes, 0 <= n <= V; the others are zero. Memory from p + n on is not touched.
  static RECURRA_INLINE Vec load_partial(const T* p, long n);
  static RECURRA_INLINE void store_partial(T* p, Vec v, long n);

  friend RECURRA_INLINE Vec operator+(Vec a, Vec b) { return a.raw + b.raw; }
  friend RECURRA_INLINE Vec operator-(Vec a, Vec b) { return a.raw - b.raw; }
  friend RECURRA_INLINE Vec operator*(Vec a, Vec b) { return a.raw * b.raw; }
  friend RECURRA_INLINE Vec operator/(Vec a, Vec b) { return a.raw / b.raw; }
  friend RECURRA_INLINE Vec operator-(Vec a) { return -a.raw; }
  friend RECURRA_INLINE Mask<T> operator<(Vec a, Vec b) { return {Bits(a.raw < b.raw)}; }
  friend RECURRA_INLINE Mask<T> operator<=(Vec a, Vec b) { return {Bits(a.raw <= b.raw)}; }
  friend RECURRA_INLINE Mask<T> operator>(Vec a, Vec b) { return {Bits(a.raw > b.raw)}; }
  friend RECURRA_INLINE Mask<T> operator>=(Vec a, Vec b) { return {Bits(a.raw >= b.raw)}; }
  friend RECURRA_INLINE Mask<T> operator==(Vec a, Vec b) { return {Bits(a.raw == b.raw)}; }
  friend RECURRA_INLINE Mask<T> operator!=(Vec a, Vec b) { return {Bits(a.raw != b.raw)}; }
};

template <class T> RECURRA_INLINE Vec<T> select(Mask<T> mask, Vec<T> a, Vec<T> b) { return Vec<T>(mask.bits ? a.raw : b.raw); }

template <class T> RECURRA_INLINE typename Types<T>::Bits bits_of(Vec<T> v) {
  typename Types<T>::Bits bits;
  std::memcpy(&bits, &v.raw, sizeof bits);
  return bits;
}
template <class T> RECURRA_INLINE Vec<T> from_bits(typename Types<T>::Bits bits) {
  Vec<T> v;
  std::memcpy(&v.raw, &bits, sizeof bits);
  return v;
}

// a * b + c, one rounding where the instruction set has it.
template <class T> RECURRA_INLINE Vec<T> fma_(Vec<T> a, Vec<T> b, Vec<T> c) { return a * b + c; }
template <class T> RECURRA_INLINE Vec<T> abs_(Vec<T> v) {
  return from_bits<T>(bits_of(v) & typename Types<T>::Bits(~bits_of(Vec<T>(T(-0.0)))));
}
template <class T> RECURRA_INLINE Vec<T> copysign_(Vec<T> magnitude, Vec<T> sign) {
  const auto mask = bits_of(Vec<T>(T(-0.0)));
  return from_bits<T>((bits_of(magnitude) & ~mask) | (bits_of(sign) & mask));
}

// The functions below have one form for each instruction set; the loops are for processors other than x86.
#if defined(__AVX512F__)

RECURRA_INLINE __mmask16 first_lanes16(long n) { return __mmask16((1u << n) - 1); }
RECURRA_INLINE __mmask8 first_lanes8(long n) { return __mmask8((1u << n) - 1); }
template <> RECURRA_INLINE Vec<float> Vec<float>::load_partial(const float* p, long n) {
  return Vec(Raw(_mm512_maskz_loadu_ps(first_lanes16(n), p)));
}
template <> RECURRA_INLINE Vec<double> Vec<double>::load_partial(const double* p, long n) {
  return Vec(Raw(_mm512_maskz_loadu_pd(first_lanes8(n), p)));
}
template <> RECURRA_INLINE void Vec<float>::store_partial(float* p, Vec v, long n) {
  _mm512_mask_storeu_ps(p, first_lanes16(n), v.raw);
}
template <> RECURRA_INLINE void Vec<double>::store_partial(double* p, Vec v, long n) {
  _mm512_mask_storeu_pd(p, first_lanes8(n), v.raw);
}
RECURRA_INLINE Vec<float> sqrt_(Vec<float> v) { return Vec<float>(Types<float>::Raw(_mm512_maskz_sqrt_ps(0xffff, v.raw))); }
RECURRA_INLINE Vec<double> sqrt_(Vec<double> v) { return Vec<double>(Types<double>::Raw(_mm512_maskz_sqrt_pd(0xff, v.raw))); }

#else

template <class T> RECURRA_INLINE Vec<T> Vec<T>::load_partial(const T* p, long n) {
  alignas(vector_bytes) T lanes[V] = {};
  for (long i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
template <class T> RECURRA_INLINE void Vec<T>::store_partial(T* p, Vec v, long n) {
  alignas(vector_bytes) T lanes[V];
  store(lanes, v);
  for (long i = 0; i < n; ++i) p[i] = lanes[i];
}
#if defined(__AVX__)
RECURRA_INLINE Vec<float> sqrt_(Vec<float> v) { return Vec<float>(Types<float>::Raw(_mm256_sqrt_ps(v.raw))); }
RECURRA_INLINE Vec<double> sqrt_(Vec<double> v) { return Vec<double>(Types<double>::Raw(_mm256_sqrt_pd(v.raw))); }
#elif defined(__SSE2__)
RECURRA_INLINE Vec<float> sqrt_(Vec<float> v) { return Vec<float>(Types<float>::Raw(_mm_sqrt_ps(v.raw))); }
RECURRA_INLINE Vec<double> sqrt_(Vec<double> v) { return Vec<double>(Types<double>::Raw(_mm_sqrt_pd(v.raw))); }
#else
RECURRA_INLINE Vec<float> sqrt_(Vec<float> v) {
  for (long i = 0; i < Vec<float>::V; ++i) v.raw[i] = __builtin_sqrtf(v.raw[i]);
  return v;
}
RECURRA_INLINE Vec<double> sqrt_(Vec<double> v) {
  for (long i = 0; i < Vec<double>::V; ++i) v.raw[i] = __builtin_sqrt(v.raw[i]);
  return v;
}
#endif
#endif

}  // namespace RECURRA_ISA
}  // namespace recurra
