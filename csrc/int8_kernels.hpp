// The product of int8 weights as the engine calls it: it is compiled for more instruction sets than the engine.
#pragma once

#include <cstdint>

namespace recurra {

// Row j stands for values[j * stride + i] * scales[j], i < k.
struct Int8Matrix {
  const std::int8_t* values;
  long stride;
  const float* scales;
  long k;
};

// The same for `count` rows that are zero from k up to int8_padded(k).
struct Int8Rows {
  const std::int8_t* values;
  long stride;
  const float* scales;
  long count;
};

constexpr long int8_padded(long k) { return (k + 63) / 64 * 64; }
// Of more summands than these the sum may not fit in 32 bits.
constexpr long int8_most_summands = 2147483647L / (127 * 127);

struct Int8Kernels {
  const char* name;
  // q[i] = x[i] * (127 / max |x|), rounded to the nearest whole number, and zeros up to int8_padded(k). Returns what a unit
  // of q stands for: NaN where x holds a number that is not finite.
  float (*quantise)(const float* x, long k, std::int8_t* q);
  // c[r][j] = (init ? init[r][j] : 0) + a[r] . m[j] for j in [begin, end).
  void (*product)(const Int8Rows& a, const Int8Matrix& m, const float* const* init, float* const* c, long begin,
                  long end);
};

}  // namespace recurra
