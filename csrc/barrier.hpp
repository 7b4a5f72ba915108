// A barrier for threads that meet every few microseconds: spin briefly, then let others run.
#pragma once

#include <sched.h>

#include <atomic>

namespace recurra {
namespace RECURRA_ISA {

class Barrier {
 public:
  // Of more threads than there are processors, one that spins keeps another from arriving.
  void expect(int threads, int processors) { most_spins_ = threads <= processors ? 2000 : 0; }

  void wait(int threads) {
    if (threads == 1) return;
    const unsigned generation = generation_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
      arrived_.store(0, std::memory_order_relaxed);
      generation_.store(generation + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; generation_.load(std::memory_order_acquire) == generation; ++spins) {
      if (spins < most_spins_)
        pause();
      else
        sched_yield();
    }
  }

 private:
  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
  }

  int most_spins_ = 0;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> generation_{0};
};

}  // namespace RECURRA_ISA
}  // namespace recurra
