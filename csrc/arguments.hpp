// What a call hands to the engine: raw addresses, whose shapes and types the Python layer has checked.
#pragma once

#include <cstdint>
#include <memory>

#include "int8_kernels.hpp"
#include "plan.hpp"

namespace recurra {

// Element (b, t, j) of a caller's array is address[b * batch_stride + t * time_stride + j]; address null: not given.
struct Strided {
  void* address;
  long batch_stride, time_stride;
};

// The matrices of a plan's parameters, packed once, for calls in which they never change.
struct PackedParameters {
  virtual ~PackedParameters() = default;
};

// What is done with a parameter: Arguments::bfloat16. It holds bits of bfloat16 for weights and both, else floats.
enum Bfloat16Use : std::uint8_t {
  bfloat16_none,
  bfloat16_weights,
  bfloat16_both,      // the vectors that it multiplies are rounded
  bfloat16_products,  // it is rounded, too, in each of its products and in those that make its gradient
  bfloat16_uses
};

struct Arguments {
  int item_size;
  long batch, time;
  int threads;
  Strided x, elapsed;
  Strided output;         // y, or its cotangent in a backward plan
  Strided grad_input, grad_elapsed;
  const std::int64_t* lengths;
  const std::uint8_t* reset;
  void* tape;
  void* const* parameters;
  const float* const* scales;  // null: no parameter is int8; scales[i] not null: parameter i is, with one scale a row
  const Int8Kernels* int8;
  const std::uint8_t* bfloat16;  // null: no parameter is bfloat16; else of each one a Bfloat16Use
  void* const* initial;
  void* const* final;     // the final states, or their cotangents (null: zero) in a backward plan
  void* const* grad_initial;
  void* const* grad_parameters;  // null: not wanted
  bool accumulate;               // adds to grad_parameters instead of setting them
  const PackedParameters* packed;  // of the same plan and item size; null: matrices are packed for the call
};

// Everything of a call on one thread that does not depend on where its arrays lie, for calls of the same size: they may have
// neither lengths nor resets. Not for two threads at once.
struct Prepared {
  virtual ~Prepared() = default;
  virtual void run(const Arguments&) = 0;
};

enum class Split { automatic, rows, columns };

// How a run may be changed for tests and measurements; never its results.
struct Settings {
  Split split;
  bool poison;  // fill the work memory with NaN before each run
};
extern Settings settings;

// The engine compiled for one instruction set.
struct Engine {
  const char* name;
  bool has_pairs;  // products of bfloat16 by bfloat16 have instructions
  void (*run)(const Plan&, const Arguments&);
  std::unique_ptr<PackedParameters> (*pack)(const Plan&, const Arguments&);  // reads item_size and parameters
  // Null for a call that several threads would share. Reads the sizes, the parameters and `packed`.
  std::unique_ptr<Prepared> (*prepare)(const Plan&, const Arguments&);
  double (*peak)(int item_size, double seconds);
};

}  // namespace recurra
