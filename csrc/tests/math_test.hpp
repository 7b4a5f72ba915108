// The accuracy of the functions on vectors, in units in the last place, against the C library in a wider type.
#pragma once

template <class T> using Wide = std::conditional_t<std::is_same_v<T, float>, double, long double>;
template <class T> using Bits = std::conditional_t<std::is_same_v<T, float>, uint32_t, uint64_t>;

template <class T> static T number_of(Bits<T> bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Numbers of every sign and exponent, denormals and NaN included, and the places where the functions change.
template <class T> static std::vector<T> points(long count) {
  const T infinity = std::numeric_limits<T>::infinity(), least = std::numeric_limits<T>::denorm_min();
  std::vector<T> result{T(0), T(-0.0), infinity, -infinity, std::numeric_limits<T>::quiet_NaN(), least, -least,
                        T(1), T(-1),   T(2),     T(0.5)};
  result.push_back(std::numeric_limits<T>::max()), result.push_back(-std::numeric_limits<T>::max());
  result.push_back(std::numeric_limits<T>::min()), result.push_back(-std::numeric_limits<T>::min());
  const Bits<T> step = ~Bits<T>(0) / Bits<T>(count) | 1;
  for (long i = 0; i < count; ++i) result.push_back(number_of<T>(Bits<T>(i) * step));
  const double edge = sizeof(T) == 4 ? 110 : 760;
  for (long i = 0; i < count; ++i) result.push_back(T(uniform(-edge, edge)));
  for (long i = 0; i < count; ++i) result.push_back(T(uniform(-3, 3)));
  for (long i = 0; i < count; ++i) result.push_back(T(std::exp2(uniform(-40, 20)) * (i % 2 ? 1 : -1)));
  for (long i = 0; i < count / 4; ++i) {
    result.push_back(T(i * 1.57079632679489661923));
    result.push_back(T(i * 0.34657359027997265471));
    result.push_back(T(1 + double(i) * std::numeric_limits<T>::epsilon() / 2));
    result.push_back(T(1 - double(i) * std::numeric_limits<T>::epsilon() / 2));
  }
  while (result.size() % Vec<T>::V) result.push_back(T(1));
  return result;
}

// The distance in units in the last place of the exact result; of the smallest denormal below the normal numbers.
template <class T> static double distance(T got, Wide<T> exact) {
  const double failure = 1e30;
  if (std::isnan(exact)) return std::isnan(got) ? 0 : failure;
  if (std::isnan(got)) return failure;
  const T rounded = T(exact);
  if (std::isinf(rounded) || std::isinf(got)) {
    if (std::isinf(exact) || std::isinf(rounded) != std::isinf(got)) {
      const Wide<T> border = std::numeric_limits<T>::max();
      const bool near =
          !std::isinf(exact) && std::fabs(std::fabs(exact) / border - 1) < 4 * std::numeric_limits<T>::epsilon();
      return same(got, rounded) || near ? 0 : failure;
    }
    return std::signbit(got) == std::signbit(rounded) ? 0 : failure;
  }
  if (exact == 0) return got == 0 && std::signbit(got) == std::signbit(exact) ? 0 : failure;
  int exponent;
  std::frexp(exact, &exponent);
  const int lowest = std::numeric_limits<T>::min_exponent, digits = std::numeric_limits<T>::digits;
  const Wide<T> unit = std::ldexp(Wide<T>(1), (exponent < lowest ? lowest : exponent) - digits);
  return double(std::fabs(Wide<T>(got) - exact) / unit);
}

template <class T, class F, class R>
static void sweep(const char* type, const char* name, const std::vector<T>& x, double limit, F function, R reference) {
  double worst = 0;
  T worst_x = 0, worst_y = 0;
  for (size_t i = 0; i < x.size(); i += Vec<T>::V) {
    T y[Vec<T>::V];
    Vec<T>::store(y, function(Vec<T>::load(&x[i])));
    for (long lane = 0; lane < Vec<T>::V; ++lane) {
      const double error = distance<T>(y[lane], reference(Wide<T>(x[i + lane])));
      if (error > worst) worst = error, worst_x = x[i + lane], worst_y = y[lane];
    }
  }
  std::printf("%-8s %-10s %5.2f ulp at most, at %.9g, in %zu points\n", type, name, worst, double(worst_x), x.size());
  CHECK(worst <= limit, "%s(%.17g) = %.17g: %g ulp", name, double(worst_x), double(worst_y), worst);
}

template <class T> static T numpy_mod(T a, T b) {
  T r = std::fmod(a, b);
  if (r == 0) return std::copysign(T(0), b);
  return (r < 0) != (b < 0) ? r + b : r;
}

template <class T> static void test_mod() {
  const std::vector<T> a = points<T>(20000);
  std::vector<T> b = a, rest(Vec<T>::V);
  std::shuffle(b.begin(), b.end(), generator);
  for (size_t i = 0; i < b.size(); i += 3) b[i] = T(uniform(-4, 4));
  for (size_t i = 1; i < b.size(); i += 3) b[i] = T(std::exp2(uniform(-3, 3))) * a[i];
  long wrong = 0;
  for (size_t i = 0; i < a.size(); i += Vec<T>::V) {
    Vec<T>::store(rest.data(), mod_(Vec<T>::load(&a[i]), Vec<T>::load(&b[i])));
    for (long lane = 0; lane < Vec<T>::V; ++lane) {
      const T expected = numpy_mod(a[i + lane], b[i + lane]), got = rest[lane];
      const bool right = std::isnan(expected) ? std::isnan(got) : same(got, expected);
      if (!right && ++wrong <= 3)
        std::printf("mod(%.17g, %.17g) = %.17g, not %.17g\n", double(a[i + lane]), double(b[i + lane]), double(got),
                    double(expected));
    }
  }
  CHECK(wrong == 0, "mod: %ld", wrong);
}

#define ON_VECTORS(name) [](Vec<T> v) __attribute__((always_inline)) { return name(v); }

template <class T> static void test_math(const char* type, long count) {
  using W = Wide<T>;
  const std::vector<T> x = points<T>(count);
  sweep(type, "exp", x, 4, ON_VECTORS(exp_), [](W v) { return std::exp(v); });
  sweep(type, "sigmoid", x, 4, ON_VECTORS(sigmoid_), [](W v) {
    const W e = std::exp(-std::fabs(v));
    return (v < 0 ? e : W(1)) / (1 + e);
  });
  sweep(type, "tanh", x, 4, ON_VECTORS(tanh_), [](W v) { return std::tanh(v); });
  sweep(type, "expm1", x, 4, ON_VECTORS(expm1_), [](W v) { return std::expm1(v); });
  sweep(type, "log", x, 4, ON_VECTORS(log_), [](W v) { return std::log(v); });
  sweep(type, "log1p", x, 4, ON_VECTORS(log1p_), [](W v) { return std::log1p(v); });
  sweep(type, "softplus", x, 4, ON_VECTORS(softplus_),
        [](W v) { return (v < 0 ? W(0) : v) + std::log1p(std::exp(-std::fabs(v))); });
  sweep(type, "rsqrt", x, 4, ON_VECTORS(rsqrt_), [](W v) { return 1 / std::sqrt(v); });
  sweep(type, "sqrt", x, 0.5, ON_VECTORS(sqrt_), [](W v) { return std::sqrt(v); });
  sweep(type, "sin", x, 4, ON_VECTORS(sin_), [](W v) { return std::sin(v); });
  sweep(type, "cos", x, 4, ON_VECTORS(cos_), [](W v) { return std::cos(v); });
  sweep(type, "floor", x, 0, ON_VECTORS(floor_), [](W v) { return std::floor(v); });
  test_mod<T>();
}
