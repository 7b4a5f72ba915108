// One loop for each opcode of the plan format.
#pragma once

#include "math.hpp"
#include "plan.hpp"

namespace recurra {
namespace RECURRA_ISA {

// Row r of an operand begins at p + r * stride; stride 0 repeats one row.
template <class T> struct Slot {
  T* p;
  long stride;
};

// Never touches memory outside of `rows` rows of `width` columns.
template <class T> using Kernel = void (*)(long rows, long width, const Slot<T>& to, const Slot<T>& a, const Slot<T>& b,
                                           const Slot<T>& c);

template <class T> RECURRA_INLINE Vec<T> one_where(Mask<T> mask) { return select(mask, Vec<T>(T(1)), Vec<T>(T(0))); }
template <class T> RECURRA_INLINE Vec<T> minimum_(Vec<T> a, Vec<T> b) { return select(a != a, a, select(a < b, a, b)); }
template <class T> RECURRA_INLINE Vec<T> maximum_(Vec<T> a, Vec<T> b) { return select(a != a, a, select(a > b, a, b)); }

template <class T> struct Operations {
  using V = Vec<T>;

  template <V (*f)(V)> static void unary(long rows, long width, const Slot<T>& to, const Slot<T>& a, const Slot<T>&,
                                         const Slot<T>&) {
    for (long r = 0; r < rows; ++r) {
      T* d = to.p + r * to.stride;
      const T* x = a.p + r * a.stride;
      long j = 0;
      for (; j + V::V <= width; j += V::V) V::store(d + j, f(V::load(x + j)));
      if (j < width) V::store_partial(d + j, f(V::load_partial(x + j, width - j)), width - j);
    }
  }
  template <V (*f)(V, V)> static void binary(long rows, long width, const Slot<T>& to, const Slot<T>& a,
                                             const Slot<T>& b, const Slot<T>&) {
    for (long r = 0; r < rows; ++r) {
      T* d = to.p + r * to.stride;
      const T *x = a.p + r * a.stride, *y = b.p + r * b.stride;
      long j = 0;
#pragma GCC unroll 4
      for (; j + V::V <= width; j += V::V) V::store(d + j, f(V::load(x + j), V::load(y + j)));
      if (j < width) {
        const long n = width - j;
        V::store_partial(d + j, f(V::load_partial(x + j, n), V::load_partial(y + j, n)), n);
      }
    }
  }
  template <V (*f)(V, V, V)> static void ternary(long rows, long width, const Slot<T>& to, const Slot<T>& a,
                                                 const Slot<T>& b, const Slot<T>& c) {
    for (long r = 0; r < rows; ++r) {
      T* d = to.p + r * to.stride;
      const T *x = a.p + r * a.stride, *y = b.p + r * b.stride, *z = c.p + r * c.stride;
      long j = 0;
#pragma GCC unroll 4
      for (; j + V::V <= width; j += V::V) V::store(d + j, f(V::load(x + j), V::load(y + j), V::load(z + j)));
      if (j < width) {
        const long n = width - j;
        const V value = f(V::load_partial(x + j, n), V::load_partial(y + j, n), V::load_partial(z + j, n));
        V::store_partial(d + j, value, n);
      }
    }
  }

  static RECURRA_INLINE V copy(V a) { return a; }
  static RECURRA_INLINE V add(V a, V b) { return a + b; }
  static RECURRA_INLINE V sub(V a, V b) { return a - b; }
  static RECURRA_INLINE V mul(V a, V b) { return a * b; }
  static RECURRA_INLINE V div(V a, V b) { return a / b; }
  static RECURRA_INLINE V neg(V a) { return -a; }
  static RECURRA_INLINE V fma(V a, V b, V c) { return fma_(a, b, c); }
  static RECURRA_INLINE V fnma(V a, V b, V c) { return fma_(-a, b, c); }
  static RECURRA_INLINE V one_minus(V a) { return V(T(1)) - a; }
  static RECURRA_INLINE V sigmoid(V a) { return sigmoid_(a); }
  static RECURRA_INLINE V tanh(V a) { return tanh_(a); }
  // Not (a <= 0), so that NaN stays NaN.
  static RECURRA_INLINE V relu(V a) { return select(!(a <= V(T(0))), a, V(T(0))); }
  static RECURRA_INLINE V exp(V a) { return exp_(a); }
  static RECURRA_INLINE V log(V a) { return log_(a); }
  static RECURRA_INLINE V sqrt(V a) { return sqrt_(a); }
  static RECURRA_INLINE V rsqrt(V a) { return rsqrt_(a); }
  static RECURRA_INLINE V softplus(V a) { return softplus_(a); }
  static RECURRA_INLINE V abs(V a) { return abs_(a); }
  static RECURRA_INLINE V minimum(V a, V b) { return minimum_(a, b); }
  static RECURRA_INLINE V maximum(V a, V b) { return maximum_(a, b); }
  static RECURRA_INLINE V clip(V a, V b, V c) { return minimum_(maximum_(a, b), c); }
  static RECURRA_INLINE V floor(V a) { return floor_(a); }
  static RECURRA_INLINE V mod(V a, V b) { return mod_(a, b); }
  static RECURRA_INLINE V where(V a, V b, V c) { return select(a != V(T(0)), b, c); }
  static RECURRA_INLINE V lt(V a, V b) { return one_where(a < b); }
  static RECURRA_INLINE V le(V a, V b) { return one_where(a <= b); }
  static RECURRA_INLINE V gt(V a, V b) { return one_where(a > b); }
  static RECURRA_INLINE V ge(V a, V b) { return one_where(a >= b); }
  static RECURRA_INLINE V eq(V a, V b) { return one_where(a == b); }
  static RECURRA_INLINE V ne(V a, V b) { return one_where(a != b); }
  static RECURRA_INLINE V sign(V a) {
    const V zero(T(0));
    return select(a > zero, V(T(1)), select(a < zero, V(T(-1)), a));
  }
  static RECURRA_INLINE V sigmoid_gradient(V a, V b) { return a * (b * (V(T(1)) - b)); }
  static RECURRA_INLINE V tanh_gradient(V a, V b) { return a * (V(T(1)) - b * b); }
  static RECURRA_INLINE V step(V a) { return one_where(a > V(T(0))); }
  static RECURRA_INLINE V sin(V a) { return sin_(a); }
  static RECURRA_INLINE V cos(V a) { return cos_(a); }
  static RECURRA_INLINE V log1p(V a) { return log1p_(a); }
  static RECURRA_INLINE V expm1(V a) { return expm1_(a); }
  static RECURRA_INLINE V mix(V a, V b) { return mix_(a, b); }
};

// In the order of the opcodes.
template <class T> constexpr Kernel<T> kernels[opcode_count] = {
    Operations<T>::template unary<Operations<T>::copy>,
    Operations<T>::template binary<Operations<T>::add>,
    Operations<T>::template binary<Operations<T>::sub>,
    Operations<T>::template binary<Operations<T>::mul>,
    Operations<T>::template binary<Operations<T>::div>,
    Operations<T>::template unary<Operations<T>::neg>,
    Operations<T>::template ternary<Operations<T>::fma>,
    Operations<T>::template ternary<Operations<T>::fnma>,
    Operations<T>::template unary<Operations<T>::one_minus>,
    Operations<T>::template unary<Operations<T>::sigmoid>,
    Operations<T>::template unary<Operations<T>::tanh>,
    Operations<T>::template unary<Operations<T>::relu>,
    Operations<T>::template unary<Operations<T>::exp>,
    Operations<T>::template unary<Operations<T>::log>,
    Operations<T>::template unary<Operations<T>::sqrt>,
    Operations<T>::template unary<Operations<T>::rsqrt>,
    Operations<T>::template unary<Operations<T>::softplus>,
    Operations<T>::template unary<Operations<T>::abs>,
    Operations<T>::template binary<Operations<T>::minimum>,
    Operations<T>::template binary<Operations<T>::maximum>,
    Operations<T>::template ternary<Operations<T>::clip>,
    Operations<T>::template unary<Operations<T>::floor>,
    Operations<T>::template binary<Operations<T>::mod>,
    Operations<T>::template ternary<Operations<T>::where>,
    Operations<T>::template binary<Operations<T>::lt>,
    Operations<T>::template binary<Operations<T>::le>,
    Operations<T>::template binary<Operations<T>::gt>,
    Operations<T>::template binary<Operations<T>::ge>,
    Operations<T>::template binary<Operations<T>::eq>,
    Operations<T>::template binary<Operations<T>::ne>,
    Operations<T>::template unary<Operations<T>::sign>,
    Operations<T>::template binary<Operations<T>::sigmoid_gradient>,
    Operations<T>::template binary<Operations<T>::tanh_gradient>,
    Operations<T>::template unary<Operations<T>::step>,
    Operations<T>::template unary<Operations<T>::sin>,
    Operations<T>::template unary<Operations<T>::cos>,
    Operations<T>::template unary<Operations<T>::log1p>,
    Operations<T>::template unary<Operations<T>::expm1>,
    Operations<T>::template binary<Operations<T>::mix>,
};

}  // namespace RECURRA_ISA
}  // namespace recurra
