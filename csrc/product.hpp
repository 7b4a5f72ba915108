// Products with a packed matrix, in tiles that stay in registers.
//
// Every element of a result is one chain of fused multiply-adds with k ascending, whatever the tile that it falls in, so
// results do not depend on how rows and columns are grouped or split between threads.
#pragma once

#include "vector.hpp"

namespace recurra {
namespace RECURRA_ISA {

// Of the 32 registers of AVX-512, 6 x 4 hold the tile; of the 16 of the others, 6 x 2.
constexpr int tile_rows = 6;
constexpr int tile_vectors = vector_bytes == 64 ? 4 : 2;

RECURRA_INLINE long smaller(long a, long b) { return a < b ? a : b; }
RECURRA_INLINE long larger(long a, long b) { return a > b ? a : b; }

template <class T> struct Product {
  using Vector = Vec<T>;
  static constexpr long V = Vector::V;
  static constexpr long panel = tile_vectors * V;

  static long panels(long n) { return (n + panel - 1) / panel; }
  static long packed_size(long n, long k) { return (n + V - 1) / V * V * k; }
  // The width of a panel in memory: the last one holds only the vectors that it needs.
  static long width(long n, long index) { return smaller(panel, (n - index * panel + V - 1) / V * V); }

  // Packs panels [panel_begin, panel_end) of the n x k matrix whose element (i, j) is m[i * row_stride + j * column_stride];
  // one of the strides is 1. A panel is [k][width], zero beyond n.
  static void pack(const T* m, long row_stride, long column_stride, long n, long k, T* packed, long panel_begin,
                   long panel_end) {
    for (long index = panel_begin; index < panel_end; ++index) {
      const long begin = index * panel, count = smaller(panel, n - begin), stride = width(n, index);
      T* out = packed + begin * k;
      for (long j = 0; j < k; ++j) {
        for (long i = 0; i < count; ++i) out[j * stride + i] = m[(begin + i) * row_stride + j * column_stride];
        for (long i = count; i < stride; ++i) out[j * stride + i] = T(0);
      }
    }
  }

  // c[r][j] = (init ? init[r][j] : 0) + sum over i < segment_k of a[r][i] * M[j][k_begin + i], for the columns j of panels
  // [panel_begin, panel_end). A row of init may be the same row of c. Memory beyond column n is not touched.
  static void product(long rows, const T* const* a, long segment_k, const T* packed, long k, long k_begin, long n,
                      const T* const* init, T* const* c, long panel_begin, long panel_end) {
    if (rows <= 0) return;
    const long tiles = (rows + tile_rows - 1) / tile_rows;
    for (long index = panel_begin; index < panel_end; ++index) {
      const long begin = index * panel, stride = width(n, index), count = smaller(panel, n - begin);
      const Operands o = {segment_k, packed + begin * k + k_begin * stride, begin, count - (stride - V)};
      for (long tile = 0; tile < tiles; ++tile) {
        // Tiles of nearly equal height: 8 rows are 4 + 4, for 6 + 2 would leave the second too few chains.
        const long first = rows * tile / tiles, height = rows * (tile + 1) / tiles - first;
        tile_of(height, stride / V)(o, a + first, init ? init + first : nullptr, c + first);
      }
    }
  }

  // The same from the matrix as it is, for few rows: columns [column_begin, column_end) of the result. The sums are in
  // another order than those of `product`, but as independent of rows and column ranges.
  static void direct(long rows, const T* const* a, long segment_k, const T* m, long row_stride, long column_stride,
                     long k_begin, const T* const* init, T* const* c, long column_begin, long column_end) {
    for (long r = 0; r < rows; ++r)
      for (long j = column_begin; j < column_end; ++j) {
        T sum = 0;
        for (long i = 0; i < segment_k; ++i) sum += a[r][i] * m[j * row_stride + (k_begin + i) * column_stride];
        c[r][j] = (init ? init[r][j] : T(0)) + sum;
      }
  }

 private:
  struct Operands {
    long k;
    const T* panel;
    long column, last_lanes;  // first column of the panel; lanes in use of its last vector
  };
  using Tile = void (*)(const Operands&, const T* const*, const T* const*, T* const*);

  template <int R, int W> static void tile(const Operands& o, const T* const* a, const T* const* init, T* const* c) {
    Vector sum[R][W];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int w = 0; w < W; ++w) sum[r][w] = Vector(T(0));
      if (init) {
        const T* p = init[r] + o.column;
#pragma GCC unroll 8
        for (int w = 0; w < W - 1; ++w) sum[r][w] = Vector::load(p + w * V);
        sum[r][W - 1] = o.last_lanes == V ? Vector::load(p + (W - 1) * V) : Vector::load_partial(p + (W - 1) * V, o.last_lanes);
      }
    }
    const T* rows[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) rows[r] = a[r];
    const T* b = o.panel;
    for (long i = 0; i < o.k; ++i, b += W * V) {
      Vector column[W];
#pragma GCC unroll 8
      for (int w = 0; w < W; ++w) column[w] = Vector::load(b + w * V);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Vector factor(rows[r][i]);
#pragma GCC unroll 8
        for (int w = 0; w < W; ++w) sum[r][w] = fma_(factor, column[w], sum[r][w]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      T* p = c[r] + o.column;
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

}  // namespace RECURRA_ISA
}  // namespace recurra
