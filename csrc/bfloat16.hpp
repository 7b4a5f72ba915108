// Elements of matrices of fewer bits than what is computed in: they are widened as they are read. To whatever is no
// bfloat16 these functions do nothing.
#pragma once

#include "vector.hpp"

namespace recurra {
namespace RECURRA_ISA {

// The upper half of the bits of a float.
struct Bfloat16 {
  std::uint16_t bits;
};

// The nearest number of bfloat16; of two, the even one. NaN stays NaN.
RECURRA_INLINE std::uint16_t nearest_bfloat16(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const std::uint32_t sum = bits + (0x7fffu + ((bits >> 16) & 1));
  return static_cast<std::uint16_t>(((bits & 0x7fffffffu) > 0x7f800000u ? bits | 0x400000u : sum) >> 16);
}
RECURRA_INLINE float widened_bits(std::uint16_t bits) {
  const std::uint32_t all = std::uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &all, sizeof value);
  return value;
}

template <class T> RECURRA_INLINE Vec<T> widened(const T* p) { return Vec<T>::load(p); }
template <class T> RECURRA_INLINE Vec<T> widened(const T* p, long n) { return Vec<T>::load_partial(p, n); }
template <class T> RECURRA_INLINE Vec<T> widened_blocks(const T* p, long stride) { return load_blocks(p, stride); }
template <class T> RECURRA_INLINE void store_narrowed(T* p, Vec<T> v) { Vec<T>::store(p, v); }

typedef std::uint16_t Halves __attribute__((vector_size(vector_bytes / 2)));

// GCC's own code for this takes the vector apart.
RECURRA_INLINE Vec<float> widened(const Bfloat16* p) {
#if defined(RECURRA_AVX512)
  const __m512i words = _mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {Types<float>::Raw(_mm512_maskz_slli_epi32(0xffff, words, 16))};
#elif defined(RECURRA_AVX2)
  // a load that fills both lanes, and one shuffle that puts each element into the upper half of its place
  const __m256i twice = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i places = _mm256_setr_epi8(-1, -1, 0, 1, -1, -1, 2, 3, -1, -1, 4, 5, -1, -1, 6, 7, -1, -1, 8, 9, -1, -1,
                                          10, 11, -1, -1, 12, 13, -1, -1, 14, 15);
  return {Types<float>::Raw(_mm256_shuffle_epi8(twice, places))};
#elif defined(__SSE2__)
  const __m128i upper = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return {Types<float>::Raw(_mm_unpacklo_epi16(_mm_setzero_si128(), upper))};
#else
  Halves upper;
  std::memcpy(&upper, p, sizeof upper);
  return from_bits<float>(Types<float>::Bits(__builtin_convertvector(upper, Types<float>::Words) << 16));
#endif
}
// The first n elements; the other lanes are zero.
RECURRA_INLINE Vec<float> widened(const Bfloat16* p, long n) {
  Bfloat16 lanes[Vec<float>::V] = {};
  for (long i = 0; i < n; ++i) lanes[i] = p[i];
  return widened(lanes);
}
RECURRA_INLINE Vec<float> widened_blocks(const Bfloat16* p, long stride) {
  constexpr long block = 16 / sizeof(float);
  Bfloat16 lanes[Vec<float>::V];
  for (long i = 0; i < Vec<float>::V; i += block) std::memcpy(lanes + i, p + i / block * stride, block * sizeof *p);
  return widened(lanes);
}
// Cuts the lower halves off: of what was widened these are zero.
RECURRA_INLINE void store_narrowed(Bfloat16* p, Vec<float> v) {
  const Halves upper = __builtin_convertvector(Types<float>::Words(bits_of(v)) >> 16, Halves);
  std::memcpy(p, &upper, sizeof upper);
}

}  // namespace RECURRA_ISA
}  // namespace recurra
