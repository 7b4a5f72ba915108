// Products with a matrix of which most elements are zero: those are left out, row by row of the result.
#pragma once

#include <cstdint>

#include "product.hpp"

namespace recurra {
namespace RECURRA_ISA {

// The elements that are not zero, row after row: those of row i are number start[i] up to start[i + 1].
template <class T> struct SparseRows {
  long* start;
  std::int32_t* column;
  T* value;
};

template <class T> struct Sparse {
  static long count(const T* m, long size) {
    long found = 0;
    for (long i = 0; i < size; ++i) found += m[i] != T(0);
    return found;
  }

  // Packs the n x k matrix whose element (i, j) is m[i * row_stride + j * column_stride]. It is read in the order in which
  // it lies in memory.
  static void pack(const T* m, long row_stride, long column_stride, long n, long k, const SparseRows<T>& out) {
    for (long i = 0; i <= n; ++i) out.start[i] = 0;
    each(m, row_stride, column_stride, n, k, [&](long i, long, T) { ++out.start[i + 1]; });
    for (long i = 0; i < n; ++i) out.start[i + 1] += out.start[i];
    each(m, row_stride, column_stride, n, k, [&](long i, long j, T value) {
      const long at = out.start[i]++;
      out.column[at] = static_cast<std::int32_t>(j);
      out.value[at] = value;
    });
    // each start has moved to the end of its row
    for (long i = n; i > 0; --i) out.start[i] = out.start[i - 1];
    out.start[0] = 0;
  }

  // c[i] = (init ? init[i] : 0) + sum over j of M[i][j] * a[j], for i in [begin, end).
  static void product(const SparseRows<T>& m, const T* a, const T* init, T* c, long begin, long end) {
    for (long i = begin; i < end; ++i) {
      T sum[chains] = {init ? init[i] : T(0)};
      long at = m.start[i];
      const long last = m.start[i + 1];
      for (; at + chains <= last; at += chains)
#pragma GCC unroll 4
        for (long s = 0; s < chains; ++s) sum[s] += m.value[at + s] * in_register(a[m.column[at + s]]);
      for (long s = 0; at < last; ++at, ++s) sum[s] += m.value[at] * a[m.column[at]];
      c[i] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
  }

 private:
  static constexpr long chains = 4;

  template <class Visit>
  static void each(const T* m, long row_stride, long column_stride, long n, long k, const Visit& visit) {
    const bool by_rows = column_stride == 1;
    for (long outer = 0; outer < (by_rows ? n : k); ++outer)
      for (long inner = 0; inner < (by_rows ? k : n); ++inner) {
        const long i = by_rows ? outer : inner, j = by_rows ? inner : outer;
        const T value = m[i * row_stride + j * column_stride];
        if (value != T(0)) visit(i, j, value);
      }
  }
};

}  // namespace RECURRA_ISA
}  // namespace recurra
