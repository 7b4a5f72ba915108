// The gradients of parameters: sums over all rows of a chunk, each thread a part of the results.
#pragma once

#include "worker.hpp"

namespace recurra {
namespace RECURRA_ISA {

template <class T> class Gradients {
 public:
  Gradients(Problem<T>& problem, Worker<T>& worker, int index, int threads)
      : p_(problem), s_(problem.scratch[index]), worker_(worker), index_(index), threads_(threads) {}

  void clear() {
    for (std::size_t i = 0; i < p_.plan.parameters.size(); ++i) {
      if (!p_.call.grad_parameters[i]) continue;
      const Parameter& parameter = p_.plan.parameters[i];
      const Range mine = share_of(parameter.rows * larger(parameter.columns, 1), row_unit, index_, threads_);
      std::memset(p_.grad_parameter(static_cast<int>(i)) + mine.begin, 0, sizeof(T) * (mine.end - mine.begin));
    }
  }

  // All threads have left `post`; on return the chunk's buffers may be overwritten.
  void add(const Extent& all) {
    const long rows = worker_.count_rows(all);
    if (rows == 0) return;
    pack(all, rows);
    p_.barrier.wait(threads_);
    for (const Phase& phase : p_.plan.sections[section_gradients]) {
      if (phase.type == PhaseType::rowsum) rowsum(p_.plan.rowsums[phase.index], all, rows);
      if (phase.type == PhaseType::outer) outer(phase.index, all, rows);
    }
    p_.barrier.wait(threads_);
  }

 private:
  static constexpr long row_tile = 12;

  void gather(const Segment& segment, const Extent& all, long rows) {
    worker_.gather(segment.reference, all, all.steps.begin, 0, rows, s_.a);
  }

  // Hands what b is packed into to `use`, as what its elements are.
  template <class Use> void with_outer(int parameter, T* packed, const Use& use) const {
    if constexpr (sizeof(T) == sizeof(float))
      if (p_.rounds_products(parameter)) return use(reinterpret_cast<Pair*>(packed));
    use(packed);
  }

  void pack(const Extent& all, long rows) {
    long operand = 0;
    for (const OuterPhase& outer : p_.plan.outers)
      for (const Segment& b : outer.b) {
        T* packed = p_.outer_pack + p_.outer_offset[operand++];
        if (!p_.call.grad_parameters[outer.parameter]) continue;
        const Range mine = share_of(Outer<T>::panels(b.length), 1, index_, threads_);
        if (mine.empty()) continue;
        gather(b, all, rows);
        with_outer(outer.parameter, packed, [&](auto* p) {
          Outer<T, std::decay_t<decltype(*p)>>::pack_b(rows, s_.a, b.length, p, mine.begin, mine.end);
        });
      }
  }

  void outer(int index, const Extent& all, long rows) {
    long operand = 0;
    for (int i = 0; i < index; ++i) operand += static_cast<long>(p_.plan.outers[i].b.size());
    const OuterPhase& phase = p_.plan.outers[index];
    if (!p_.call.grad_parameters[phase.parameter]) return;
    const long columns = p_.plan.parameters[phase.parameter].columns;
    for (const Segment& a : phase.a) {
      const Range mine = share_of(a.length, row_tile, index_, threads_);
      if (mine.empty()) continue;
      gather(a, all, rows);
      for (std::size_t j = 0; j < phase.b.size(); ++j) {
        const Segment& b = phase.b[j];
        T* g = p_.grad_parameter(phase.parameter) + a.begin * columns + b.begin;
        with_outer(phase.parameter, p_.outer_pack + p_.outer_offset[operand + static_cast<long>(j)], [&](auto* p) {
          Outer<T, std::decay_t<decltype(*p)>>::accumulate(rows, s_.a, mine.begin, mine.end, p, b.length, g, columns);
        });
      }
    }
  }

  void rowsum(const RowsumPhase& phase, const Extent& all, long rows) {
    using V = Vec<T>;
    if (!p_.call.grad_parameters[phase.parameter]) return;
    const Segment& segment = phase.segment;
    const Range mine = share_of(segment.length, row_unit, index_, threads_);
    if (mine.empty()) return;
    gather(segment, all, rows);
    T* g = p_.grad_parameter(phase.parameter) + segment.begin;
    long j = mine.begin;
    for (; j + 4 * V::V <= mine.end; j += 4 * V::V) {
      V sum[4] = {V(T(0)), V(T(0)), V(T(0)), V(T(0))};
      for (long r = 0; r < rows; ++r)
        for (int i = 0; i < 4; ++i) sum[i] = sum[i] + V::load(s_.a[r] + j + i * V::V);
      for (int i = 0; i < 4; ++i) V::store(g + j + i * V::V, V::load(g + j + i * V::V) + sum[i]);
    }
    for (; j < mine.end; j += V::V) {
      const long n = smaller(V::V, mine.end - j);
      V sum(T(0));
      for (long r = 0; r < rows; ++r) sum = sum + V::load_partial(s_.a[r] + j, n);
      V::store_partial(g + j, V::load_partial(g + j, n) + sum, n);
    }
  }

  Problem<T>& p_;
  Scratch<T>& s_;
  Worker<T>& worker_;
  int index_, threads_;
};

}  // namespace RECURRA_ISA
}  // namespace recurra
