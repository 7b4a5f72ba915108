// Sums of outer products over many rows: the gradients of weights. And the peak that all products are measured against.
#pragma once

#include <chrono>

#include "product.hpp"

namespace recurra {
namespace RECURRA_ISA {

// g[i][j] += sum over rows r of a[r][i] * b[r][j], r ascending in one chain for each element.
template <class T> struct Outer {
  using Vector = Vec<T>;
  static constexpr long V = Vector::V;
  static constexpr long panel = Product<T>::panel;

  static long panels(long nb) { return Product<T>::panels(nb); }
  static long workspace(long rows, long nb) { return Product<T>::packed_size(nb, rows); }

  // Panels [panel_begin, panel_end) of b, each [rows][width], zero beyond nb.
  static void pack_b(long rows, const T* const* b, long nb, T* packed, long panel_begin, long panel_end) {
    for (long index = panel_begin; index < panel_end; ++index) {
      const long begin = index * panel, count = smaller(panel, nb - begin), stride = Product<T>::width(nb, index);
      T* out = packed + begin * rows;
      for (long r = 0; r < rows; ++r, out += stride) {
        const T* in = b[r] + begin;
        for (long w = 0; w < stride; w += V)
          Vector::store(out + w, count - w >= V ? Vector::load(in + w) : Vector::load_partial(in + w, count - w));
      }
    }
  }

  static void accumulate(long rows, const T* const* a, long i_begin, long i_end, const T* packed_b, long nb, T* g, long ldg) {
    for (long i = i_begin; i < i_end; ++i)
      for (long r = 0; r < rows; ++r)
        for (long index = 0; index < panels(nb); ++index) {
          const long begin = index * panel, count = smaller(panel, nb - begin), stride = Product<T>::width(nb, index);
          const T* b = packed_b + begin * rows + r * stride;
          for (long j = 0; j < count; ++j) g[i * ldg + begin + j] += a[r][i] * b[j];
        }
  }
};

// FLOP/s of fused multiply-adds on registers alone, on the calling thread.
template <class T> double peak(double seconds) {
  using Clock = std::chrono::steady_clock;
  constexpr int chains = 12;
  // Volatile, or the compiler works chains out by itself.
  volatile T factor = T(0.999), summand = T(0.001);
  const Vec<T> x{T(factor)}, y{T(summand)};
  Vec<T> sum[chains];
  for (int i = 0; i < chains; ++i) sum[i] = Vec<T>(T(factor) * T(i));
  double flop = 0, elapsed = 0;
  const auto start = Clock::now();
  while (elapsed < seconds) {
    for (long repeat = 0; repeat < 2000; ++repeat) {
#pragma GCC unroll 16
      for (int i = 0; i < chains; ++i) sum[i] = fma_(sum[i], x, y);
    }
    flop += 2000.0 * chains * 2.0 * double(Vec<T>::V);
    elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  }
  Vec<T> total = sum[0];
  for (int i = 1; i < chains; ++i) total = total + sum[i];
  volatile T sink = total.raw[0];
  (void)sink;
  return flop / elapsed;
}

}  // namespace RECURRA_ISA
}  // namespace recurra
