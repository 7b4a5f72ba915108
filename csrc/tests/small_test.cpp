// Tests of the products with small weights: int8 to the bit against plain loops, bfloat16 against the float32 products
// with the same weights, pairs against sums in double. Build it once for each instruction set, as kernels_test.cpp, and
// for those that only these products use.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "../int8.hpp"
#include "../pair_packs.hpp"
#include "support.hpp"

using namespace recurra::RECURRA_ISA;
using recurra::int8_padded;
using recurra::Int8Matrix;
using recurra::Int8Rows;

static constexpr long largest_rows = 9, largest_n = 70, largest_k = 300, gap = 5;

static int whole(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }

struct Rounded {
  float scale;
  std::vector<std::int8_t> values;
};

static Rounded plainly_rounded(const float* x, long k) {
  float most = 0;
  bool finite = true;
  for (long i = 0; i < k; ++i) {
    finite = finite && std::isfinite(x[i]);
    most = std::max(most, std::fabs(x[i]));
  }
  Rounded result{0, std::vector<std::int8_t>(int8_padded(k), 0)};
  if (!finite) result.scale = std::numeric_limits<float>::quiet_NaN();
  if (!finite || most < 0x1p-100f) return result;
  const volatile float factor = 127.0f / most;
  for (long i = 0; i < k; ++i) {
    const volatile float value = x[i] * factor;
    result.values[i] = static_cast<std::int8_t>(std::lrint(value));
  }
  result.scale = most / 127.0f;
  return result;
}

static bool same_or_nan(float a, float b) { return same(a, b) || (std::isnan(a) && std::isnan(b)); }

enum class Kind { ordinary, extreme, none, tiny, infinite, nan, one };
static constexpr Kind kinds[] = {Kind::ordinary, Kind::extreme, Kind::none, Kind::tiny,
                                 Kind::infinite, Kind::nan,     Kind::one};

static void draw(Kind kind, float* x, long k) {
  const long place = k > 0 ? whole(0, int(k) - 1) : 0;
  for (long i = 0; i < k; ++i) switch (kind) {
      case Kind::extreme: x[i] = whole(0, 1) ? 3e38f : -3e38f; break;
      case Kind::none: x[i] = whole(0, 1) ? 0.0f : -0.0f; break;
      case Kind::tiny: x[i] = float(uniform(-1, 1)) * 0x1p-101f; break;
      case Kind::infinite: x[i] = i == place ? -std::numeric_limits<float>::infinity() : float(uniform(-1, 1)); break;
      case Kind::nan: x[i] = i == place ? std::numeric_limits<float>::quiet_NaN() : float(uniform(-1, 1)); break;
      // halves: of a largest 127 they are rounded to the even one
      case Kind::one: x[i] = i == place ? 127.0f : 0.5f * float(whole(-253, 253)); break;
      default: x[i] = float(uniform(-1, 1));
    }
}

struct Int8Test {
  Rows<float> x{largest_rows, largest_k}, c{largest_rows, largest_n}, init{largest_rows, largest_n};
  Rows<std::int8_t> q{largest_rows, int8_padded(largest_k)};
  Guarded<std::int8_t> all{largest_rows * int8_padded(largest_k)}, matrix{largest_n * (largest_k + gap)};
  Guarded<float> scales{largest_n};

  void run(long rows, long n, long k, bool extreme) {
    x.reset(rows, k), q.reset(rows, int8_padded(k)), c.reset(rows, n), init.reset(rows, n);
    const long padded = int8_padded(k), stride = k + (n + k) % 2 * gap, size = n > 0 ? (n - 1) * stride + k : 0;
    std::int8_t* values = matrix.reset(size);
    for (long i = 0; i < size; ++i)
      values[i] = static_cast<std::int8_t>(extreme ? (whole(0, 1) ? 127 : -127) : whole(-127, 127));
    std::int8_t* vectors = all.reset(rows * padded);
    std::vector<float> row_scales;
    for (long r = 0; r < rows; ++r) {
      draw(extreme ? Kind::extreme : kinds[r % std::size(kinds)], x.pointers[r], k);
      row_scales.push_back(Int8::quantise(x.constant[r], k, q.pointers[r]));
      const Rounded expected = plainly_rounded(x.constant[r], k);
      CHECK(same_or_nan(row_scales[r], expected.scale), "scale of row %ld of %ld", r, k);
      CHECK(std::equal(expected.values.begin(), expected.values.end(), q.pointers[r]), "int8 row %ld of %ld", r, k);
      std::memcpy(vectors + r * padded, q.pointers[r], padded);
    }
    const float* factors = scales.reset(n);
    const Int8Matrix m{values, stride, factors, k};
    const Int8Rows a{vectors, padded, row_scales.data(), rows};
    const bool with_init = (rows + n + k) % 2 == 0;
    const float* const* start = with_init ? init.constant.data() : nullptr;
    for (const long cut : {n / 3, long(0)}) {
      Int8::product(a, m, start, c.pointers.data(), 0, cut);
      Int8::product(a, m, start, c.pointers.data(), cut, n);
      compare(a, m, n, with_init);
    }
    CHECK(x.intact() && q.intact() && c.intact() && init.intact() && all.intact() && matrix.intact() && scales.intact(),
          "memory of int8 %ld x %ld x %ld", rows, k, n);
  }

  void compare(const Int8Rows& a, const Int8Matrix& m, long n, bool with_init) {
    long wrong = 0;
    for (long r = 0; r < a.count; ++r)
      for (long j = 0; j < n; ++j) {
        std::int64_t sum = 0;
        for (long i = 0; i < m.k; ++i) sum += std::int64_t(a.values[r * a.stride + i]) * m.values[j * m.stride + i];
        // each step is rounded by itself
        const volatile float unit = a.scales[r] * m.scales[j], value = static_cast<float>(sum) * unit;
        const volatile float expected = with_init ? init.pointers[r][j] + value : value;
        wrong += !same_or_nan(c.pointers[r][j], expected);
      }
    CHECK(wrong == 0, "int8 %ld x %ld x %ld: %ld elements", a.count, m.k, n, wrong);
  }
};

// A weight of bfloat16, of any sign, between 2^-9 and 2.
static std::uint16_t draw_weight() {
  return static_cast<std::uint16_t>(whole(0, 1) << 15 | whole(0x3b00, 0x4000 - 1));
}

struct Bfloat16Test {
  using Small = Product<float, Bfloat16>;
  using Whole = Product<float>;
  Rows<float> a{largest_rows, largest_k}, c{largest_rows, largest_n}, d{largest_rows, largest_n},
      init{largest_rows, largest_n};
  Guarded<std::uint16_t> matrix{largest_n * largest_k}, packed{(largest_n + 64) * largest_k};
  Guarded<float> wide{largest_n * largest_k}, wide_packed{(largest_n + 64) * largest_k};

  void run(long rows, long n, long k, bool row_major) {
    const long row_stride = row_major ? k : 1, column_stride = row_major ? 1 : n, panels = Whole::panels(n);
    a.reset(rows, k), c.reset(rows, n), d.reset(rows, n), init.reset(rows, n);
    std::uint16_t* bits = matrix.reset(n * k);
    float* values = wide.reset(n * k);
    for (long i = 0; i < n * k; ++i) values[i] = widened_bits(bits[i] = draw_weight());
    const auto* weights = reinterpret_cast<const Bfloat16*>(bits);
    auto* p = reinterpret_cast<Bfloat16*>(packed.reset(Small::packed_size(n, k)));
    float* q = wide_packed.reset(Whole::packed_size(n, k));
    Small::pack(weights, row_stride, column_stride, n, k, p, 0, panels);
    Whole::pack(values, row_stride, column_stride, n, k, q, 0, panels);
    const float* const* start = init.constant.data();
    Small::product(rows, a.constant.data(), k, p, k, 0, n, start, c.pointers.data(), 0, panels);
    Whole::product(rows, a.constant.data(), k, q, k, 0, n, start, d.pointers.data(), 0, panels);
    equal("product", rows, n, k);
    Small::direct(rows, a.constant.data(), k, weights, row_stride, column_stride, 0, start, c.pointers.data(), 0, n);
    Whole::direct(rows, a.constant.data(), k, values, row_stride, column_stride, 0, start, d.pointers.data(), 0, n);
    equal("direct", rows, n, k);
    CHECK(a.intact() && c.intact() && d.intact() && init.intact() && matrix.intact() && packed.intact(),
          "memory of bfloat16 %ld x %ld x %ld", rows, k, n);
  }

  void equal(const char* what, long rows, long n, long k) {
    long wrong = 0;
    for (long r = 0; r < rows; ++r)
      for (long j = 0; j < n; ++j) wrong += !same(c.pointers[r][j], d.pointers[r][j]);
    CHECK(wrong == 0, "bfloat16 %s %ld x %ld x %ld: %ld elements differ", what, rows, k, n, wrong);
  }
};

static void test_rounding() {
  const auto expect = [](float x, std::uint16_t bits) {
    CHECK(nearest_bfloat16(x) == bits, "nearest_bfloat16(%g) is %x, not %x", double(x), nearest_bfloat16(x), bits);
  };
  const float infinity = std::numeric_limits<float>::infinity();
  expect(1.0f, 0x3f80), expect(-0.0f, 0x8000), expect(infinity, 0x7f80), expect(-infinity, 0xff80);
  expect(0x1.01p0f, 0x3f80), expect(0x1.03p0f, 0x3f82), expect(0x1.010002p0f, 0x3f81), expect(0x1.00fffep0f, 0x3f80);
  expect(std::numeric_limits<float>::max(), 0x7f80), expect(0x1.fep127f, 0x7f7f), expect(0x1p-149f, 0);
  for (long i = 0; i < 200000; ++i) {
    std::uint32_t bits[Vec<float>::V];
    float values[Vec<float>::V], found[Vec<float>::V];
    for (auto& b : bits) b = static_cast<std::uint32_t>(generator());
    std::memcpy(values, bits, sizeof values);
    Vec<float>::store(found, rounded(Vec<float>::load(values)));
    for (long lane = 0; lane < Vec<float>::V; ++lane)
      CHECK(same(found[lane], widened_bits(nearest_bfloat16(values[lane]))), "rounded(%x)", bits[lane]);
  }
  for (std::uint32_t bits : {0x7f800001u, 0x7fffffffu, 0xffffffffu, 0xff800001u}) {
    float nan;
    std::memcpy(&nan, &bits, sizeof nan);
    CHECK(std::isnan(widened_bits(nearest_bfloat16(nan))), "NaN of bits %x", bits);
  }
}

// Products of rounded rows with a segment of the columns of a matrix, rounded or of bfloat16, as pairs.
struct PairsTest {
  using Panels = Product<float, Pair>;
  Rows<float> a{largest_rows, largest_k}, c{largest_rows, largest_n}, d{largest_rows, largest_n},
      init{largest_rows, largest_n};
  Rows<std::int32_t> rounded_rows{largest_rows, largest_k};
  Guarded<std::uint16_t> half{largest_n * largest_k};
  Guarded<float> whole{largest_n * largest_k};
  Guarded<std::int32_t> packed{(largest_n + 64) * largest_k};

  void run(long rows, long n, long k, bool row_major, long begin, long length) {
    const long row_stride = row_major ? k : 1, column_stride = row_major ? 1 : n, panels = Panels::panels(n);
    const long lead = begin % 2, summands = pair_count(lead + length);
    a.reset(rows, length), c.reset(rows, n), d.reset(rows, n), init.reset(rows, n);
    rounded_rows.reset(rows, summands + Panels::V / 2);
    std::vector<const Pair*> factors;
    for (long r = 0; r < rows; ++r) {
      auto* row = reinterpret_cast<Pair*>(rounded_rows.pointers[r]);
      round_to_pairs(a.constant[r], length, lead, row);
      factors.push_back(row);
    }
    float* values = whole.reset(n * k);
    std::uint16_t* bits = half.reset(n * k);
    auto* p = reinterpret_cast<Pair*>(packed.reset(Panels::packed_size(n, pair_count(k))));
    const bool rounds = (rows + n) % 2 == 0;
    if (rounds) {
      for (long i = 0; i < n * k; ++i) bits[i] = nearest_bfloat16(values[i]);
      PairPacks::pack(values, row_stride, column_stride, n, k, p, 0, panels);
    } else {
      for (long i = 0; i < n * k; ++i) bits[i] = draw_weight();
      PairPacks::pack(reinterpret_cast<const Bfloat16*>(bits), row_stride, column_stride, n, k, p, panels / 2, panels);
      PairPacks::pack(reinterpret_cast<const Bfloat16*>(bits), row_stride, column_stride, n, k, p, 0, panels / 2);
    }
    const bool with_init = (rows + n + k) % 3 != 0;
    const float* const* start = with_init ? init.constant.data() : nullptr;
    const auto product = [&](long first, long count, float* const* to, long from_panel, long to_panel) {
      Panels::product(count, factors.data() + first, summands, p, pair_count(k), begin / 2, n,
                      start ? start + first : nullptr, to + first, from_panel, to_panel);
    };
    product(0, rows, c.pointers.data(), panels / 2, panels), product(0, rows, c.pointers.data(), 0, panels / 2);
    for (long r = 0; r < rows; ++r) product(r, 1, d.pointers.data(), 0, panels);
    long wrong = 0, differ = 0;
    for (long r = 0; r < rows; ++r)
      for (long j = 0; j < n; ++j) {
        double sum = with_init ? init.pointers[r][j] : 0, size = std::fabs(sum);
        for (long i = 0; i < length; ++i) {
          const double term = double(widened_bits(nearest_bfloat16(a.pointers[r][i]))) *
              widened_bits(bits[j * row_stride + (begin + i) * column_stride]);
          sum += term, size += std::fabs(term);
        }
        // products are exact, each sum is rounded, and so is what falls below the normal numbers, to zero
        const double tolerance = (length + 2) * std::numeric_limits<float>::epsilon() * size + 3 * length * 0x1p-126;
        wrong += !(std::fabs(c.pointers[r][j] - sum) <= tolerance);
        differ += !same(c.pointers[r][j], d.pointers[r][j]);
      }
    CHECK(wrong == 0 && differ == 0, "pairs %ld x %ld x %ld from %ld: %ld wrong, %ld differ", rows, length, n, begin,
          wrong, differ);
    CHECK(a.intact() && c.intact() && d.intact() && init.intact() && rounded_rows.intact() && half.intact() &&
              whole.intact() && packed.intact(),
          "memory of pairs %ld x %ld x %ld from %ld", rows, length, n, begin);
  }
};

int main() {
  test_rounding();
  PairsTest pairs;
  Int8Test int8;
  Bfloat16Test bfloat16;
  for (long rows : {1L, 2L, 3L, 7L, 8L})
    for (long n : {1L, 2L, 3L, 4L, 5L, 7L, 8L, 15L, 16L, 17L, 31L, 33L, 64L, 65L, 70L})
      for (long k : {0L, 1L, 2L, 15L, 16L, 17L, 31L, 32L, 33L, 63L, 64L, 65L, 100L, 127L, 128L, 129L, 300L}) {
        int8.run(rows, n, k, false), int8.run(rows, n, k, true);
        bfloat16.run(rows, n, k, true), bfloat16.run(rows, n, k, false);
        for (const bool row_major : {true, false}) {
          pairs.run(rows, n, k, row_major, 0, k);
          if (k > 2) pairs.run(rows, n, k, row_major, k / 3, k / 2), pairs.run(rows, n, k, row_major, k / 3 + 1, k / 2);
        }
      }
  std::printf("%ld checks, %ld failed\n", checks, failures);
  return failures ? 1 : 0;
}
