// Tests of the kernels: against plain loops in a wider type, for bits that depend on shapes only, for memory left
// alone, and for the accuracy of the functions. Build it once for each instruction set, as kernels_bench.cpp, also with
// sanitizers.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "../math.hpp"
#include "../outer.hpp"
#include "../product.hpp"
#include "support.hpp"

using namespace recurra::RECURRA_ISA;

static constexpr long sizes[] = {1, 2, 3, 5, 6, 7, 13, 17, 63, 64, 65, 100};
static constexpr long largest = 130;

template <class T> struct ProductTest {
  Rows<T> a{largest, largest}, c{largest, largest}, d{largest, largest}, init{largest, largest};
  Guarded<T> matrix{largest * largest}, packed{largest * (largest + 64)}, other{largest * (largest + 64)};

  static constexpr T epsilon = std::numeric_limits<T>::epsilon();

  void run(long rows, long n, long k, bool row_major) {
    const long row_stride = row_major ? k : 1, column_stride = row_major ? 1 : n, panels = Product<T>::panels(n);
    const T* m = matrix.reset(n * k);
    T* p = packed.reset(Product<T>::packed_size(n, k));
    a.reset(rows, k), c.reset(rows, n), d.reset(rows, n), init.reset(rows, n);
    pack(m, row_stride, column_stride, n, k, p);

    Product<T>::product(rows, a.constant.data(), k, p, k, 0, n, init.constant.data(), c.pointers.data(), 0, panels);
    compare("product", rows, n, k, m, row_stride, column_stride, c);
    const long cut = k / 3;
    for (long r = 0; r < rows; ++r) std::memcpy(d.pointers[r], init.pointers[r], n * sizeof(T));
    std::vector<const T*> shifted(a.constant);
    for (auto& row : shifted) row += cut;
    for (long index = panels - 1; index >= 0; --index)
      for (long r = 0; r < rows; ++r) {
        Product<T>::product(1, &a.constant[r], cut, p, k, 0, n, &d.constant[r], &d.pointers[r], index, index + 1);
        Product<T>::product(1, &shifted[r], k - cut, p, k, cut, n, &d.constant[r], &d.pointers[r], index, index + 1);
      }
    equal("product in parts", rows, n, k);

    direct(rows, n, k, m, row_stride, column_stride, shifted, cut);
    Product<T>::product(rows, a.constant.data(), k, p, k, 0, n, nullptr, c.pointers.data(), 0, panels);
    for (long r = 0; r < rows; ++r)
      for (long j = 0; j < n; ++j) init.pointers[r][j] = 0;
    compare("product without init", rows, n, k, m, row_stride, column_stride, c);
    CHECK(a.intact() && c.intact() && d.intact() && init.intact() && matrix.intact() && packed.intact(),
          "memory of %ld x %ld x %ld", rows, k, n);
  }

  void pack(const T* m, long row_stride, long column_stride, long n, long k, T* p) {
    const long panels = Product<T>::panels(n), V = Vec<T>::V;
    Product<T>::pack(m, row_stride, column_stride, n, k, p, 0, panels);
    T* q = other.reset(Product<T>::packed_size(n, k));
    for (long index = panels; index-- > 0;) Product<T>::pack(m, row_stride, column_stride, n, k, q, index, index + 1);
    long wrong = 0;
    for (long begin = 0; begin < n; begin += Product<T>::panel) {
      const long rest = (n - begin + V - 1) / V * V, width = rest < Product<T>::panel ? rest : Product<T>::panel;
      for (long j = 0; j < k; ++j)
        for (long i = 0; i < width; ++i) {
          const T expected = begin + i < n ? m[(begin + i) * row_stride + j * column_stride] : T(0);
          wrong += !same(p[begin * k + j * width + i], expected) || !same(q[begin * k + j * width + i], expected);
        }
    }
    CHECK(wrong == 0, "pack %ld x %ld, strides %ld %ld: %ld elements", n, k, row_stride, column_stride, wrong);
    CHECK(other.intact(), "pack %ld x %ld", n, k);
  }

  void direct(long rows, long n, long k, const T* m, long row_stride, long column_stride,
              const std::vector<const T*>& shifted, long cut) {
    Product<T>::direct(rows, a.constant.data(), k, m, row_stride, column_stride, 0, init.constant.data(),
                       c.pointers.data(), 0, n);
    compare("direct", rows, n, k, m, row_stride, column_stride, c);
    for (long r = 0; r < rows; ++r)
      for (long begin = 0, end = 1; begin < n; begin = end, end = begin + 2 * begin < n ? begin + 2 * begin : n)
        Product<T>::direct(1, &a.constant[r], k, m, row_stride, column_stride, 0, &init.constant[r], &d.pointers[r],
                           begin, end);
    equal("direct in parts", rows, n, k);
    for (long r = 0; r < rows; ++r) std::memcpy(c.pointers[r], init.pointers[r], n * sizeof(T));
    Product<T>::direct(rows, a.constant.data(), cut, m, row_stride, column_stride, 0, c.constant.data(),
                       c.pointers.data(), 0, n);
    Product<T>::direct(rows, shifted.data(), k - cut, m, row_stride, column_stride, cut, c.constant.data(),
                       c.pointers.data(), 0, n);
    compare("direct in segments", rows, n, k, m, row_stride, column_stride, c);
  }

  void equal(const char* what, long rows, long n, long k) {
    long wrong = 0;
    for (long r = 0; r < rows; ++r)
      for (long j = 0; j < n; ++j) wrong += !same(c.pointers[r][j], d.pointers[r][j]);
    CHECK(wrong == 0, "%s %ld x %ld x %ld: %ld elements differ in their bits", what, rows, k, n, wrong);
  }

  void compare(const char* what, long rows, long n, long k, const T* m, long row_stride, long column_stride,
               Rows<T>& result) {
    long wrong = 0;
    for (long r = 0; r < rows; ++r)
      for (long j = 0; j < n; ++j) {
        long double sum = init.pointers[r][j], size = std::fabs(sum);
        for (long i = 0; i < k; ++i) {
          const long double term = (long double)(a.pointers[r][i]) * m[j * row_stride + i * column_stride];
          sum += term, size += std::fabs(term);
        }
        wrong += !(std::fabs(result.pointers[r][j] - sum) <= (k + 2) * epsilon * size);
      }
    CHECK(wrong == 0, "%s %ld x %ld x %ld: %ld elements", what, rows, k, n, wrong);
  }
};

// A number as sums with a matrix of Element take it.
template <class T, class Element> static T multiplied(T x) {
  if constexpr (std::is_same_v<Element, Pair>) return widened_bits(nearest_bfloat16(x));
  return x;
}

template <class T, class Element = T> static void test_outer(long rows, long na, long nb) {
  using Sums = Outer<T, Element>;
  using Memory = std::conditional_t<std::is_same_v<Element, Pair>, std::int32_t, T>;
  static Rows<T> a{largest * 6, largest}, b{largest * 6, largest};
  static Guarded<Memory> packed{largest * 6 * (largest + 64)}, other{largest * 6 * (largest + 64)};
  static Guarded<T> g{largest * largest}, h{largest * largest};
  a.reset(rows, na), b.reset(rows, nb);
  const long ldg = nb + 3, panels = Sums::panels(nb), size = (na - 1) * ldg + nb;
  auto* p = reinterpret_cast<Element*>(packed.reset(Sums::workspace(rows, nb)));
  auto* q = reinterpret_cast<Element*>(other.reset(Sums::workspace(rows, nb)));
  T *x = g.reset(size), *y = h.reset(size);
  std::memcpy(y, x, size * sizeof(T));
  const std::vector<T> before(x, x + size);
  Sums::pack_b(rows, b.constant.data(), nb, p, 0, panels);
  for (long index = panels; index-- > 0;) Sums::pack_b(rows, b.constant.data(), nb, q, index, index + 1);
  Sums::accumulate(rows, a.constant.data(), 0, na, p, nb, x, ldg);
  for (long begin = 0, end = 1; begin < na; begin = end, end = 3 * begin + 1 < na ? 3 * begin + 1 : na)
    Sums::accumulate(rows, a.constant.data(), begin, end, q, nb, y, ldg);
  long wrong = 0, different = 0, touched = 0;
  for (long i = 0; i < na; ++i)
    for (long j = 0; j < nb; ++j) {
      long double sum = before[i * ldg + j], magnitude = std::fabs(sum);
      for (long r = 0; r < rows; ++r) {
        const T factor = multiplied<T, Element>(a.pointers[r][i]);
        const long double term = static_cast<long double>(factor) * multiplied<T, Element>(b.pointers[r][j]);
        sum += term, magnitude += std::fabs(term);
      }
      wrong += !(std::fabs(x[i * ldg + j] - sum) <= (rows + 2) * std::numeric_limits<T>::epsilon() * magnitude);
      different += !same(x[i * ldg + j], y[i * ldg + j]);
    }
  for (long i = 0; i + 1 < na; ++i)
    for (long j = nb; j < ldg; ++j) touched += !same(x[i * ldg + j], before[i * ldg + j]);
  CHECK(wrong == 0 && different == 0 && touched == 0, "outer %ld x %ld x %ld: %ld wrong, %ld differ, %ld touched", rows,
        na, nb, wrong, different, touched);
  CHECK(a.intact() && b.intact() && packed.intact() && other.intact() && g.intact() && h.intact(),
        "memory of outer %ld x %ld x %ld", rows, na, nb);
}

// Of the sizes of products every `step`-th is tried.
static long step = 1;
static bool passed_over() {
  static long count = 0;
  return ++count % step != 0;
}

template <class T, class Element = T> static void test_outers() {
  for (long rows : sizes)
    for (long na : sizes)
      for (long nb : sizes)
        if (!passed_over()) test_outer<T, Element>(rows, na, nb);
  for (long rows : {255L, 256L, 257L, 300L, 513L, 700L}) test_outer<T, Element>(rows, 61, 97);
  test_outer<T, Element>(0, 5, 7);
}

template <class T> static void test_products() {
  ProductTest<T> test;
  for (long n : sizes)
    for (long k : sizes)
      for (long rows : sizes)
        if (!passed_over()) test.run(rows, n, k, (n + k + rows) % 2 == 0);
  for (long n : {1L, 15L, 16L, 31L, 32L, 33L, 48L, 63L, 64L, 65L, 80L, 96L, 97L, 112L, 127L, 128L, 129L, 130L})
    for (long k : {0L, 1L, 4L, 15L, 16L, 33L, 64L, 129L})
      for (long rows : {1L, 2L, 3L, 8L})
        for (bool row_major : {true, false})
          if (!passed_over()) test.run(rows, n, k, row_major);
}

template <class T> static void test_vectors() {
  Guarded<T> memory(64), target(64);
  for (long n = 0; n <= Vec<T>::V; ++n) {
    const T* p = memory.reset(n);
    T* q = target.reset(n);
    T lanes[Vec<T>::V];
    const Vec<T> v = Vec<T>::load_partial(p, n);
    Vec<T>::store(lanes, v);
    Vec<T>::store_partial(q, v, n);
    for (long i = 0; i < Vec<T>::V; ++i)
      CHECK(same(lanes[i], i < n ? p[i] : T(0)), "load_partial %ld of lane %ld", n, i);
    for (long i = 0; i < n; ++i) CHECK(same(q[i], p[i]), "store_partial %ld of lane %ld", n, i);
    CHECK(memory.intact() && target.intact(), "partial %ld", n);
  }
}

#include "math_test.hpp"

// The arguments, if any, are the number of points of each kind for the functions, and the step through the sizes of
// products: an emulator of another processor is slow in a wide type.
int main(int argc, char** argv) {
  const long points = argc > 1 ? std::atol(argv[1]) : 1000000;
  if (argc > 2) step = std::atol(argv[2]);
  test_vectors<float>(), test_vectors<double>();
  test_math<float>("float", points), test_math<double>("double", points);
  std::fflush(stdout);
  test_products<float>(), test_products<double>();
  test_outers<float>(), test_outers<double>(), test_outers<float, Pair>();
  std::printf("%ld checks, %ld failed\n", checks, failures);
  return failures ? 1 : 0;
}
