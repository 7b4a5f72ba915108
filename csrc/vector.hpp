// Vectors of floats or doubles on GCC and Clang vector types, as wide as the instruction set that this file is compiled
// for.
//
// Everything stands in a namespace named after the instruction set: the builds for several of them are linked into one
// library, and an inline function outside of it would be merged across them and might then run where it must not.
#pragma once

#include <cstdint>
#include <cstring>

#include "isa.hpp"

#ifndef RECURRA_ISA
#define RECURRA_ISA generic
#endif
#define RECURRA_INLINE __attribute__((always_inline)) inline
// The wide types are never passed through a call that is not inlined, so the calling convention GCC warns of has no
// effect.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace recurra {
namespace RECURRA_ISA {

#if defined(RECURRA_AVX512)
constexpr long vector_bytes = 64;
#elif defined(RECURRA_AVX2)
constexpr long vector_bytes = 32;
#else
constexpr long vector_bytes = 16;
#endif

template <class T> struct Types;
template <> struct Types<float> {
  using Integer = int32_t;
  typedef float Raw __attribute__((vector_size(vector_bytes)));
  typedef int32_t Bits __attribute__((vector_size(vector_bytes)));
  typedef uint32_t Words __attribute__((vector_size(vector_bytes)));
  typedef float Unaligned __attribute__((vector_size(vector_bytes), aligned(4), may_alias));
  static constexpr int mantissa_bits = 23, exponent_bias = 127;
};
template <> struct Types<double> {
  using Integer = int64_t;
  typedef double Raw __attribute__((vector_size(vector_bytes)));
  typedef int64_t Bits __attribute__((vector_size(vector_bytes)));
  typedef uint64_t Words __attribute__((vector_size(vector_bytes)));
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
  RECURRA_INLINE bool any() const;
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

  static RECURRA_INLINE Vec load(const T* p) {
    return Vec(Raw(*reinterpret_cast<const typename Types<T>::Unaligned*>(p)));
  }
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

template <class T> RECURRA_INLINE Vec<T> select(Mask<T> mask, Vec<T> a, Vec<T> b) {
  return Vec<T>(mask.bits ? a.raw : b.raw);
}

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

template <class T> RECURRA_INLINE Vec<T> abs_(Vec<T> v) {
  return from_bits<T>(bits_of(v) & typename Types<T>::Bits(~bits_of(Vec<T>(T(-0.0)))));
}
template <class T> RECURRA_INLINE Vec<T> copysign_(Vec<T> magnitude, Vec<T> sign) {
  const auto mask = bits_of(Vec<T>(T(-0.0)));
  return from_bits<T>((bits_of(magnitude) & ~mask) | (bits_of(sign) & mask));
}

// Keeps v, a vector or a number, in a register where the compiler would rather load it again for each use, or make
// vectors of numbers one by one.
template <class T> RECURRA_INLINE T in_register(T v) {
  if constexpr (long(sizeof v) > recurra_register_bytes) return v;
#if defined(__SSE2__)
  else asm("" : "+v"(v));
#elif defined(__aarch64__)
  else asm("" : "+w"(v));
#endif
  return v;
}
template <class T> RECURRA_INLINE Vec<T> in_register(Vec<T> v) {
  v.raw = in_register(v.raw);
  return v;
}

// What follows has a form for each instruction set:
//   fma_(a, b, c)         a * b + c, in one rounding where RECURRA_FUSED is defined
//   at_least, at_most     the larger, the smaller of a limit and v; v where that is NaN
//   sqrt_, floor_         rounded correctly
//   load_blocks           the vector of the blocks of 16 bytes at p, p + stride, ...
//   interleave_low, _high the lower, upper halves of each block of a and b, element by element in turn
//   sum_blocks            of as many vectors as a vector has blocks, each one's blocks summed, side by side
//   Mask::any, Vec::load_partial, Vec::store_partial
#if defined(RECURRA_AVX512)

#define RECURRA_FUSED 1
template <class T> RECURRA_INLINE __m128 load_block(const T* p) {
  return _mm_loadu_ps(reinterpret_cast<const float*>(p));
}
template <int order, class T> RECURRA_INLINE Vec<T> shuffle_blocks(Vec<T> a, Vec<T> b) {
  return {typename Types<T>::Raw(_mm512_maskz_shuffle_f32x4(0xffff, __m512(a.raw), __m512(b.raw), order))};
}
#define RECURRA_PER_TYPE(T, suffix, lanes, all)                                                                        \
  RECURRA_INLINE Vec<T> fma_(Vec<T> a, Vec<T> b, Vec<T> c) { return {_mm512_fmadd_##suffix(a.raw, b.raw, c.raw)}; }    \
  RECURRA_INLINE Vec<T> at_least(Vec<T> limit, Vec<T> v) {                                                             \
    return {_mm512_maskz_max_##suffix(all, limit.raw, v.raw)};                                                         \
  }                                                                                                                    \
  RECURRA_INLINE Vec<T> at_most(Vec<T> limit, Vec<T> v) { return {_mm512_maskz_min_##suffix(all, limit.raw, v.raw)}; } \
  RECURRA_INLINE Vec<T> sqrt_(Vec<T> v) { return {_mm512_maskz_sqrt_##suffix(all, v.raw)}; }                           \
  RECURRA_INLINE Vec<T> floor_(Vec<T> v) {                                                                             \
    return {_mm512_maskz_roundscale_##suffix(all, v.raw, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};                  \
  }                                                                                                                    \
  RECURRA_INLINE Vec<T> load_blocks(const T* p, long stride) {                                                         \
    const __m512 low = _mm512_castps128_ps512(load_block(p)),                                                          \
                 both = _mm512_insertf32x4(low, load_block(p + stride), 1);                                            \
    const __m512 most = _mm512_insertf32x4(both, load_block(p + 2 * stride), 2);                                       \
    return {Types<T>::Raw(_mm512_insertf32x4(most, load_block(p + 3 * stride), 3))};                                   \
  }                                                                                                                    \
  RECURRA_INLINE Vec<T> interleave_low(Vec<T> a, Vec<T> b) {                                                           \
    return {_mm512_maskz_unpacklo_##suffix(all, a.raw, b.raw)};                                                        \
  }                                                                                                                    \
  RECURRA_INLINE Vec<T> interleave_high(Vec<T> a, Vec<T> b) {                                                          \
    return {_mm512_maskz_unpackhi_##suffix(all, a.raw, b.raw)};                                                        \
  }                                                                                                                    \
  RECURRA_INLINE Vec<T> sum_blocks(Vec<T> a, Vec<T> b, Vec<T> c, Vec<T> d) {                                           \
    const Vec<T> ab = shuffle_blocks<0x44>(a, b) + shuffle_blocks<0xee>(a, b);                                         \
    const Vec<T> cd = shuffle_blocks<0x44>(c, d) + shuffle_blocks<0xee>(c, d);                                         \
    return shuffle_blocks<0x88>(ab, cd) + shuffle_blocks<0xdd>(ab, cd);                                                \
  }                                                                                                                    \
  /* v * 2^n for whole n, denormal and infinite results included */                                                    \
  RECURRA_INLINE Vec<T> scale_(Vec<T> v, Vec<T> n) { return {_mm512_maskz_scalef_##suffix(all, v.raw, n.raw)}; }       \
  template <> RECURRA_INLINE Vec<T> Vec<T>::load_partial(const T* p, long n) {                                         \
    return {_mm512_maskz_loadu_##suffix(__mmask##lanes((1u << n) - 1), p)};                                            \
  }                                                                                                                    \
  template <> RECURRA_INLINE void Vec<T>::store_partial(T* p, Vec v, long n) {                                         \
    _mm512_mask_storeu_##suffix(p, __mmask##lanes((1u << n) - 1), v.raw);                                              \
  }
RECURRA_PER_TYPE(float, ps, 16, 0xffff)
RECURRA_PER_TYPE(double, pd, 8, 0xff)
#undef RECURRA_PER_TYPE
template <class T> RECURRA_INLINE bool Mask<T>::any() const {
  return _mm512_test_epi32_mask(__m512i(bits), __m512i(bits)) != 0;
}

#else

template <class T> RECURRA_INLINE void Vec<T>::store_partial(T* p, Vec v, long n) {
  alignas(vector_bytes) T lanes[V];
  store(lanes, v);
  for (long i = 0; i < n; ++i) p[i] = lanes[i];
}

#if defined(RECURRA_AVX2)

#define RECURRA_FUSED 1
template <class T> RECURRA_INLINE __m128 load_block(const T* p) {
  return _mm_loadu_ps(reinterpret_cast<const float*>(p));
}
alignas(64) constexpr int32_t first_lanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
#define RECURRA_PER_TYPE(T, suffix)                                                                                 \
  RECURRA_INLINE Vec<T> fma_(Vec<T> a, Vec<T> b, Vec<T> c) { return {_mm256_fmadd_##suffix(a.raw, b.raw, c.raw)}; } \
  RECURRA_INLINE Vec<T> at_least(Vec<T> limit, Vec<T> v) { return {_mm256_max_##suffix(limit.raw, v.raw)}; }        \
  RECURRA_INLINE Vec<T> at_most(Vec<T> limit, Vec<T> v) { return {_mm256_min_##suffix(limit.raw, v.raw)}; }         \
  RECURRA_INLINE Vec<T> sqrt_(Vec<T> v) { return {_mm256_sqrt_##suffix(v.raw)}; }                                   \
  RECURRA_INLINE Vec<T> floor_(Vec<T> v) { return {_mm256_floor_##suffix(v.raw)}; }                                 \
  RECURRA_INLINE Vec<T> load_blocks(const T* p, long stride) {                                                      \
    return {Types<T>::Raw(_mm256_insertf128_ps(_mm256_castps128_ps256(load_block(p)), load_block(p + stride), 1))}; \
  }                                                                                                                 \
  RECURRA_INLINE Vec<T> interleave_low(Vec<T> a, Vec<T> b) { return {_mm256_unpacklo_##suffix(a.raw, b.raw)}; }     \
  RECURRA_INLINE Vec<T> interleave_high(Vec<T> a, Vec<T> b) { return {_mm256_unpackhi_##suffix(a.raw, b.raw)}; }    \
  RECURRA_INLINE Vec<T> sum_blocks(Vec<T> a, Vec<T> b) {                                                            \
    return Vec<T>(Types<T>::Raw(_mm256_permute2f128_##suffix(a.raw, b.raw, 0x20))) +                                \
           Vec<T>(Types<T>::Raw(_mm256_permute2f128_##suffix(a.raw, b.raw, 0x31)));                                 \
  }                                                                                                                 \
  template <> RECURRA_INLINE Vec<T> Vec<T>::load_partial(const T* p, long n) {                                      \
    const int32_t* mask = first_lanes + 8 - n * long(sizeof(T) / 4);                                                \
    return {_mm256_maskload_##suffix(p, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mask)))};               \
  }
RECURRA_PER_TYPE(float, ps)
RECURRA_PER_TYPE(double, pd)
#undef RECURRA_PER_TYPE
template <class T> RECURRA_INLINE bool Mask<T>::any() const {
  return !_mm256_testz_si256(__m256i(bits), __m256i(bits));
}

#else

// Processors other than x86 take the compiler's contraction and its vectors of scalar functions.
#if defined(__aarch64__)
#define RECURRA_FUSED 1
#endif
template <class T> RECURRA_INLINE Vec<T> Vec<T>::load_partial(const T* p, long n) {
  alignas(vector_bytes) T lanes[V] = {};
  for (long i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
template <class T> RECURRA_INLINE Vec<T> load_blocks(const T* p, long) { return Vec<T>::load(p); }
template <class T> RECURRA_INLINE Vec<T> sum_blocks(Vec<T> a) { return a; }
template <class T> RECURRA_INLINE Vec<T> fma_(Vec<T> a, Vec<T> b, Vec<T> c) { return a * b + c; }
template <class T> RECURRA_INLINE Vec<T> floor_(Vec<T> v) {
  const Vec<T> magic(T(sizeof(T) == 4 ? 0x1p23 : 0x1p52)), magnitude = abs_(v);
  const Vec<T> nearest = copysign_((magnitude + magic) - magic, v);
  const Vec<T> whole = copysign_(nearest - select(nearest > v, Vec<T>(T(1)), Vec<T>(T(0))), v);
  return select(magnitude < magic, whole, v);
}
#if defined(__SSE2__)
#define RECURRA_PER_TYPE(T, suffix)                                                                          \
  RECURRA_INLINE Vec<T> at_least(Vec<T> limit, Vec<T> v) { return {_mm_max_##suffix(limit.raw, v.raw)}; }    \
  RECURRA_INLINE Vec<T> at_most(Vec<T> limit, Vec<T> v) { return {_mm_min_##suffix(limit.raw, v.raw)}; }     \
  RECURRA_INLINE Vec<T> sqrt_(Vec<T> v) { return {_mm_sqrt_##suffix(v.raw)}; }                               \
  RECURRA_INLINE Vec<T> interleave_low(Vec<T> a, Vec<T> b) { return {_mm_unpacklo_##suffix(a.raw, b.raw)}; } \
  RECURRA_INLINE Vec<T> interleave_high(Vec<T> a, Vec<T> b) { return {_mm_unpackhi_##suffix(a.raw, b.raw)}; }
RECURRA_PER_TYPE(float, ps)
RECURRA_PER_TYPE(double, pd)
#undef RECURRA_PER_TYPE
template <class T> RECURRA_INLINE bool Mask<T>::any() const { return _mm_movemask_epi8(__m128i(bits)) != 0; }
#else
template <class T> RECURRA_INLINE bool Mask<T>::any() const {
  typename Types<T>::Integer combined = 0;
  for (long lane = 0; lane < Vec<T>::V; ++lane) combined |= bits[lane];
  return combined != 0;
}
RECURRA_INLINE Vec<float> interleave_low(Vec<float> a, Vec<float> b) {
  return {__builtin_shufflevector(a.raw, b.raw, 0, 4, 1, 5)};
}
RECURRA_INLINE Vec<float> interleave_high(Vec<float> a, Vec<float> b) {
  return {__builtin_shufflevector(a.raw, b.raw, 2, 6, 3, 7)};
}
RECURRA_INLINE Vec<double> interleave_low(Vec<double> a, Vec<double> b) {
  return {__builtin_shufflevector(a.raw, b.raw, 0, 2)};
}
RECURRA_INLINE Vec<double> interleave_high(Vec<double> a, Vec<double> b) {
  return {__builtin_shufflevector(a.raw, b.raw, 1, 3)};
}
template <class T> RECURRA_INLINE Vec<T> at_least(Vec<T> limit, Vec<T> v) { return select(v < limit, limit, v); }
template <class T> RECURRA_INLINE Vec<T> at_most(Vec<T> limit, Vec<T> v) { return select(v > limit, limit, v); }
template <class T> RECURRA_INLINE Vec<T> sqrt_(Vec<T> v) {
  for (long i = 0; i < Vec<T>::V; ++i)
    v.raw[i] = sizeof(T) == 4 ? T(__builtin_sqrtf(float(v.raw[i]))) : T(__builtin_sqrt(v.raw[i]));
  return v;
}
#endif
#endif
#endif

}  // namespace RECURRA_ISA
}  // namespace recurra
