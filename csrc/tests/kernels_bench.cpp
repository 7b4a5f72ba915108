// Speed of the kernels on one core, each beside the peak that registers alone reach. Build it once for each instruction
// set:
//   g++ -std=c++17 -O3 -fno-math-errno -fno-trapping-math -ffp-contract=fast -mavx2 -mfma -DRECURRA_ISA=avx2
//   kernels_bench.cpp
// Each time is the best of many, for other programs may be running.
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "../math.hpp"
#include "../outer.hpp"
#include "../product.hpp"

using namespace recurra::RECURRA_ISA;

static const char* filter = "";

// Time on the processor, not on the wall, where a run is long enough for other programs to interrupt it.
static double seconds_of(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

template <class F> static double best_seconds(F run) {
  const double warm_up = seconds_of(CLOCK_MONOTONIC);
  run();
  const clockid_t clock = seconds_of(CLOCK_MONOTONIC) - warm_up > 1e-4 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
  double best = 1e9, total = 0;
  for (int sample = 0; sample < 40 || total < 0.25; ++sample) {
    const double start = seconds_of(clock);
    run();
    const double seconds = seconds_of(clock) - start;
    best = seconds < best ? seconds : best;
    total += seconds;
    if (total > 1.5) break;
  }
  return best;
}

// As the engine's memory, on a border of 64 bytes: a vector that crosses one is loaded at half the speed.
template <class T> struct Aligned {
  explicit Aligned(long count) : memory(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64))) {
    for (long i = 0; i < count; ++i) memory[i] = T(std::rand() % 2001 - 1000) / T(1000);
  }
  ~Aligned() { std::free(memory); }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  T* data() { return memory; }
  T* memory;
};

template <class T> struct Rows {
  Aligned<T> data;
  std::vector<T*> rows;
  std::vector<const T*> constant;
  Rows(long count, long columns) : data(count * columns) {
    for (long r = 0; r < count; ++r) rows.push_back(data.data() + r * columns), constant.push_back(rows.back());
  }
};

static void report(const char* name, const std::string& shape, double seconds, double flop, double bytes,
                   double peak_flop) {
  std::printf("%-28s %-22s %9.2f us", name, shape.c_str(), seconds * 1e6);
  if (flop > 0)
    std::printf("  %7.1f GFLOP/s  %3.0f %% of peak", flop / seconds * 1e-9, 100 * flop / seconds / peak_flop);
  if (bytes > 0) std::printf("  %7.1f GB/s", bytes / seconds * 1e-9);
  std::printf("\n");
}

static std::string shape_of(long rows, long k, long n) {
  return std::to_string(rows) + " x " + std::to_string(k) + " x " + std::to_string(n);
}

template <class T> static void bench_products(double peak_flop) {
  for (long k : {128L, 256L, 1024L})
    for (long rows : {1L, 2L, 3L, 4L, 5L, 6L, 8L, 12L, 16L, 32L, 100L, 256L}) {
      const long n = 3 * k;
      Rows<T> a(rows, k), c(rows, n), m(n, k);
      Aligned<T> packed(Product<T>::packed_size(n, k));
      const double bytes = double(n * k * sizeof(T));
      if (rows == 1) {
        double s =
            best_seconds([&] { Product<T>::pack(m.data.memory, k, 1, n, k, packed.data(), 0, Product<T>::panels(n)); });
        report("pack transposing", shape_of(0, k, n), s, 0, 2 * bytes, peak_flop);
        s = best_seconds([&] { Product<T>::pack(m.data.memory, 1, n, n, k, packed.data(), 0, Product<T>::panels(n)); });
        report("pack copying", shape_of(0, k, n), s, 0, 2 * bytes, peak_flop);
      }
      Product<T>::pack(m.data.memory, k, 1, n, k, packed.data(), 0, Product<T>::panels(n));
      const double flop = 2.0 * double(rows * k * n);
      double s = best_seconds([&] {
        Product<T>::product(rows, a.constant.data(), k, packed.data(), k, 0, n, nullptr, c.rows.data(), 0,
                            Product<T>::panels(n));
      });
      report("product", shape_of(rows, k, n), s, flop, rows < 6 ? bytes : 0, peak_flop);
      if (rows <= 4) {
        s = best_seconds([&] {
          Product<T>::direct(rows, a.constant.data(), k, m.data.memory, k, 1, 0, nullptr, c.rows.data(), 0, n);
        });
        report("direct row-major", shape_of(rows, k, n), s, flop, bytes, peak_flop);
        s = best_seconds([&] {
          Product<T>::direct(rows, a.constant.data(), k, m.data.memory, 1, n, 0, nullptr, c.rows.data(), 0, n);
        });
        report("direct column-major", shape_of(rows, k, n), s, flop, bytes, peak_flop);
      }
    }
}

template <class T> static void bench_outer(double peak_flop) {
  for (long rows : {32L, 128L, 256L, 512L, 1024L}) {
    const long na = 768, nb = 256;
    Rows<T> a(rows, na), b(rows, nb);
    Aligned<T> g(na * nb), packed(Outer<T>::workspace(rows, nb));
    const double pack =
        best_seconds([&] { Outer<T>::pack_b(rows, b.constant.data(), nb, packed.data(), 0, Outer<T>::panels(nb)); });
    report("outer: pack_b", shape_of(rows, na, nb), pack, 0, 2.0 * double(rows * nb * sizeof(T)), peak_flop);
    const double s =
        best_seconds([&] { Outer<T>::accumulate(rows, a.constant.data(), 0, na, packed.data(), nb, g.data(), nb); });
    report("outer: accumulate", shape_of(rows, na, nb), s, 2.0 * double(rows * na * nb), 0, peak_flop);
  }
}

template <class T, class F> static void bench_function(const char* name, F function) {
  const long count = 2048;
  Aligned<T> x(count), y(count);
  for (long i = 0; i < count; ++i) x.memory[i] = T(i % 997) * T(0.013) + T(0.01);
  const double s = best_seconds([&] {
    for (long repeat = 0; repeat < 8; ++repeat)
      for (long i = 0; i < count; i += Vec<T>::V) Vec<T>::store(y.memory + i, function(Vec<T>::load(x.memory + i)));
  });
  std::printf("%-28s %9.3f ns an element\n", name, s * 1e9 / double(8 * count));
}

template <class T> static void bench_math() {
  bench_function<T>("exp", [](Vec<T> x) __attribute__((always_inline)) { return exp_(x); });
  bench_function<T>("sigmoid", [](Vec<T> x) __attribute__((always_inline)) { return sigmoid_(x); });
  bench_function<T>("tanh", [](Vec<T> x) __attribute__((always_inline)) { return tanh_(x); });
  bench_function<T>("softplus", [](Vec<T> x) __attribute__((always_inline)) { return softplus_(x); });
  bench_function<T>("log", [](Vec<T> x) __attribute__((always_inline)) { return log_(x); });
  bench_function<T>("log1p", [](Vec<T> x) __attribute__((always_inline)) { return log1p_(x); });
  bench_function<T>("expm1", [](Vec<T> x) __attribute__((always_inline)) { return expm1_(x); });
  bench_function<T>("rsqrt", [](Vec<T> x) __attribute__((always_inline)) { return rsqrt_(x); });
  bench_function<T>("sin", [](Vec<T> x) __attribute__((always_inline)) { return sin_(x); });
  bench_function<T>("floor", [](Vec<T> x) __attribute__((always_inline)) { return floor_(x); });
  bench_function<T>("mod", [](Vec<T> x) __attribute__((always_inline)) { return mod_(x, Vec<T>(T(1.5))); });
}

template <class T> static void bench(const char* name) {
  double peak_flop = 0;
  for (int i = 0; i < 400; ++i) {
    const double sample = peak<T>(0.001);
    peak_flop = sample > peak_flop ? sample : peak_flop;
  }
  std::printf("== %s: peak %.1f GFLOP/s on one core\n", name, peak_flop * 1e-9);
  const std::string only = filter;
  if (only.empty() || only == "product") bench_products<T>(peak_flop);
  if (only.empty() || only == "outer") bench_outer<T>(peak_flop);
  if (only.empty() || only == "math") bench_math<T>();
}

int main(int argc, char** argv) {
  if (argc > 1) filter = argv[1];
  bench<float>("float");
  if (argc <= 2) bench<double>("double");
  return 0;
}
