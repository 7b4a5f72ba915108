#include "dispatch.hpp"

#include "profile.hpp"

#include <omp.h>
#include <pthread.h>

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace recurra {

namespace generic {
extern const Engine engine;
extern const Int8Kernels int8_kernels;
}  // namespace generic
#if RECURRA_HAVE_AVX2
namespace avx2 {
extern const Engine engine;
extern const Int8Kernels int8_kernels;
}  // namespace avx2
#endif
#if RECURRA_HAVE_AVX512
namespace avx512 {
extern const Engine engine;
extern const Int8Kernels int8_kernels;
}  // namespace avx512
namespace avx512vnni { extern const Int8Kernels int8_kernels; }
#if RECURRA_HAVE_AVX512BF16
namespace avx512bf16 {
extern const Engine engine;
extern const Int8Kernels int8_kernels;
}  // namespace avx512bf16
#endif
#endif

Settings settings{Split::automatic, false};
Profile profile;

namespace {

// libgomp's threads do not survive a fork, and a parallel region in the child waits for them for ever.
std::atomic<bool> forked{false};
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, [] { forked = true; });

#if RECURRA_HAVE_AVX2
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif
#if RECURRA_EMULATED
bool has_avx512() { return has_avx2(); }
bool has_vnni() { return true; }
bool has_avx512bf16() { return has_avx2(); }
#elif RECURRA_HAVE_AVX512
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
}
bool has_vnni() { return __builtin_cpu_supports("avx512vnni"); }
#if RECURRA_HAVE_AVX512BF16
bool has_avx512bf16() { return has_avx512() && has_vnni() && __builtin_cpu_supports("avx512bf16"); }
#endif
#endif

// Best first.
std::vector<const Engine*> available() {
  std::vector<const Engine*> engines;
#if RECURRA_HAVE_AVX512BF16
  if (has_avx512bf16()) engines.push_back(&avx512bf16::engine);
#endif
#if RECURRA_HAVE_AVX512
  if (has_avx512()) engines.push_back(&avx512::engine);
#endif
#if RECURRA_HAVE_AVX2
  if (has_avx2()) engines.push_back(&avx2::engine);
#endif
  engines.push_back(&generic::engine);
  return engines;
}

const Engine* choose() {
  const char* wanted = std::getenv("RECURRA_ISA");
  const std::vector<const Engine*> engines = available();
  if (wanted == nullptr || *wanted == '\0') return engines.front();
  std::string names;
  for (const Engine* engine : engines) {
    if (std::string(wanted) == engine->name) return engine;
    names += std::string(names.empty() ? "" : ", ") + engine->name;
  }
  throw std::runtime_error(std::string("RECURRA_ISA is ") + wanted + ", expected one of what this machine and build have: " +
                           names);
}

const Int8Kernels* choose_int8() {
  const std::string isa = engine().name;
#if RECURRA_HAVE_AVX512BF16
  if (isa == avx512bf16::engine.name) return &avx512bf16::int8_kernels;
#endif
#if RECURRA_HAVE_AVX512
  if (isa == avx512::engine.name && has_vnni()) return &avx512vnni::int8_kernels;
  if (isa == avx512::engine.name) return &avx512::int8_kernels;
#endif
#if RECURRA_HAVE_AVX2
  if (isa == avx2::engine.name) return &avx2::int8_kernels;
#endif
  return &generic::int8_kernels;
}

[[noreturn]] void fail(const std::string& what) { throw std::invalid_argument(what); }

void check_item_size(int item_size) {
  if (item_size != 4 && item_size != 8) fail("item_size is " + std::to_string(item_size) + ", expected 4 or 8");
}

// What products with int8 or bfloat16 weights can compute.
void check_small(const Plan& plan, const Arguments& call) {
  if (call.scales == nullptr && call.bfloat16 == nullptr) return;
  if (call.item_size != 4)
    fail("int8 and bfloat16 come with float32, got item_size " + std::to_string(call.item_size));
  const bool infers = plan.direction == Direction::infer;
  if (call.scales != nullptr && !infers) fail("int8 weights are for infer plans");
  const auto is_int8 = [&](std::size_t i) { return call.scales != nullptr && call.scales[i] != nullptr; };
  for (std::size_t i = 0; i < plan.parameters.size(); ++i) {
    const Parameter& p = plan.parameters[i];
    const auto name = [i] { return "parameter " + std::to_string(i) + " is "; };
    const bool dense = p.columns > 0 && !p.sparse;
    if (is_int8(i) && !(dense && p.columns <= int8_most_summands))
      fail(name() + "int8, expected a dense matrix of at most " + std::to_string(int8_most_summands) + " columns");
    if (call.bfloat16 == nullptr || !call.bfloat16[i]) continue;
    if (is_int8(i)) fail(name() + "both int8 and bfloat16");
    if (call.bfloat16[i] >= bfloat16_uses) fail(name() + "bfloat16 in no known way");
    if (call.bfloat16[i] == bfloat16_products) {
      if (p.columns == 0) fail(name() + "a vector, and only matrices are multiplied in bfloat16");
      continue;
    }
    if (!dense) fail(name() + "bfloat16, expected a dense matrix");
    if (!infers) fail(name() + "bfloat16, which is for infer plans; a train or backward plan rounds products of floats");
  }
  for (const ProductPhase& product : plan.products) {
    const auto i = static_cast<std::size_t>(product.parameter);
    if (is_int8(i) && product.transposed)
      fail("parameter " + std::to_string(i) + " is int8, and a product uses it transposed");
  }
}

void check(const Plan& plan, const Arguments& call) {
  constexpr long most = 1L << 40;
  check_item_size(call.item_size);
  if (call.batch < 0 || call.time < 0 || call.batch > most || call.time > most ||
      (call.time > 0 && call.batch > most / call.time))
    fail("batch " + std::to_string(call.batch) + " and time " + std::to_string(call.time) + " are out of range");
  if (call.threads < 1) fail("threads is " + std::to_string(call.threads) + ", expected at least 1");
  for (long b = 0; call.lengths != nullptr && b < call.batch; ++b)
    if (call.lengths[b] < 0 || call.lengths[b] > call.time)
      fail("lengths[" + std::to_string(b) + "] is " + std::to_string(call.lengths[b]) + ", expected 0 to " +
           std::to_string(call.time));
  check_small(plan, call);
  if (call.batch == 0 || call.time == 0) return;
  if (plan.uses_elapsed && call.elapsed.address == nullptr) fail("the plan uses elapsed, which was not given");
  if (plan.tape_columns > 0 && call.tape == nullptr) fail("the plan uses a tape, which was not given");
}

}  // namespace

const Engine& engine() {
  static const Engine* const chosen = choose();
  return *chosen;
}

const Int8Kernels& int8_kernels() {
  static const Int8Kernels* const chosen = choose_int8();
  return *chosen;
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Engine* engine : available()) names.emplace_back(engine->name);
  return names;
}

void run(const Plan& plan, Arguments call) {
  check(plan, call);
  call.int8 = &int8_kernels();
  if (forked.load(std::memory_order_relaxed)) call.threads = 1;
  engine().run(plan, call);
}

std::unique_ptr<Prepared> prepare(const Plan& plan, const Arguments& call) {
  check(plan, call);
  if (plan.direction == Direction::backward || call.packed == nullptr || call.lengths != nullptr || call.reset != nullptr)
    fail("only forward calls with packed parameters, without lengths and resets, can be prepared");
  return engine().prepare(plan, call);
}

std::unique_ptr<PackedParameters> pack(const Plan& plan, int item_size, void* const* parameters,
                                       const float* const* scales, const std::uint8_t* bfloat16) {
  check_item_size(item_size);
  if (plan.direction == Direction::backward) fail("parameters of a backward plan cannot be packed ahead");
  Arguments call{};
  call.item_size = item_size;
  call.batch = call.time = call.threads = 1;
  call.parameters = parameters;
  call.scales = scales;
  call.bfloat16 = bfloat16;
  check_small(plan, call);
  return engine().pack(plan, call);
}

double peak_flops(int item_size, int threads, double seconds) {
  check_item_size(item_size);
  if (threads < 1 || !(seconds > 0)) fail("threads and seconds have to be positive");
  if (forked) threads = 1;
  const Engine& chosen = engine();
  double total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
  total += chosen.peak(item_size, seconds);
  return total;
}

}  // namespace recurra
