// Products with a packed matrix, in tiles that stay in registers.
//
// Every element of a packed product is one chain of multiply-adds with k ascending, whatever the tile that it falls in,
// so results do not depend on how rows and columns are grouped or split between threads.
#pragma once

#include "pairs.hpp"

namespace recurra {
namespace RECURRA_ISA {

// Of the 32 registers of AVX-512, 6 x 4 hold the tile; of the 16 of the others, 6 x 2.
constexpr int tile_rows = 6;
constexpr int tile_vectors = vector_bytes == 64 ? 4 : 2;
// Tiles of few rows take several panels: a multiply-add has a latency of 4 cycles, and 8 chains or more hide it. Where
// the product needs a register of its own, 3 x 4 are too many.
#if defined(RECURRA_FUSED)
constexpr int panels_at_once(long rows) { return rows == 1 ? 4 : rows <= 3 ? 2 : 1; }
#else
constexpr int panels_at_once(long rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }
#endif
// When a row-major matrix is used as it is: the dot products of a group, and the chains of each. A cache set has 8
// lines: 16 rows of 1024 floats, read side by side, evict each other.
constexpr int dot_group = vector_bytes == 64 ? 16 : 8;
constexpr int dot_chains = vector_bytes == 64 ? 2 : 1;

constexpr RECURRA_INLINE long smaller(long a, long b) { return a < b ? a : b; }
constexpr RECURRA_INLINE long larger(long a, long b) { return a > b ? a : b; }

// Sums of T with a matrix of Element. Where these are pairs, so are the factors, and what counts summands counts pairs.
template <class T, class Element = T> struct Tile {
  using Vector = Vec<T>;
  using Factor = typename FactorOf<T, Element>::Type;
  using Factors = decltype(repeated(Factor()));
  static constexpr long V = Vector::V;

  struct Operands {
    long k;      // number of summands
    const Element* b;  // vector w of panel p of summand i is at b + i * k_stride + p * panel_stride + w * V
    long k_stride, panel_stride;
    long column;      // first column of the tile in the rows of init and c; the panels' columns follow each other there
    long last_lanes;  // lanes in use of the last vector
    long a_begin = 0; // where the factors begin in their rows
  };
  // Where the factor of row r and summand i is read.
  template <int R> struct RowFactors {
    const Factor* rows[R];
    RECURRA_INLINE Factor operator()(int r, long i) const { return rows[r][i]; }
  };
  struct ColumnFactors {
    const Factor* a;
    long stride;
    RECURRA_INLINE Factor operator()(int r, long i) const { return a[i * stride + r]; }
  };

  // c = (init or 0) + sum over i of factors(r, i) * b(i, column). With whole_b, the last vector of b may be read beyond
  // last_lanes.
  template <int R, int P, int W, bool whole_b, class Get>
  static RECURRA_INLINE void run(const Operands& o, const Get factors, const T* const* init, T* const* c) {
    constexpr int C = P * W;
    const long last_lanes = o.last_lanes, k_stride = o.k_stride, panel_stride = o.panel_stride;
    Vector sum[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
      for (int w = 0; w < C; ++w) sum[r][w] = Vector(T(0));
      if (init) {
        const T* p = init[r] + o.column;
#pragma GCC unroll 16
        for (int w = 0; w < C - 1; ++w) sum[r][w] = Vector::load(p + w * V);
        sum[r][C - 1] = load_last(p + (C - 1) * V, last_lanes);
      }
    }
    const Element* b = o.b;
    for (long i = 0, k = o.k; i < k; ++i, b += k_stride) {
      if constexpr (R < C) {
        Factors factor[R];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) factor[r] = repeated(factors(r, i));
#pragma GCC unroll 16
        for (int w = 0; w < C; ++w) {
          const Element* p = b + w / W * panel_stride + w % W * V;
          Factors column = whole_b || w < C - 1 ? widened(p) : widened(p, last_lanes);
          if constexpr (R > 1) column = in_register(column);
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r) sum[r][w] = fma_(factor[r], column, sum[r][w]);
        }
      } else {
        Factors column[C];
#pragma GCC unroll 16
        for (int w = 0; w < C; ++w) {
          const Element* p = b + w / W * panel_stride + w % W * V;
          column[w] = whole_b || w < C - 1 ? widened(p) : widened(p, last_lanes);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const Factors factor = repeated(factors(r, i));
#pragma GCC unroll 16
          for (int w = 0; w < C; ++w) sum[r][w] = fma_(factor, column[w], sum[r][w]);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      T* p = c[r] + o.column;
#pragma GCC unroll 16
      for (int w = 0; w < C - 1; ++w) Vector::store(p + w * V, sum[r][w]);
      if (last_lanes == V) Vector::store(p + (C - 1) * V, sum[r][C - 1]);
      else Vector::store_partial(p + (C - 1) * V, sum[r][C - 1], last_lanes);
    }
  }

  template <class From> static RECURRA_INLINE Vector load_last(const From* p, long lanes) {
    return lanes == V ? widened(p) : widened(p, lanes);
  }
};

// The functions `Get<R, vectors>` of all heights and widths of a tile, found by what is known at run time.
template <template <int, int> class Get> RECURRA_INLINE auto find_tile(long height, long vectors) {
  using Function = decltype(&Get<1, 1>::run);
  static constexpr Function functions[][tile_rows] = {
      {Get<1, 1>::run, Get<2, 1>::run, Get<3, 1>::run, Get<4, 1>::run, Get<5, 1>::run, Get<6, 1>::run},
      {Get<1, 2>::run, Get<2, 2>::run, Get<3, 2>::run, Get<4, 2>::run, Get<5, 2>::run, Get<6, 2>::run},
#if defined(RECURRA_AVX512)
      {Get<1, 3>::run, Get<2, 3>::run, Get<3, 3>::run, Get<4, 3>::run, Get<5, 3>::run, Get<6, 3>::run},
      {Get<1, 4>::run, Get<2, 4>::run, Get<3, 4>::run, Get<4, 4>::run, Get<5, 4>::run, Get<6, 4>::run},
#endif
  };
  return functions[vectors - 1][height - 1];
}

template <class T, class Element = T> struct Product {
  using Vector = Vec<T>;
  using Operands = typename Tile<T, Element>::Operands;
  using Factor = typename FactorOf<T, Element>::Type;
  static constexpr long V = Vector::V;
  static constexpr long panel = tile_vectors * V;

  // As many summands of a panel as the first cache holds beside the rows; where there are 32 registers, tiles are so wide
  // that the second cache keeps up with them.
  static constexpr long panel_depth = (vector_bytes == 64 ? 64 << 10 : 16 << 10) / (panel * long(sizeof(Element)));

  static long panels(long n) { return (n + panel - 1) / panel; }
  static long packed_size(long n, long k) { return (n + V - 1) / V * V * k; }
  // The width of a panel in memory: the last one holds only the vectors that it needs.
  static long width(long n, long index) { return smaller(panel, (n - index * panel + V - 1) / V * V); }

  // Packs panels [panel_begin, panel_end) of the n x k matrix whose element (i, j) is m[i * row_stride + j *
  // column_stride]; one of the strides is 1. A panel is [k][width], zero beyond n.
  static void pack(const Element* m, long row_stride, long column_stride, long n, long k, Element* packed,
                   long panel_begin, long panel_end) {
    for (long index = panel_begin; index < panel_end; ++index) {
      const long begin = index * panel, count = smaller(panel, n - begin), stride = width(n, index);
      const Element* in = m + begin * row_stride;
      Element* out = packed + begin * k;
      if (column_stride == 1) {
        for (long i = 0; i < count; i += V)
          transpose(in + i * row_stride, row_stride, smaller(V, count - i), k, out + i, stride);
      } else {
        for (long j = 0; j < k; ++j, in += column_stride, out += stride) copy(in, count, out, stride);
      }
    }
  }

  // `stride` elements, a multiple of the vector's, of which the first `count` are copied and the others zero.
  static RECURRA_INLINE void copy(const Element* in, long count, Element* out, long stride) {
    long i = 0;
    for (; i + V <= count; i += V) store_narrowed(out + i, widened(in + i));
    if (i < stride) store_narrowed(out + i, widened(in + i, count - i));
  }

  // c[r][j] = (init ? init[r][j] : 0) + sum over i < segment_k of a[r][i] * M[j][k_begin + i], for the columns j of
  // panels [panel_begin, panel_end). A row of init may be the same row of c. Memory beyond column n is not touched.
  static void product(long rows, const Factor* const* a, long segment_k, const Element* packed, long k, long k_begin, long n,
                      const T* const* init, T* const* c, long panel_begin, long panel_end) {
    if (rows <= 0) return;
    const long tiles = (rows + tile_rows - 1) / tile_rows, whole_panels = smaller(panel_end, n / panel);
    // While several tiles of rows pass a panel, it is to stay in the first cache. A chain goes on from what it stored.
    const long depth = tiles == 1 ? larger(1, segment_k) : panel_depth;
    for (long index = panel_begin, count; index < panel_end; index += count) {
      count = rows <= 3 && index + panels_at_once(rows) <= whole_panels ? panels_at_once(rows) : 1;
      const long begin = index * panel, stride = width(n, index), lanes = smaller(panel, n - begin) - (stride - V);
      for (long i = 0; i < segment_k || i == 0; i += depth) {
        const Element* b = packed + begin * k + (k_begin + i) * stride;
        const Operands o = {smaller(depth, segment_k - i), b, stride, panel * k, begin, lanes, i};
        const T* const* from = i == 0 ? init : c;
        for (long tile = 0; tile < tiles; ++tile) {
          // Tiles of nearly equal height: 8 rows are 4 + 4, for 6 + 2 would leave the second too few chains.
          const long first = rows * tile / tiles, height = rows * (tile + 1) / tiles - first;
          const auto run = count > 1 ? wide_tile(height) : find_tile<PackedTile>(height, stride / V);
          run(o, a + first, from ? from + first : nullptr, c + first);
        }
      }
    }
  }

  // The same from the matrix as it is, for few rows: columns [column_begin, column_end) of the result. The sums may be
  // in another order than those of `product`, but depend as little on rows and column ranges.
  static void direct(long rows, const T* const* a, long segment_k, const Element* m, long row_stride, long column_stride,
                     long k_begin, const T* const* init, T* const* c, long column_begin, long column_end) {
    if (column_stride == 1) {
      for (long j = column_begin; j < column_end; j += dot_group)
        for (long first = 0, height; first < rows; first += height) {
          height = rows - first == 4 ? 2 : smaller(3, rows - first);
          const Dots d = {segment_k, m + j * row_stride + k_begin, row_stride, j, smaller(dot_group, column_end - j)};
          const auto run = height == 1 ? dots<1> : height == 2 ? dots<2> : dots<3>;
          run(d, a + first, init ? init + first : nullptr, c + first);
        }
      return;
    }
    for (long first = 0, height; first < rows; first += height) {
      height = smaller(tile_rows, rows - first);
      const long wide = panels_at_once(height) * panel;
      for (long j = column_begin, width; j < column_end; j += width) {
        const long rest = column_end - j;
        width = rest >= wide ? wide : rest >= panel ? panel : smaller(V, rest);
        const Operands o = {segment_k, m + j + k_begin * column_stride, column_stride, panel, j, smaller(V, width)};
        const auto run = width == wide && height <= 3 ? wide_tile(height)
                         : width < V                  ? find_tile<EdgeTile>(height, 1)
                                                      : find_tile<PackedTile>(height, width / V);
        run(o, a + first, init ? init + first : nullptr, c + first);
      }
    }
  }

  // Writes up to V rows of a row-major matrix as up to V columns of a panel, and zeros for the missing ones.
  static void transpose(const Element* in, long in_stride, long rows, long k, Element* out, long out_stride) {
    long j = 0;
    if (rows == V)
      for (; j + block <= k; j += block) transpose_block(in + j, in_stride, out + j * out_stride, out_stride, block);
    alignas(64) T edge[V * V] = {};
    for (; j < k; j += V) {
      const long columns = smaller(V, k - j);
      for (long i = 0; i < rows; ++i)
        Vector::store(edge + i * V, widened(in + i * in_stride + j, columns));
      for (long i = 0; i < columns; i += block)
        transpose_block(edge + i, V, out + (j + i) * out_stride, out_stride, smaller(block, columns - i));
    }
  }

 private:
  static constexpr int block = 16 / int(sizeof(T)), blocks = int(vector_bytes) / 16;

  template <int R, int P, int W, bool whole_b>
  static void tile(const Operands& o, const Factor* const* a, const T* const* init, T* const* c) {
    typename Tile<T, Element>::template RowFactors<R> factors;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) factors.rows[r] = a[r] + o.a_begin;
    Tile<T, Element>::template run<R, P, W, whole_b>(o, factors, init, c);
  }
  template <int R, int W> struct PackedTile {
    static void run(const Operands& o, const Factor* const* a, const T* const* init, T* const* c) {
      tile<R, 1, W, true>(o, a, init, c);
    }
  };
  template <int R, int W> struct EdgeTile {
    static void run(const Operands& o, const T* const* a, const T* const* init, T* const* c) {
      tile<R, 1, 1, false>(o, a, init, c);
    }
  };
  static RECURRA_INLINE auto wide_tile(long height) {
    return height == 1   ? tile<1, panels_at_once(1), tile_vectors, true>
           : height == 2 ? tile<2, panels_at_once(2), tile_vectors, true>
                         : tile<3, panels_at_once(3), tile_vectors, true>;
  }

  // V rows of `block` elements become `columns` vectors.
  template <class From>
  static RECURRA_INLINE void transpose_block(const From* in, long in_stride, Element* out, long out_stride,
                                             long columns) {
    Vector result[block];
    const Vector a = widened_blocks(in, block * in_stride), b = widened_blocks(in + in_stride, block * in_stride);
    if constexpr (block == 4) {
      const Vector c = widened_blocks(in + 2 * in_stride, block * in_stride),
                   d = widened_blocks(in + 3 * in_stride, block * in_stride);
      const Vector ac = interleave_low(a, c), bd = interleave_low(b, d), ac2 = interleave_high(a, c),
                   bd2 = interleave_high(b, d);
      result[0] = interleave_low(ac, bd), result[1] = interleave_high(ac, bd);
      result[2] = interleave_low(ac2, bd2), result[3] = interleave_high(ac2, bd2);
    } else {
      result[0] = interleave_low(a, b), result[1] = interleave_high(a, b);
    }
#pragma GCC unroll 4
    for (int j = 0; j < block; ++j)
      if (j < columns) store_narrowed(out + j * out_stride, result[j]);
  }

  struct Dots {
    long k;
    const Element* m;  // the first of the matrix rows
    long stride, column, count;
  };
  // c[r][column + j] = (init or 0) + a[r] . row j of m, for `count` <= dot_group rows of m. Vector i of k goes to chain
  // i % dot_chains, those left over to the first; then the chains are summed, and then their lanes.
  template <int R> static void dots(const Dots& d, const T* const* a, const T* const* init, T* const* c) {
    constexpr int C = (R == 1 ? dot_group : dot_group / 2) / dot_chains;
    Vector sum[R][dot_group];
    if (d.count == dot_group) {
      for (int j = 0; j < dot_group; j += C) lane_sums<R, C>(d, j, a, sum);
    } else {
      for (int j = 0; j < d.count; ++j) lane_sums<R, 1>(d, j, a, sum);
      for (long j = d.count; j < dot_group; ++j)
        for (int r = 0; r < R; ++r) sum[r][j] = Vector(T(0));
    }
    for (int r = 0; r < R; ++r)
      for (long j = 0; j < d.count; j += V) {
        const Vector total = sum_lanes(sum[r] + j);
        const long lanes = smaller(V, d.count - j), column = d.column + j;
        const Vector result = init ? Tile<T>::load_last(init[r] + column, lanes) + total : total;
        if (lanes == V) Vector::store(c[r] + column, result);
        else Vector::store_partial(c[r] + column, result, lanes);
      }
  }
  template <int R, int C>
  static RECURRA_INLINE void lane_sums(const Dots& d, int first, const T* const* a, Vector (&result)[R][dot_group]) {
    constexpr int A = dot_chains;
    Vector sum[R][C][A];
    const T* rows[R];
    const Element* m = d.m + first * d.stride;
    const long stride = d.stride, k = d.k;
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      rows[r] = a[r];
#pragma GCC unroll 16
      for (int j = 0; j < C; ++j)
#pragma GCC unroll 4
        for (int h = 0; h < A; ++h) sum[r][j][h] = Vector(T(0));
    }
    long i = 0;
    for (; i + A * V <= k; i += A * V) {
      Vector factor[R][A];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int h = 0; h < A; ++h) factor[r][h] = Vector::load(rows[r] + i + h * V);
#pragma GCC unroll 16
      for (int j = 0; j < C; ++j) {
#pragma GCC unroll 4
        for (int h = 0; h < A; ++h) {
          Vector other = widened(m + j * stride + i + h * V);
          if constexpr (R > 1) other = in_register(other);
#pragma GCC unroll 4
          for (int r = 0; r < R; ++r) sum[r][j][h] = fma_(factor[r][h], other, sum[r][j][h]);
        }
      }
    }
    for (; i < k; i += V) {
      const long n = smaller(V, k - i);
      for (int r = 0; r < R; ++r) {
        const Vector factor = Tile<T>::load_last(rows[r] + i, n);
#pragma GCC unroll 16
        for (int j = 0; j < C; ++j)
          sum[r][j][0] = fma_(factor, Tile<T>::load_last(m + j * stride + i, n), sum[r][j][0]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int j = 0; j < C; ++j) result[r][first + j] = A == 1 ? sum[r][j][0] : sum[r][j][0] + sum[r][j][A - 1];
  }
  // Lane j is the sum of the lanes of sum[j].
  static RECURRA_INLINE Vector sum_lanes(const Vector* sum) {
    Vector part[block];
#pragma GCC unroll 4
    for (int j = 0; j < block; ++j) {
      if constexpr (blocks == 4) part[j] = sum_blocks(sum[j], sum[block + j], sum[2 * block + j], sum[3 * block + j]);
      else if constexpr (blocks == 2) part[j] = sum_blocks(sum[j], sum[block + j]);
      else part[j] = sum[j];
    }
    if constexpr (block == 4) {
      part[0] = interleave_low(part[0], part[2]) + interleave_high(part[0], part[2]);
      part[1] = interleave_low(part[1], part[3]) + interleave_high(part[1], part[3]);
    }
    return interleave_low(part[0], part[1]) + interleave_high(part[0], part[1]);
  }
};

}  // namespace RECURRA_ISA
}  // namespace recurra
