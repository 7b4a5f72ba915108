#include "dispatch.hpp"

#include "profile.hpp"

#include <omp.h>
#include <pthread.h>

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace recurra {

namespace generic { extern const Engine engine; }
#if RECURRA_HAVE_AVX2
namespace avx2 { extern const Engine engine; }
#endif
#if RECURRA_HAVE_AVX512
namespace avx512 { extern const Engine engine; }
#endif

Settings settings{Split::automatic, false};
Profile profile;

namespace {

// libgomp's threads do not survive a fork, and a parallel region in the child waits for them for ever.
std::atomic<bool> forked{false};
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, [] { forked = true; });

// Best first.
std::vector<const Engine*> available() {
  std::vector<const Engine*> engines;
#if RECURRA_HAVE_AVX512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
    engines.push_back(&avx512::engine);
#endif
#if RECURRA_HAVE_AVX2
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) engines.push_back(&avx2::engine);
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

[[noreturn]] void fail(const std::string& what) { throw std::invalid_argument(what); }

void check_item_size(int item_size) {
  if (item_size != 4 && item_size != 8) fail("item_size is " + std::to_string(item_size) + ", expected 4 or 8");
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
  if (call.batch == 0 || call.time == 0) return;
  if (plan.uses_elapsed && call.elapsed.address == nullptr) fail("the plan uses elapsed, which was not given");
  if (plan.tape_columns > 0 && call.tape == nullptr) fail("the plan uses a tape, which was not given");
}

}  // namespace

const Engine& engine() {
  static const Engine* const chosen = choose();
  return *chosen;
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Engine* engine : available()) names.emplace_back(engine->name);
  return names;
}

void run(const Plan& plan, Arguments call) {
  check(plan, call);
  if (forked.load(std::memory_order_relaxed)) call.threads = 1;
  engine().run(plan, call);
}

std::unique_ptr<Prepared> prepare(const Plan& plan, const Arguments& call) {
  check(plan, call);
  if (plan.direction == Direction::backward || call.packed == nullptr || call.lengths != nullptr || call.reset != nullptr)
    fail("only forward calls with packed parameters, without lengths and resets, can be prepared");
  return engine().prepare(plan, call);
}

std::unique_ptr<PackedParameters> pack(const Plan& plan, int item_size, void* const* parameters) {
  check_item_size(item_size);
  if (plan.direction == Direction::backward) fail("parameters of a backward plan cannot be packed ahead");
  Arguments call{};
  call.item_size = item_size;
  call.batch = call.time = call.threads = 1;
  call.parameters = parameters;
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
