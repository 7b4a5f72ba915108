// Sums of outer products over many rows: the gradients of weights. And the peak that all products are measured against.
#pragma once

#include <chrono>
#include <type_traits>

#include "pair_packs.hpp"

namespace recurra {
namespace RECURRA_ISA {

// g[i][j] += sum over rows r of a[r][i] * b[r][j], r ascending in one chain for each element. Where Element is Pair, two
// rows at a time are rounded and make one of pairs.
template <class T, class Element = T> struct Outer {
  using Vector = Vec<T>;
  using Panels = Product<T, Element>;
  static constexpr long V = Vector::V;
  static constexpr long panel = Panels::panel;
  static constexpr bool in_pairs = std::is_same_v<Element, Pair>;

  static long panels(long nb) { return Panels::panels(nb); }
  // What rows are packed into.
  static long packed_rows(long rows) { return in_pairs ? pair_count(rows) : rows; }
  static long workspace(long rows, long nb) { return Panels::packed_size(nb, packed_rows(rows)); }

  // Panels [panel_begin, panel_end) of b, each [packed_rows][width], zero beyond nb.
  static void pack_b(long rows, const T* const* b, long nb, Element* packed, long panel_begin, long panel_end) {
    for (long index = panel_begin; index < panel_end; ++index) {
      const long begin = index * panel, count = smaller(panel, nb - begin), stride = Panels::width(nb, index);
      Element* out = packed + begin * packed_rows(rows);
      for (long r = 0; r < rows; r += rows_at_once, out += stride) copy(b, r, rows, begin, count, out, stride);
    }
  }

  static void accumulate(long rows, const T* const* a, long i_begin, long i_end, const Element* packed_b, long nb, T* g,
                         long ldg) {
    alignas(64) Element block[block_rows * block_columns + V];
    const long all = packed_rows(rows);
    for (long first = 0; first < all; first += block_rows) {
      const long height = smaller(block_rows, all - first), begin_row = first * rows_at_once;
      for (long i = i_begin; i < i_end; i += block_columns) {
        const long columns = smaller(block_columns, i_end - i);
        pack_block(smaller(height * rows_at_once, rows - begin_row), a + begin_row, i, columns, height, block);
        for (long index = 0; index < panels(nb); ++index) {
          const long begin = index * panel, stride = Panels::width(nb, index),
                     lanes = smaller(panel, nb - begin) - (stride - V);
          const Operands o = {height, packed_b + begin * all + first * stride, stride, 0, begin, lanes};
          for (long top = 0; top < columns; top += tile_rows)
            find_tile<GradientTile>(smaller(tile_rows, columns - top), stride / V)(o, block + top * height,
                                                                                   g + (i + top) * ldg, ldg);
        }
      }
    }
  }

 private:
  using Operands = typename Tile<T, Element>::Operands;
  static constexpr long rows_at_once = in_pairs ? 2 : 1;
  // Rows that are taken at a time: a panel of b then stays in the first cache while all tiles of a block pass it.
  static constexpr long block_rows = smaller(256, (24 << 10) / (panel * long(sizeof(T))));
  static constexpr long block_columns = 8 * tile_rows;

  // Columns from `begin` on of row r, or of it and the next one.
  static RECURRA_INLINE void copy(const T* const* from, long r, long rows, long begin, long count, Element* out,
                                  long stride) {
    if constexpr (in_pairs)
      PairPacks::interleave(from[r] + begin, r + 1 < rows ? from[r + 1] + begin : nullptr, count, out, stride);
    else
      Panels::copy(from[r] + begin, count, out, stride);
  }

  // A block of a as its tiles read it: [tile][row][tile_rows]. In their own memory the rows are a power of two apart as
  // often as not, and evict each other from the cache.
  static void pack_block(long rows, const T* const* a, long begin, long columns, long height, Element* block) {
    for (long top = 0; top < columns; top += tile_rows) {
      Element* out = block + top * height;
      // What whole vectors bring too much is overwritten by the next row.
      constexpr long width = (tile_rows + V - 1) / V * V;
      const long count = smaller(width, columns - top);
      for (long r = 0; r < rows; r += rows_at_once, out += tile_rows) copy(a, r, rows, begin + top, count, out, width);
    }
  }

  template <int R, int W> struct GradientTile {
    static void run(const Operands& o, const Element* a, T* g, long ldg) {
      T* rows[R];
      const T* init[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) init[r] = rows[r] = g + r * ldg;
      using Sums = Tile<T, Element>;
      Sums::template run<R, 1, W, true>(o, typename Sums::ColumnFactors{a, tile_rows}, init, rows);
    }
  };
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
