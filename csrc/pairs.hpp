// Pairs of bfloat16: two neighbours in a sum, whose products with another pair are added to a float together.
//
// AVX512_BF16 has an instruction for it, which takes denormal numbers for zero. Elsewhere a pair is taken apart: slower
// than floats, but the same sums up to the rounding of each addition.
#pragma once

#include "bfloat16.hpp"

namespace recurra {
namespace RECURRA_ISA {

#if defined(RECURRA_BF16)
constexpr bool has_pairs = true;
#else
constexpr bool has_pairs = false;
#endif

// The first number is the lower half. Rows of pairs are written as numbers.
struct __attribute__((may_alias)) Pair {
  std::uint32_t bits;
};
struct PairVector {
  Types<float>::Words words;
};

// What a matrix of Element is multiplied by, in sums of T.
template <class T, class Element> struct FactorOf {
  using Type = T;
};
template <> struct FactorOf<float, Pair> {
  using Type = Pair;
};

template <class T> RECURRA_INLINE Vec<T> repeated(T value) { return Vec<T>(value); }
RECURRA_INLINE PairVector repeated(Pair pair) { return {pair.bits + Types<float>::Words{}}; }
RECURRA_INLINE PairVector widened(const Pair* p) {
  PairVector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
// The first n; the others are zero.
RECURRA_INLINE PairVector widened(const Pair* p, long n) {
  PairVector v = {};
  std::memcpy(&v, p, n * sizeof *p);
  return v;
}
RECURRA_INLINE void store_pairs(Pair* p, PairVector v) { std::memcpy(p, &v, sizeof v); }
RECURRA_INLINE PairVector in_register(PairVector v) {
  v.words = in_register(v.words);
  return v;
}

RECURRA_INLINE Vec<float> fma_(PairVector a, PairVector b, Vec<float> c) {
#if defined(RECURRA_BF16)
  return {Types<float>::Raw(_mm512_dpbf16_ps(__m512(c.raw), (__m512bh)a.words, (__m512bh)b.words))};
#else
  const auto first = [](PairVector v) { return from_bits<float>(Types<float>::Bits(v.words << 16)); };
  const auto second = [](PairVector v) { return from_bits<float>(Types<float>::Bits(v.words & 0xffff0000u)); };
  return fma_(first(a), first(b), fma_(second(a), second(b), c));
#endif
}

// Each lane's nearest number of bfloat16, as nearest_bfloat16 finds it.
RECURRA_INLINE Vec<float> rounded(Vec<float> v) {
  using Words = Types<float>::Words;
  const Words bits = Words(bits_of(v)), sum = bits + (0x7fffu + ((bits >> 16) & 1u));
  const Vec<float> nearest = from_bits<float>(Types<float>::Bits(sum & 0xffff0000u));
  const Vec<float> nan = from_bits<float>(Types<float>::Bits((bits | 0x400000u) & 0xffff0000u));
  return select(v == v, nearest, nan);
}
// A float that is rounded whenever it is read: for products of so few rows that packing would cost more.
struct RoundedFloat {
  float value;
};
RECURRA_INLINE Vec<float> widened(const RoundedFloat* p) { return rounded(Vec<float>::load(&p->value)); }
RECURRA_INLINE Vec<float> widened(const RoundedFloat* p, long n) { return rounded(Vec<float>::load_partial(&p->value, n)); }

// Lane i is a pair of lanes i.
RECURRA_INLINE PairVector pairs_of(Vec<float> first, Vec<float> second) {
  using Words = Types<float>::Words;
  return {(Words(bits_of(rounded(first))) >> 16) | Words(bits_of(rounded(second)))};
}

constexpr long pair_count(long numbers) { return (numbers + 1) / 2; }

// A row of numbers, rounded, as pairs; `lead` zeros, 0 or 1, come before them, and one after them where the pair lacks
// it. What is written ends within a vector of floats after the last pair.
template <class From> RECURRA_INLINE void round_to_pairs(const From* in, long count, long lead, Pair* out) {
  constexpr long V = Vec<float>::V;
  auto* to = reinterpret_cast<Bfloat16*>(out);
  std::memset(to, 0, sizeof *to);
  to += lead;
  for (long i = 0; i < count; i += V)
    store_narrowed(to + i, rounded(count - i >= V ? widened(in + i) : widened(in + i, count - i)));
  std::memset(to + count, 0, sizeof *to);
}

}  // namespace RECURRA_ISA
}  // namespace recurra
