// A row of columns reduced to a number, and a row brought to a mean of zero and a scale.
#pragma once

#include "math.hpp"
#include "plan.hpp"

namespace recurra {
namespace RECURRA_ISA {

template <class T> struct Reductions {
  static T reduce(const ReducePhase& phase, const Plan& plan, const T* p, const T* q) {
    const long length = phase.length;
    switch (phase.operation) {
      case 0: return sum(p, length);
      case 1: return folded(length, maximum_<T>, [p](long j, long n) { return load(p + j, n); });
      case 2: return folded(length, minimum_<T>, [p](long j, long n) { return load(p + j, n); });
      case 3: return dot(p, q, length);
      default: break;
    }
    const T epsilon = static_cast<T>(plan.constants[phase.epsilon]), mean = sum(p, length) / static_cast<T>(length);
    const V centre(phase.operation == 4 ? mean : T(0));
    const T squares = folded(length, plus, [p, centre](long j, long n) {
      const V d = load(p + j, n) - centre;
      return d * d;
    });
    return first_lane(rsqrt_(V(squares / static_cast<T>(length) + epsilon)));
  }

  // q is the row of the normal, null where there is none.
  static void normalise(const NormalisePhase& phase, const T* p, const T* q, T factor, T* to) {
    const long length = phase.length;
    const T count = static_cast<T>(length);
    const V scale(factor), mean(phase.centred ? sum(p, length) / count : T(0));
    if (q == nullptr) {
      for (long j = 0; j < length; j += V::V) store(to + j, (load(p + j, length - j) - mean) * scale, length - j);
      return;
    }
    const V slope(dot(p, q, length) / count);
    for (long j = 0; j < length; j += V::V) {
      const V along = fma_(-load(q + j, length - j), slope, load(p + j, length - j) - mean);
      store(to + j, along * scale, length - j);
    }
  }

 private:
  using V = Vec<T>;

  // The first n lanes, or all of them.
  static RECURRA_INLINE V load(const T* p, long n) { return n >= V::V ? V::load(p) : V::load_partial(p, n); }
  static RECURRA_INLINE void store(T* p, V v, long n) { n >= V::V ? V::store(p, v) : V::store_partial(p, v, n); }
  static RECURRA_INLINE T first_lane(V v) {
    T lanes[V::V];
    V::store(lanes, v);
    return lanes[0];
  }
  static RECURRA_INLINE V plus(V a, V b) { return a + b; }

  static T sum(const T* p, long length) {
    return folded(length, plus, [p](long j, long n) { return load(p + j, n); });
  }
  static T dot(const T* p, const T* q, long length) {
    return folded(length, plus, [p, q](long j, long n) { return load(p + j, n) * load(q + j, n); });
  }

  // term(j, n) holds n terms from column j on. They are put together in an order that the length alone decides: four
  // vectors of partial results over the columns, then those, then their lanes and what is left over.
  template <class Merge, class Term> static RECURRA_INLINE T folded(long length, Merge merge, Term term) {
    if (length < 1) __builtin_unreachable();  // such a plan is refused
    T lanes[2 * V::V];
    long count = 0, j = 0;
    if (length >= V::V) {
      V all = term(0, V::V);
      j = V::V;
      if (length >= 4 * V::V) {
        V b = term(V::V, V::V), c = term(2 * V::V, V::V), d = term(3 * V::V, V::V);
        for (j = 4 * V::V; j + 4 * V::V <= length; j += 4 * V::V) {
          all = merge(all, term(j, V::V));
          b = merge(b, term(j + V::V, V::V));
          c = merge(c, term(j + 2 * V::V, V::V));
          d = merge(d, term(j + 3 * V::V, V::V));
        }
        all = merge(merge(all, b), merge(c, d));
      }
      for (; j + V::V <= length; j += V::V) all = merge(all, term(j, V::V));
      V::store(lanes, all);
      count = V::V;
    }
    if (j < length) {
      V::store(lanes + count, term(j, length - j));
      count += length - j;
    }
    V result(lanes[0]);
    for (long i = 1; i < count; ++i) result = merge(result, V(lanes[i]));
    return first_lane(result);
  }
};

}  // namespace RECURRA_ISA
}  // namespace recurra
