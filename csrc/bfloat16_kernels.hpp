// The product of bfloat16 weights and bfloat16 vectors as the engine calls it, where a processor has instructions for it.
#pragma once

#include <cstdint>

namespace recurra {

// What is done with a parameter: Arguments::bfloat16.
enum Bfloat16Use : std::uint8_t { bfloat16_none, bfloat16_weights, bfloat16_both, bfloat16_uses };

// Row j stands at values + j * stride; bits of k numbers of bfloat16.
struct Bfloat16Matrix {
  const std::uint16_t* values;
  long stride, k;
};

// The same for `count` rows that are zero from k up to bfloat16_padded(k).
struct Bfloat16Rows {
  const std::uint16_t* values;
  long stride, count;
};

constexpr long bfloat16_padded(long k) { return (k + 31) / 32 * 32; }

struct Bfloat16Kernels {
  const char* name;
  // c[r][j] = (init ? init[r][j] : 0) + a[r] . m[j] for j in [begin, end), in float32.
  void (*product)(const Bfloat16Rows& a, const Bfloat16Matrix& m, const float* const* init, float* const* c, long begin,
                  long end);
};

}  // namespace recurra
