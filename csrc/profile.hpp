// Where the time of calls goes, part by part. Off unless it is asked for.
#pragma once

#include <array>
#include <atomic>
#include <chrono>

namespace recurra {

// In the order of `profile_parts`.
enum class Part { packing, before, product, pointwise, after, gradients, waiting, ends, count };
constexpr std::array<const char*, static_cast<std::size_t>(Part::count)> profile_parts = {
    "packing of weights", "before the loop", "products in the loop", "pointwise in the loop", "after the loop",
    "gradients of weights", "waiting for other threads", "beginning and end"};

struct Profile {
  std::atomic<bool> on{false};
  std::array<std::atomic<long>, static_cast<std::size_t>(Part::count)> nanoseconds{};
};
extern Profile profile;

// Of one of the threads of one call: the time since the last lap goes to the part that a lap names. What is reported is
// the mean of the threads.
class Stopwatch {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Stopwatch(int threads) : on_(profile.on.load(std::memory_order_relaxed)), threads_(threads) {
    if (on_) last_ = Clock::now();
  }
  bool on() const { return on_; }
  // For a thread that took since `begin` to wake up.
  void lap_since(Clock::time_point begin, Part part) {
    last_ = begin;
    lap(part);
  }
  void lap(Part part) {
    if (!on_) return;
    const Clock::time_point now = Clock::now();
    spent_[static_cast<std::size_t>(part)] += std::chrono::nanoseconds(now - last_).count();
    last_ = now;
  }
  ~Stopwatch() {
    if (!on_) return;
    for (std::size_t i = 0; i < spent_.size(); ++i) profile.nanoseconds[i] += spent_[i] / threads_;
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  bool on_;
  int threads_;
  Clock::time_point last_;
  std::array<long, static_cast<std::size_t>(Part::count)> spent_{};
};

}  // namespace recurra
