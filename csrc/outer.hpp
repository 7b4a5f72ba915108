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
    alignas(64) T copy[copied_rows * copied_columns];
    const long count = panels(nb);
    for (long first = 0; first < rows; first += copied_rows) {
      const long height = smaller(copied_rows, rows - first);
      for (long i = i_begin; i < i_end; i += copied_columns) {
        const long columns = smaller(copied_columns, i_end - i);
        copy_block(height, a + first, i, columns, copy);
        for (long index = 0; index < count; ++index) {
          const long begin = index * panel, stride = Product<T>::width(nb, index), used = smaller(panel, nb - begin);
          Operands o = {height, copy, packed_b + begin * rows + first * stride, g + i * ldg + begin, ldg, used - (stride - V)};
          const long tiles = (columns + tile_rows - 1) / tile_rows;
          for (long tile = 0; tile < tiles; ++tile) {
            const long top = columns * tile / tiles, bottom = columns * (tile + 1) / tiles;
            o.a = copy + top;
            o.g = g + (i + top) * ldg + begin;
            tile_of(bottom - top, stride / V)(o);
          }
        }
      }
    }
  }

 private:
  // A block of a is copied to where its rows lie close together: in their own memory they are a power of two apart as often
  // as not, and evict each other from the cache.
  static constexpr long copied_rows = 256, copied_columns = 8 * tile_rows;

  struct Operands {
    long rows;
    const T* a;
    const T* b;
    T* g;
    long ldg, last_lanes;
  };
  using Tile = void (*)(const Operands&);

  static void copy_block(long rows, const T* const* a, long begin, long columns, T* copy) {
    for (long r = 0; r < rows; ++r) {
      const T* in = a[r] + begin;
      T* out = copy + r * copied_columns;
      for (long j = 0; j < copied_columns; j += V)
        if (j + V <= columns) Vector::store(out + j, Vector::load(in + j));
        else if (j < columns) Vector::store_partial(out + j, Vector::load_partial(in + j, columns - j), columns - j);
    }
  }

  template <int R, int W> static void tile(const Operands& o) {
    Vector sum[R][W];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const T* p = o.g + r * o.ldg;
#pragma GCC unroll 8
      for (int w = 0; w < W - 1; ++w) sum[r][w] = Vector::load(p + w * V);
      sum[r][W - 1] = o.last_lanes == V ? Vector::load(p + (W - 1) * V) : Vector::load_partial(p + (W - 1) * V, o.last_lanes);
    }
    const T *a = o.a, *b = o.b;
    for (long i = 0; i < o.rows; ++i, a += copied_columns, b += W * V) {
      Vector column[W];
#pragma GCC unroll 8
      for (int w = 0; w < W; ++w) column[w] = Vector::load(b + w * V);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Vector factor(a[r]);
#pragma GCC unroll 8
        for (int w = 0; w < W; ++w) sum[r][w] = fma_(factor, column[w], sum[r][w]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      T* p = o.g + r * o.ldg;
#pragma GCC unroll 8
      for (int w = 0; w < W - 1; ++w) Vector::store(p + w * V, sum[r][w]);
      if (o.last_lanes == V) Vector::store(p + (W - 1) * V, sum[r][W - 1]);
      else Vector::store_partial(p + (W - 1) * V, sum[r][W - 1], o.last_lanes);
    }
  }

  template <int W> static Tile tile_of_width(long height) {
    static constexpr Tile tiles[] = {tile<1, W>, tile<2, W>, tile<3, W>, tile<4, W>, tile<5, W>, tile<6, W>};
    return tiles[height - 1];
  }
  static Tile tile_of(long height, long vectors) {
    if constexpr (tile_vectors == 4) {
      if (vectors == 4) return tile_of_width<4>(height);
      if (vectors == 3) return tile_of_width<3>(height);
    }
    return vectors == 2 ? tile_of_width<2>(height) : tile_of_width<1>(height);
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
