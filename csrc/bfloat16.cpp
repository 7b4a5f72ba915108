// The products of bfloat16 by bfloat16 of a processor with AVX512_BF16: two neighbours of a row at a time.
//
// The instruction multiplies exactly, adds in float32, and takes denormal numbers for zero. A sum is 16 chains, whose
// order k alone decides.
#include "bfloat16_kernels.hpp"
#include "vector.hpp"

#if !defined(RECURRA_BF16)
#error "compile this file for AVX512_BF16"
#endif

namespace recurra {
namespace RECURRA_ISA {
namespace {

constexpr long lanes = 32;
constexpr int width = 4;  // columns at a time
constexpr int height = 4;  // rows at a time

constexpr RECURRA_INLINE long smaller(long a, long b) { return a < b ? a : b; }

RECURRA_INLINE __m512bh load(const std::uint16_t* p, long n) {
  return (__m512bh)(n >= lanes ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16((__mmask32(1) << n) - 1, p));
}

RECURRA_INLINE __m128 quarter(Types<float>::Raw sum) {
  float all[16];
  std::memcpy(all, &sum, sizeof all);
  const __m128 low = _mm_add_ps(_mm_loadu_ps(all), _mm_loadu_ps(all + 8));
  return _mm_add_ps(low, _mm_add_ps(_mm_loadu_ps(all + 4), _mm_loadu_ps(all + 12)));
}

// sums[r][w] = a[r] . row w of m.
template <int R, int C>
RECURRA_INLINE void dots(const std::uint16_t* a, long a_stride, const std::uint16_t* m, long stride, long k,
                         float (*sums)[width]) {
  Types<float>::Raw sum[R][C] = {};
  for (long i = 0; i < k; i += lanes) {
    __m512bh row[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) row[r] = load(a + r * a_stride + i, lanes);
#pragma GCC unroll 4
    for (int w = 0; w < C; ++w) {
      const __m512bh column = load(m + w * stride + i, k - i);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[r][w] = Types<float>::Raw(_mm512_dpbf16_ps(__m512(sum[r][w]), row[r], column));
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int w = 0; w < C; ++w) {
      float four[4];
      _mm_storeu_ps(four, quarter(sum[r][w]));
      sums[r][w] = (four[0] + four[1]) + (four[2] + four[3]);
    }
}

template <int R>
RECURRA_INLINE void columns(const std::uint16_t* a, long a_stride, const std::uint16_t* m, long stride, long k,
                            long count, float (*sums)[width]) {
  switch (count) {
    case 1: return dots<R, 1>(a, a_stride, m, stride, k, sums);
    case 2: return dots<R, 2>(a, a_stride, m, stride, k, sums);
    case 3: return dots<R, 3>(a, a_stride, m, stride, k, sums);
    default: return dots<R, width>(a, a_stride, m, stride, k, sums);
  }
}

void product(const Bfloat16Rows& a, const Bfloat16Matrix& m, const float* const* init, float* const* c, long begin,
             long end) {
  float sums[height][width];
  for (long j = begin; j < end; j += width) {
    const std::uint16_t* weights = m.values + j * m.stride;
    const long count = smaller(width, end - j);
    for (long r = 0, rows; r < a.count; r += rows) {
      const std::uint16_t* factors = a.values + r * a.stride;
      rows = a.count - r >= height ? height : 1;
      if (rows == height) columns<height>(factors, a.stride, weights, m.stride, m.k, count, sums);
      else columns<1>(factors, a.stride, weights, m.stride, m.k, count, sums);
      for (long h = 0; h < rows; ++h)
        for (long w = 0; w < count; ++w) c[r + h][j + w] = init ? init[r + h][j + w] + sums[h][w] : sums[h][w];
    }
  }
}

}  // namespace

#define RECURRA_TEXT_OF(name) #name
#define RECURRA_TEXT(name) RECURRA_TEXT_OF(name)
extern const Bfloat16Kernels bfloat16_kernels;
const Bfloat16Kernels bfloat16_kernels = {RECURRA_TEXT(RECURRA_ISA), product};

}  // namespace RECURRA_ISA
}  // namespace recurra
