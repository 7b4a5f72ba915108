// The instructions of AVX-512 that the kernels use, on a processor with AVX2: those of libsimde (SIMD Everywhere, 0.7.4
// or newer) under the compiler's names, and those that it lacks, lane by lane. Intel's manual says what each does.
#pragma once

#if !defined(__AVX2__) || !defined(__FMA__)
#error "the emulation of AVX-512 needs AVX2 and FMA"
#endif
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#pragma GCC diagnostic ignored "-Wignored-attributes"
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

// Static, for these are no functions of one instruction set's namespace.
#define RECURRA_EMULATED_INLINE __attribute__((always_inline)) static inline

// Lane i of the result is function(i), of count lanes; zero where the mask has no bit.
template <class Result, class Lane, int count, class Function>
RECURRA_EMULATED_INLINE Result emulated_lanes(std::uint64_t mask, const Function& function) {
  Lane lanes[count] = {};
  for (int i = 0; i < count; ++i)
    if (mask >> i & 1) lanes[i] = function(i);
  Result result;
  static_assert(sizeof result == sizeof lanes);
  std::memcpy(&result, lanes, sizeof result);
  return result;
}
template <class Lane, int count, class Vector> struct EmulatedLanes {
  Lane lane[count];
  explicit EmulatedLanes(const Vector& v) {
    static_assert(sizeof v == sizeof lane);
    std::memcpy(lane, &v, sizeof lane);
  }
};

#define RECURRA_EMULATED_TYPE(suffix, Vector, Lane, count, Mask)                                             \
  RECURRA_EMULATED_INLINE Vector emulated_maskz_loadu_##suffix(Mask mask, const void* p) {                   \
    return emulated_lanes<Vector, Lane, count>(mask, [&](int i) { return static_cast<const Lane*>(p)[i]; }); \
  }                                                                                                          \
  RECURRA_EMULATED_INLINE void emulated_mask_storeu_##suffix(void* p, Mask mask, Vector v) {                 \
    const EmulatedLanes<Lane, count, Vector> a(v);                                                           \
    for (int i = 0; i < count; ++i)                                                                          \
      if (mask >> i & 1) static_cast<Lane*>(p)[i] = a.lane[i];                                               \
  }                                                                                                          \
  RECURRA_EMULATED_INLINE Vector emulated_maskz_sqrt_##suffix(Mask mask, Vector v) {                         \
    const EmulatedLanes<Lane, count, Vector> a(v);                                                           \
    return emulated_lanes<Vector, Lane, count>(mask, [&](int i) { return std::sqrt(a.lane[i]); });           \
  }                                                                                                          \
  /* libsimde has this one, through an exp2 that is not exact, and without denormal numbers */               \
  RECURRA_EMULATED_INLINE Vector emulated_maskz_scalef_##suffix(Mask mask, Vector v, Vector n) {             \
    const EmulatedLanes<Lane, count, Vector> a(v), b(n);                                                     \
    return emulated_lanes<Vector, Lane, count>(mask, [&](int i) {                                            \
      const Lane power = std::floor(b.lane[i]);                                                              \
      if (!(std::fabs(power) < Lane(1 << 20))) return a.lane[i] * std::exp2(power);                          \
      return std::ldexp(a.lane[i], int(power));                                                              \
    });                                                                                                      \
  }
RECURRA_EMULATED_TYPE(ps, __m512, float, 16, __mmask16)
RECURRA_EMULATED_TYPE(pd, __m512d, double, 8, __mmask8)
#undef RECURRA_EMULATED_TYPE

RECURRA_EMULATED_INLINE __m512 emulated_maskz_shuffle_f32x4(__mmask16 mask, __m512 a, __m512 b, int order) {
  const EmulatedLanes<float, 16, __m512> low(a), high(b);
  return emulated_lanes<__m512, float, 16>(mask, [&](int i) {
    const int block = order >> (i / 4 * 2) & 3;
    return (i < 8 ? low : high).lane[block * 4 + i % 4];
  });
}
template <class Lane, int count> RECURRA_EMULATED_INLINE __m512i emulated_maskz_loadu(__mmask64 mask, const void* p) {
  return emulated_lanes<__m512i, Lane, count>(mask, [&](int i) { return static_cast<const Lane*>(p)[i]; });
}
// to the nearest, of two to the even one
RECURRA_EMULATED_INLINE __m512i emulated_cvtps_epi32(__m512 v) {
  const EmulatedLanes<float, 16, __m512> a(v);
  return emulated_lanes<__m512i, std::int32_t, 16>(0xffff, [&](int i) { return _mm_cvtss_si32(_mm_set_ss(a.lane[i])); });
}
RECURRA_EMULATED_INLINE __m128i emulated_cvtepi32_epi8(__m512i v) {
  const EmulatedLanes<std::int32_t, 16, __m512i> a(v);
  return emulated_lanes<__m128i, std::int8_t, 16>(0xffff, [&](int i) { return static_cast<std::int8_t>(a.lane[i]); });
}
RECURRA_EMULATED_INLINE __m512i emulated_maskz_cvtepu16_epi32(__mmask16 mask, __m256i v) {
  const EmulatedLanes<std::uint16_t, 16, __m256i> a(v);
  return emulated_lanes<__m512i, std::uint32_t, 16>(mask, [&](int i) { return std::uint32_t(a.lane[i]); });
}
RECURRA_EMULATED_INLINE __m512i emulated_maskz_slli_epi32(__mmask16 mask, __m512i v, unsigned shift) {
  const EmulatedLanes<std::uint32_t, 16, __m512i> a(v);
  return emulated_lanes<__m512i, std::uint32_t, 16>(mask, [&](int i) { return shift > 31 ? 0u : a.lane[i] << shift; });
}

#undef _mm512_maskz_loadu_ps
#undef _mm512_maskz_loadu_pd
#undef _mm512_mask_storeu_ps
#undef _mm512_mask_storeu_pd
#undef _mm512_maskz_sqrt_ps
#undef _mm512_maskz_sqrt_pd
#undef _mm512_maskz_scalef_ps
#undef _mm512_maskz_scalef_pd
#undef _mm512_maskz_shuffle_f32x4
#undef _mm512_maskz_loadu_epi8
#undef _mm512_maskz_loadu_epi16
#undef _mm512_cvtps_epi32
#undef _mm512_cvtepi32_epi8
#undef _mm512_maskz_cvtepu16_epi32
#undef _mm512_maskz_slli_epi32
#define _mm512_maskz_loadu_ps emulated_maskz_loadu_ps
#define _mm512_maskz_loadu_pd emulated_maskz_loadu_pd
#define _mm512_mask_storeu_ps emulated_mask_storeu_ps
#define _mm512_mask_storeu_pd emulated_mask_storeu_pd
#define _mm512_maskz_sqrt_ps emulated_maskz_sqrt_ps
#define _mm512_maskz_sqrt_pd emulated_maskz_sqrt_pd
#define _mm512_maskz_scalef_ps emulated_maskz_scalef_ps
#define _mm512_maskz_scalef_pd emulated_maskz_scalef_pd
#define _mm512_maskz_shuffle_f32x4 emulated_maskz_shuffle_f32x4
#define _mm512_maskz_loadu_epi8 emulated_maskz_loadu<std::int8_t, 64>
#define _mm512_maskz_loadu_epi16 emulated_maskz_loadu<std::int16_t, 32>
#define _mm512_cvtps_epi32 emulated_cvtps_epi32
#define _mm512_cvtepi32_epi8 emulated_cvtepi32_epi8
#define _mm512_maskz_cvtepu16_epi32 emulated_maskz_cvtepu16_epi32
#define _mm512_maskz_slli_epi32 emulated_maskz_slli_epi32
// libsimde 0.7.4 gives this alias four arguments.
#undef _mm512_madd_epi16
#define _mm512_madd_epi16 simde_mm512_madd_epi16
// libsimde 0.7.4 shifts what is handed to it without brackets around it.
#undef _mm512_maskz_roundscale_ps
#undef _mm512_maskz_roundscale_pd
#define _mm512_maskz_roundscale_ps(mask, v, how) simde_mm512_maskz_roundscale_ps(mask, v, (how))
#define _mm512_maskz_roundscale_pd(mask, v, how) simde_mm512_maskz_roundscale_pd(mask, v, (how))
