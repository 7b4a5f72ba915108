// Matrices of floats or bfloat16 as panels of pairs, for Product<float, Pair> and for Outer<float, Pair>.
#pragma once

#include "product.hpp"

namespace recurra {
namespace RECURRA_ISA {

struct PairPacks {
  using Panels = Product<float, Pair>;
  static constexpr long V = Panels::V, panel = Panels::panel;

  // Panels [panel_begin, panel_end) of the n x k matrix whose element (i, j) is m[i * row_stride + j * column_stride], as
  // Product::pack has them: [pair_count(k)][width].
  template <class From>
  static void pack(const From* m, long row_stride, long column_stride, long n, long k, Pair* packed, long panel_begin,
                   long panel_end) {
    for (long index = panel_begin; index < panel_end; ++index) {
      const long begin = index * panel, count = smaller(panel, n - begin), stride = Panels::width(n, index);
      const From* in = m + begin * row_stride;
      Pair* out = packed + begin * pair_count(k);
      if (column_stride == 1) {
        for (long i = 0; i < count; i += V)
          transpose(in + i * row_stride, row_stride, smaller(V, count - i), k, out + i, stride);
      } else {
        for (long j = 0; j < k; j += 2, in += 2 * column_stride, out += stride)
          interleave(in, j + 1 < k ? in + column_stride : nullptr, count, out, stride);
      }
    }
  }

  // `stride` pairs, a multiple of the vector's, of which the first `count` are of the numbers of two rows, the others
  // zero; without a second row, its numbers are zero.
  template <class From>
  static RECURRA_INLINE void interleave(const From* first, const From* second, long count, Pair* out, long stride) {
    for (long i = 0; i < stride; i += V) {
      const auto from = [&](const From* row) {
        if (row == nullptr || i >= count) return Vec<float>(0.0f);
        return count - i >= V ? widened(row + i) : widened(row + i, count - i);
      };
      store_pairs(out + i, pairs_of(from(first), from(second)));
    }
  }

 private:
  // Up to V rows as up to V columns of a panel: a block of each is rounded, and the blocks are transposed as if they were
  // floats.
  template <class From>
  static void transpose(const From* in, long in_stride, long rows, long k, Pair* out, long out_stride) {
    constexpr long block = 64;  // numbers
    float pairs[V * (block / 2) + V];
    for (long j = 0; j < k; j += block) {
      const long numbers = smaller(block, k - j), count = pair_count(numbers);
      for (long i = 0; i < rows; ++i)
        round_to_pairs(in + i * in_stride + j, numbers, 0, reinterpret_cast<Pair*>(pairs + i * (block / 2)));
      Product<float>::transpose(pairs, block / 2, rows, count, reinterpret_cast<float*>(out + j / 2 * out_stride),
                                out_stride);
    }
  }
};

}  // namespace RECURRA_ISA
}  // namespace recurra
