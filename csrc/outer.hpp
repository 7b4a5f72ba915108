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
      for (long r = 0; r < rows; ++r, out += stride) Product<T>::copy(b[r] + begin, count, out, stride);
    }
  }

  static void accumulate(long rows, const T* const* a, long i_begin, long i_end, const T* packed_b, long nb, T* g,
                         long ldg) {
    alignas(64) T block[block_rows * block_columns + V];
    for (long first = 0; first < rows; first += block_rows) {
      const long height = smaller(block_rows, rows - first);
      for (long i = i_begin; i < i_end; i += block_columns) {
        const long columns = smaller(block_columns, i_end - i);
        pack_block(height, a + first, i, columns, block);
        for (long index = 0; index < panels(nb); ++index) {
          const long begin = index * panel, stride = Product<T>::width(nb, index),
                     lanes = smaller(panel, nb - begin) - (stride - V);
          const Operands o = {height, packed_b + begin * rows + first * stride, stride, 0, begin, lanes};
          for (long top = 0; top < columns; top += tile_rows)
            find_tile<GradientTile>(smaller(tile_rows, columns - top), stride / V)(o, block + top * height,
                                                                                   g + (i + top) * ldg, ldg);
        }
      }
    }
  }

 private:
  using Operands = typename Tile<T>::Operands;
  // Rows that are taken at a time: a panel of b then stays in the first cache while all tiles of a block pass it.
  static constexpr long block_rows = smaller(256, (24 << 10) / (panel * long(sizeof(T))));
  static constexpr long block_columns = 8 * tile_rows;

  // A block of a as its tiles read it: [tile][row][tile_rows]. In their own memory the rows are a power of two apart as
  // often as not, and evict each other from the cache.
  static void pack_block(long rows, const T* const* a, long begin, long columns, T* block) {
    for (long top = 0; top < columns; top += tile_rows) {
      T* out = block + top * rows;
      const long count = smaller(tile_rows, columns - top);
      // What a whole vector brings too much is overwritten by the next row.
      if (V >= tile_rows && top + V <= columns)
        for (long r = 0; r < rows; ++r, out += tile_rows) Vector::store(out, Vector::load(a[r] + begin + top));
      else
        for (long r = 0; r < rows; ++r, out += tile_rows)
          for (long i = 0; i < count; ++i) out[i] = a[r][begin + top + i];
    }
  }

  template <int R, int W> struct GradientTile {
    static void run(const Operands& o, const T* a, T* g, long ldg) {
      T* rows[R];
      const T* init[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) init[r] = rows[r] = g + r * ldg;
      Tile<T>::template run<R, 1, W, true>(o, typename Tile<T>::ColumnFactors{a, tile_rows}, init, rows);
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
