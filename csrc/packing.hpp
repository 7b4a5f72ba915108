// The matrices of a plan as its products read them.
#pragma once

#include "pair_packs.hpp"
#include "problem.hpp"

namespace recurra {
namespace RECURRA_ISA {

// Packs the part of every matrix that falls to thread `index`.
template <class T> void pack(const Problem<T>& p, int index, int threads) {
  for (std::size_t i = 0; i < p.plan.packs.size(); ++i) {
    const Pack& pack = p.plan.packs[i];
    if (p.is_int8(pack.parameter)) continue;
    if (p.is_sparse(pack.parameter)) {
      if (static_cast<int>(i) % threads == index) p.pack_sparse(static_cast<int>(i));
      continue;
    }
    const long columns = p.plan.parameters[pack.parameter].columns;
    const long row_stride = pack.transposed ? 1 : columns, column_stride = pack.transposed ? columns : 1;
    const Range mine = share_of(Product<T>::panels(pack.count), 1, index, threads);
    p.with_elements(pack.parameter, [&](const auto* matrix) {
      using Element = std::decay_t<decltype(*matrix)>;
      const Element* first = matrix + pack.begin * row_stride;
      if constexpr (sizeof(T) == sizeof(float))
        if (p.in_pairs(pack.parameter))
          return PairPacks::pack(first, row_stride, column_stride, pack.count, pack.k, static_cast<Pair*>(p.packs[i]),
                                 mine.begin, mine.end);
      Product<T, Element>::pack(first, row_stride, column_stride, pack.count, pack.k, static_cast<Element*>(p.packs[i]),
                                mine.begin, mine.end);
    });
  }
}

}  // namespace RECURRA_ISA
}  // namespace recurra
