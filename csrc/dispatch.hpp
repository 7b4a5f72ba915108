// Chooses among the engines that were built the best one that this processor runs.
#pragma once

#include <string>
#include <vector>

#include "arguments.hpp"

namespace recurra {

// Of the environment variable RECURRA_ISA when it is set, else the best. Throws std::runtime_error when that one is missing.
const Engine& engine();
// The kernels of int8 weights that run beside it.
const Int8Kernels& int8_kernels();
std::vector<std::string> available_isas();

// Checks the call, then runs it. Throws std::invalid_argument.
void run(const Plan& plan, Arguments call);
// Packs the parameters of a forward plan. Throws std::invalid_argument and std::bad_alloc.
std::unique_ptr<PackedParameters> pack(const Plan& plan, int item_size, void* const* parameters,
                                       const float* const* scales, const std::uint8_t* bfloat16);
// What many calls of this size share; null where they would run on several threads. Throws as `run` does.
std::unique_ptr<Prepared> prepare(const Plan& plan, const Arguments& call);
// Whether giving up the interpreter's lock for the call would cost more than others could do meanwhile.
inline bool is_short(const Plan& plan, const Arguments& call) {
  return static_cast<double>(call.batch) * static_cast<double>(call.time) * plan.row_cost < 2e6;
}
// Floating point operations a second of `threads` threads that do nothing but multiply and add on registers.
double peak_flops(int item_size, int threads, double seconds);

}  // namespace recurra
