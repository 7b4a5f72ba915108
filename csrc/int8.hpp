// Products of a matrix of int8 weights, each row with a scale, and rows of floats that are rounded to int8 on the way.
//
// Sums of int8 times int8 are exact in 32 bits, so results depend neither on how rows and columns are grouped or split
// between threads, nor on the instruction set.
#pragma once

#include <cmath>
#include <limits>

#include "int8_kernels.hpp"
#include "vector.hpp"

namespace recurra {
namespace RECURRA_ISA {

#if defined(RECURRA_AVX512)
constexpr long int8_lanes = 64;
#elif defined(RECURRA_AVX2)
constexpr long int8_lanes = 32;
#else
constexpr long int8_lanes = 16;
#endif

// Factors are -127 to 127: the sum of two products of them fits in 16 bits, and each has a negative.
struct Int8 {
  static float quantise(const float* x, long k, std::int8_t* q) {
    // as integers, magnitudes are in the same order, infinity above the others and NaN above that
    std::int32_t most = 0;
    for (long i = 0; i < k; ++i) {
      std::int32_t bits;
      std::memcpy(&bits, x + i, sizeof bits);
      bits &= 0x7fffffff;
      most = most > bits ? most : bits;
    }
    float largest;
    std::memcpy(&largest, &most, sizeof largest);
    const bool finite = largest <= std::numeric_limits<float>::max();
    // so small that 127 / largest is infinite
    const bool nothing = largest < 0x1p-100f;
    if (!finite || nothing) {
      std::memset(q, 0, int8_padded(k));
      return nothing ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    }
    const float factor = 127.0f / largest;
    for (long i = quantise_whole(x, k, factor, q); i < k; ++i) q[i] = rounded(x[i] * factor);
    std::memset(q + k, 0, int8_padded(k) - k);
    return largest / 127.0f;
  }

  // c[r][j] = (init ? init[r][j] : 0) + sum over i of a[r][i] * m[j][i], times both rows' scales, for j in [begin, end).
  static void product(const Int8Rows& a, const Int8Matrix& m, const float* const* init, float* const* c, long begin,
                      long end) {
    std::int32_t sums[2][width];
    for (long j = begin; j < end; j += width) {
      const std::int8_t* columns = m.values + j * m.stride;
      const long count = smaller(width, end - j);
      for (long r = 0, height; r < a.count; r += height) {
        height = smaller(2, a.count - r);
        const std::int8_t* rows = a.values + r * a.stride;
        if (count < width)
          for (long h = 0; h < height; ++h)
            for (long w = 0; w < count; ++w)
              dots<1, 1>(rows + h * a.stride, a.stride, columns + w * m.stride, m.stride, m.k, &sums[h], w);
        else if (height == 2)
          dots<2, width>(rows, a.stride, columns, m.stride, m.k, sums);
        else
          dots<1, width>(rows, a.stride, columns, m.stride, m.k, sums);
        for (long h = 0; h < height; ++h)
          scale(sums[h], a.scales[r + h], m.scales + j, init ? init[r + h] + j : nullptr, c[r + h] + j, count);
      }
    }
  }

 private:
  static constexpr long width = 4;  // columns at a time
  static constexpr RECURRA_INLINE long smaller(long a, long b) { return a < b ? a : b; }

  typedef float Floats __attribute__((vector_size(16)));
  typedef std::int32_t Sums __attribute__((vector_size(16)));

  // Each step is rounded by itself, on every processor: the compiler must not fuse the last two.
  static RECURRA_INLINE void scale(const std::int32_t* sums, float a, const float* m, const float* init, float* c,
                                   long count) {
    if (count < width) {
      for (long w = 0; w < count; ++w) {
        const float value = in_register(static_cast<float>(sums[w]) * (a * m[w]));
        c[w] = init ? init[w] + value : value;
      }
      return;
    }
    Sums whole;
    Floats scales, start = {};
    std::memcpy(&whole, sums, sizeof whole);
    std::memcpy(&scales, m, sizeof scales);
    Floats value = in_register(__builtin_convertvector(whole, Floats) * (a * scales));
    if (init) {
      std::memcpy(&start, init, sizeof start);
      value = start + value;
    }
    std::memcpy(c, &value, sizeof value);
  }

  static RECURRA_INLINE std::int8_t rounded(float value) {
#if defined(__SSE2__)
    return static_cast<std::int8_t>(_mm_cvtss_si32(_mm_set_ss(value)));
#else
    return static_cast<std::int8_t>(std::lrintf(value));
#endif
  }

#if defined(RECURRA_AVX512) || defined(RECURRA_AVX2)
#if defined(RECURRA_AVX512)
  using Bytes = __m512i;
  static RECURRA_INLINE Bytes load(const std::int8_t* p) { return _mm512_loadu_si512(p); }
  static RECURRA_INLINE Bytes load(const std::int8_t* p, long n) {
    return _mm512_maskz_loadu_epi8((__mmask64(1) << n) - 1, p);
  }
  struct Factor {
    Bytes magnitude;
    __mmask64 negative;
    explicit RECURRA_INLINE Factor(Bytes a) : magnitude(_mm512_abs_epi8(a)), negative(_mm512_movepi8_mask(a)) {}
  };
  static RECURRA_INLINE Bytes add(Bytes sum, const Factor& a, Bytes w) {
    const Bytes signed_w = _mm512_mask_sub_epi8(w, a.negative, _mm512_setzero_si512(), w);
#if defined(RECURRA_VNNI)
    return _mm512_dpbusd_epi32(sum, a.magnitude, signed_w);
#else
    const Bytes pairs = _mm512_maddubs_epi16(a.magnitude, signed_w);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
  }
  static RECURRA_INLINE Bytes zero() { return _mm512_setzero_si512(); }
  static RECURRA_INLINE __m128i halves(Bytes v) {
    const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  }
  static RECURRA_INLINE long quantise_whole(const float* x, long k, float factor, std::int8_t* q) {
    long i = 0;
    for (; i + 16 <= k; i += 16) {
      const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), _mm512_set1_ps(factor)));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(q + i), _mm512_cvtepi32_epi8(whole));
    }
    return i;
  }
#else
  using Bytes = __m256i;
  static RECURRA_INLINE Bytes load(const std::int8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static RECURRA_INLINE Bytes load(const std::int8_t* p, long n) {
    alignas(32) std::int8_t copy[32] = {};
    std::memcpy(copy, p, n);
    return load(copy);
  }
  struct Factor {
    Bytes magnitude, value;
    explicit RECURRA_INLINE Factor(Bytes a) : magnitude(_mm256_abs_epi8(a)), value(a) {}
  };
  static RECURRA_INLINE Bytes add(Bytes sum, const Factor& a, Bytes w) {
    const Bytes pairs = _mm256_maddubs_epi16(a.magnitude, _mm256_sign_epi8(w, a.value));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static RECURRA_INLINE Bytes zero() { return _mm256_setzero_si256(); }
  static RECURRA_INLINE __m128i halves(Bytes v) {
    return _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  }
  static RECURRA_INLINE __m256i whole_numbers(const float* x, float factor) {
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), _mm256_set1_ps(factor)));
  }
  static RECURRA_INLINE long quantise_whole(const float* x, long k, float factor, std::int8_t* q) {
    long i = 0;
    for (; i + 16 <= k; i += 16) {
      const __m256i pairs = _mm256_packs_epi32(whole_numbers(x + i, factor), whole_numbers(x + i + 8, factor));
      const __m256i in_order = _mm256_permute4x64_epi64(pairs, 0xd8);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(q + i),
                       _mm_packs_epi16(_mm256_castsi256_si128(in_order), _mm256_extracti128_si256(in_order, 1)));
    }
    return i;
  }
#endif

  // sums[r][place + w] = a[r] . row w of m.
  template <int R, int C>
  static RECURRA_INLINE void dots(const std::int8_t* a, long a_stride, const std::int8_t* m, long stride, long k,
                                  std::int32_t (*sums)[width], long place = 0) {
    Bytes sum[R][C];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int w = 0; w < C; ++w) sum[r][w] = zero();
    long i = 0;
    for (; i + int8_lanes <= k; i += int8_lanes) multiply<R, C>(a + i, a_stride, m + i, stride, int8_lanes, sum);
    if (i < k) multiply<R, C>(a + i, a_stride, m + i, stride, k - i, sum);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      if constexpr (C == 4) {
        const __m128i ab = _mm_hadd_epi32(halves(sum[r][0]), halves(sum[r][1]));
        const __m128i cd = _mm_hadd_epi32(halves(sum[r][2]), halves(sum[r][3]));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(sums[r]), _mm_hadd_epi32(ab, cd));
      } else {
        const __m128i two = _mm_hadd_epi32(halves(sum[r][0]), _mm_setzero_si128());
        sums[r][place] = _mm_cvtsi128_si32(_mm_hadd_epi32(two, two));
      }
    }
  }
  template <int R, int C>
  static RECURRA_INLINE void multiply(const std::int8_t* a, long a_stride, const std::int8_t* m, long stride, long n,
                                      Bytes (&sum)[R][C]) {
#pragma GCC unroll 8
    for (int w = 0; w < C; ++w) {
      // rows are too short for the processor to see ahead by itself
      __builtin_prefetch(m + (w + C) * stride);
      const Bytes column = n == int8_lanes ? load(m + w * stride) : load(m + w * stride, n);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[r][w] = add(sum[r][w], Factor(load(a + r * a_stride)), column);
    }
  }
#else
  static RECURRA_INLINE long quantise_whole(const float*, long, float, std::int8_t*) { return 0; }

  template <int R, int C>
  static RECURRA_INLINE void dots(const std::int8_t* a, long a_stride, const std::int8_t* m, long stride, long k,
                                  std::int32_t (*sums)[width], long place = 0) {
    for (int r = 0; r < R; ++r)
      for (int w = 0; w < C; ++w) {
        std::int32_t sum = 0;
        for (long i = 0; i < k; ++i)
          sum += static_cast<std::int32_t>(a[r * a_stride + i]) * static_cast<std::int32_t>(m[w * stride + i]);
        sums[r][place + w] = sum;
      }
  }
#endif
};

}  // namespace RECURRA_ISA
}  // namespace recurra
